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

from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import (
    IllegalSaslStateError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)
from aiokafka.protocol.metadata import MetadataRequest

from service.broker import Broker, BrokerUnavailable, one_line
from service.options import host_and_port
from service.tls import refused_by_alert, refused_certificate

ANSWER_SECONDS = 10.0
_CLOSE_SECONDS = 0.1


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
    opened = AIOKafkaConnection(host, port, request_timeout_ms=timeout_ms, **connection)
    try:
        await opened.connect()
        # A broker that wants a password answers whoever has none until he asks for something.
        await opened.send(MetadataRequest([]))
    finally:
        # The socket goes a moment later, and the loop of our caller may end before.
        await asyncio.wait([opened.close()], timeout=_CLOSE_SECONDS)


def _reason(error: Exception, broker: Broker) -> str:
    """What is wrong, and where to mend it."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return refused_certificate(error, "kafka", broker.ca_file)
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
        return refused_by_alert(ended_by, "kafka", broker.certificate_file)
    if isinstance(error, ConnectionResetError) and broker.security.endswith("ssl"):
        return "it does not speak TLS there; check its port, or kafka_security"
    if isinstance(ended_by, EOFError | ConnectionResetError):
        wants = "a password" if broker.security == "ssl" else "TLS"
        return (
            f"it ends the connection; perhaps it wants {wants}: check its port, or kafka_security"
        )
    return error.strerror or one_line(error) if isinstance(error, OSError) else one_line(error)
