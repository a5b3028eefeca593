# SPDX-License-Identifier: Apache-2.0
"""Come in at a Kafka broker once, to be able to say in one line why none lets us in.

The client library tries broker after broker and then says that it found none.  What each of them
objected to, it keeps to itself; and with TLS 1.3 a broker refuses a certificate of ours only after
the client believes that it is connected.  So this does what the library does at its start, once,
with each broker in turn.
"""

import asyncio
import ssl
from typing import Any

from aiokafka.conn import create_conn
from aiokafka.errors import (
    IllegalSaslStateError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)
from aiokafka.protocol.metadata import MetadataRequest

from service.broker import Broker, BrokerUnavailable, one_line
from service.options import host_and_port

ANSWER_SECONDS = 10.0

# X509_V_ERR_... of openssl/x509_vfy.h, where a broker's certificate is not as it should be.
_EXPIRED = (9, 10)
_OTHER_HOST = (62, 64)


async def reach(broker: Broker) -> None:
    """Return once a broker has let us in.

    Raises:
        BrokerUnavailable: none does; the text is one line that says why, by address where they
            differ.
    """
    connection = broker.connection()
    addresses = connection.pop("bootstrap_servers").split(",")
    reasons: dict[str, list[str]] = {}
    for address in map(str.strip, addresses):
        try:
            await _come_in(address, connection)
        except (OSError, KafkaError) as error:
            reasons.setdefault(_reason(error, broker), []).append(address)
        else:
            return
    if len(reasons) == 1:
        raise BrokerUnavailable(*reasons)
    raise BrokerUnavailable(
        "; ".join(f"{', '.join(where)}: {reason}" for reason, where in reasons.items())
    )


async def _come_in(address: str, connection: dict[str, Any]) -> None:
    host, port = host_and_port(address, "kafka")
    timeout_ms = int(ANSWER_SECONDS * 1000)
    opened = await create_conn(host, port, request_timeout_ms=timeout_ms, **connection)
    try:
        # A broker that wants a password answers whoever has none until he asks for something.
        await opened.send(MetadataRequest([]))
    finally:
        opened.close()


def _reason(error: Exception, broker: Broker) -> str:
    """What is wrong, and where to mend it."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _of_its_certificate(error, broker)
    if isinstance(error, SaslAuthenticationFailed):
        return (
            f"it refuses user {broker.user!r} by {broker.sasl_mechanism}: unknown there, or with"
            " another password; check kafka_user and kafka_password_file"
        )
    if isinstance(error, UnsupportedSaslMechanismError):
        return f"it does not know {broker.sasl_mechanism}; choose another kafka_sasl"
    if isinstance(error, IllegalSaslStateError):
        return "it takes no password there; check its port, or kafka_security"
    if isinstance(error, asyncio.TimeoutError):
        return f"no answer within {ANSWER_SECONDS:g} s"
    if isinstance(error, ConnectionRefusedError):
        return "no broker answers"
    ended_by = error.__cause__ or error
    if isinstance(ended_by, ssl.SSLError):
        return _of_our_certificate(ended_by, broker)
    if isinstance(error, ConnectionResetError) and broker.security.endswith("ssl"):
        return "it does not speak TLS there; check its port, or kafka_security"
    if isinstance(ended_by, EOFError | ConnectionResetError):
        wants = "a password" if broker.security == "ssl" else "TLS"
        return (
            f"it ends the connection; perhaps it wants {wants}: check its port, or kafka_security"
        )
    return error.strerror or one_line(error) if isinstance(error, OSError) else one_line(error)


def _of_its_certificate(error: ssl.SSLCertVerificationError, broker: Broker) -> str:
    if error.verify_code in _EXPIRED:
        return f"its certificate is not valid now ({error.verify_message}); compare the clocks"
    if error.verify_code in _OTHER_HOST:
        reason = error.verify_message.rstrip(".")
        return f"{reason}; write in kafka a name that is in the broker's certificate"
    authorities = broker.ca_file or "the system's authorities"
    return (
        f"its certificate is signed by none of {authorities} ({error.verify_message});"
        " name its authority's in kafka_ca_file"
    )


def _of_our_certificate(error: ssl.SSLError, broker: Broker) -> str:
    said = (error.reason or str(error)).lower().replace("_", " ")
    if "alert" not in said:
        return f"it does not speak TLS there ({said}); check its port, or kafka_security"
    if not broker.certificate_file:
        return f"it wants a certificate of ours ({said}); name one in kafka_certificate_file"
    return (
        f"it refuses our certificate {broker.certificate_file} ({said}): expired, or signed by an"
        " authority that it does not trust; look at: openssl x509 -noout -issuer -enddate -in"
        f" {broker.certificate_file}"
    )
