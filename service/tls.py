# SPDX-License-Identifier: Apache-2.0
"""Whom we trust, and who we are, by certificates: what the options of a server come to."""

import ssl

from service.options import ConfigError

# X509_V_ERR_... of openssl/x509_vfy.h, where a server's certificate is not as it should be.
_EXPIRED = (9, 10)
_OTHER_HOST = (62, 64)


def verifying_context(
    name: str, *, ca_file: str, certificate_file: str, key_file: str
) -> ssl.SSLContext:
    """One that verifies certificates and the names in them; nothing turns that off.

    *name* is what the options of the three files begin with.

    Raises:
        ConfigError: a certificate or key cannot be used.
    """
    try:
        context = ssl.create_default_context(cafile=ca_file or None)
    except OSError as error:
        reason = f"holds no certificates of authorities: {_said(error)}"
        raise ConfigError(f"{name}_ca_file {ca_file} {reason}") from None
    if not certificate_file:
        return context
    try:
        # With a password, if a wrong one, a key that wants one is refused; else it is asked for.
        context.load_cert_chain(certificate_file, key_file or None, password="")
    except OSError as error:
        files = " and ".join(filter(None, (certificate_file, key_file)))
        raise ConfigError(
            f"{name}_certificate_file {files} is no certificate with its key, without a password:"
            f" {_said(error)}"
        ) from None
    return context


def _said(error: OSError) -> str:
    """What the TLS library says, without the places in its own code."""
    return (
        (getattr(error, "reason", None) or error.strerror or repr(error)).lower().replace("_", " ")
    )


def refused_certificate(error: ssl.SSLCertVerificationError, option: str, ca_file: str) -> str:
    """What is wrong with a server's certificate, and where to mend it.

    *option* holds the server's address; what names the authority begins likewise.
    """
    if error.verify_code in _EXPIRED:
        return f"its certificate is not valid now ({error.verify_message}); compare the clocks"
    if error.verify_code in _OTHER_HOST:
        reason = error.verify_message.rstrip(".")
        return f"{reason}; write in {option} a name that is in its certificate"
    authorities = ca_file or "the system's authorities"
    return (
        f"its certificate is signed by none of {authorities} ({error.verify_message});"
        f" name its authority's in {option}_ca_file"
    )


def refused_by_alert(error: ssl.SSLError, option: str, certificate_file: str) -> str:
    """What a server objects to in us, or that it does not speak TLS."""
    if isinstance(error, ssl.SSLEOFError):
        which = "another" if certificate_file else "a"
        return (
            f"it ends the connection; perhaps it wants {which} certificate of ours, or speaks no TLS"
            f" there: check {option}_certificate_file, or its port"
        )
    said = _said(error)
    if "alert" not in said:
        return f"it does not speak TLS there ({said}); check its port"
    if not certificate_file:
        return f"it wants a certificate of ours ({said}); name one in {option}_certificate_file"
    return (
        f"it refuses our certificate {certificate_file} ({said}): expired, or signed by an authority"
        f" that it does not trust; look at: openssl x509 -noout -issuer -enddate -in {certificate_file}"
    )
