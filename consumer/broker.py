# SPDX-License-Identifier: Apache-2.0
"""How to reach the Kafka brokers, in the words of the Kafka client library."""

import ssl
from dataclasses import dataclass
from typing import Any


class BrokerUnavailable(Exception):  # noqa: N818  # it says what the brokers are
    """Kafka cannot be reached, or does not let us in; the text is one line for a human."""


class BrokerError(Exception):
    """Kafka refused what we cannot do without; the text is one line for a human."""


@dataclass(frozen=True, slots=True)
class Broker:
    """Addresses, encryption and credentials of one Kafka cluster."""

    addresses: str
    security: str  # plaintext, ssl, sasl_plaintext or sasl_ssl
    ca_file: str
    certificate_file: str
    key_file: str
    sasl_mechanism: str
    user: str
    password: str

    def connection(self) -> dict[str, Any]:
        """The arguments that every client of this cluster takes.

        Raises:
            OSError: a certificate or key cannot be read; ssl.SSLError is one.
        """
        arguments: dict[str, Any] = {
            "bootstrap_servers": self.addresses,
            "client_id": "hookline-consumer",
            "security_protocol": self.security.upper(),
        }
        if self.security.endswith("ssl"):
            arguments["ssl_context"] = self._ssl_context()
        if self.security.startswith("sasl"):
            arguments["sasl_mechanism"] = self.sasl_mechanism
            arguments["sasl_plain_username"] = self.user
            arguments["sasl_plain_password"] = self.password
        return arguments

    def _ssl_context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.ca_file or None)
        if self.certificate_file:
            context.load_cert_chain(self.certificate_file, self.key_file or None)
        return context


def one_line(error: Exception) -> str:
    """What a Kafka client's error says, or its name where it says nothing."""
    text = str(error).strip().partition("\n")[0].removeprefix(f"{type(error).__name__}: ")
    # The client lists the addresses as it keeps them, which is no help to anybody.
    return "no broker answers" if text.startswith("Unable to bootstrap") else text or repr(error)
