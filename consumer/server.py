# SPDX-License-Identifier: Apache-2.0
"""A ClickHouse server: who we are to it, whom we trust, and why it does not let us in."""

import ssl
from dataclasses import dataclass

from service.tls import refused_by_alert, refused_certificate

_AUTHENTICATION_FAILED = 516


@dataclass(frozen=True, slots=True)
class Server:
    """Credentials and certificates; all empty where the engine is embedded."""

    user: str = ""
    password: str = ""
    ca_file: str = ""
    certificate_file: str = ""
    key_file: str = ""

    def arguments(self) -> dict[str, str]:
        """What the client library is told beside the address; it verifies certificates unasked."""
        given = {
            "username": self.user,
            "password": self.password,
            "ca_cert": self.ca_file,
            "client_cert": self.certificate_file,
            "client_cert_key": self.key_file,
        }
        if self.certificate_file:
            # Either the certificate says who we are, or it only opens the door to the password.
            given["tls_mode"] = "strict" if self.password else "mutual"
        return {name: value for name, value in given.items() if value}

    def refusal(self, error: Exception) -> str:
        """One line that says why the server did not let us in, and where to mend it."""
        for cause in _causes(error):
            if isinstance(cause, ssl.SSLCertVerificationError):
                return refused_certificate(cause, "clickhouse", self.ca_file)
            if isinstance(cause, ssl.SSLError):
                return refused_by_alert(cause, "clickhouse", self.certificate_file)
            if isinstance(cause, ConnectionRefusedError):
                return "no server answers"
        if getattr(error, "code", None) == _AUTHENTICATION_FAILED:
            return self._refused_user()
        return first_line(error)

    def _refused_user(self) -> str:
        user = f"user {self.user or 'default'!r}"
        if self.certificate_file and not self.password:
            return (
                f"it refuses {user} by certificate {self.certificate_file}; check clickhouse_user"
            )
        return (
            f"it refuses {user}: unknown there, or with another password; check clickhouse_user"
            " and clickhouse_password_file"
        )


def first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:500]


def _causes(error: BaseException | None) -> list[BaseException]:
    """An error, and what led to it: what it was raised from, or what it holds."""
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        held = [getattr(error, "reason", None), *error.args]
        inner = next((one for one in held if isinstance(one, BaseException)), None)
        error = inner or error.__cause__ or error.__context__
    return found
