# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: RUF009  # option() and secret() return dataclass fields
"""How to reach the Kafka brokers: the options, and the words of the Kafka client library."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.options import ConfigError, Secret, host_and_port, option, secret
from service.tls import verifying_context

KAFKA = "Kafka"
SECURITY = ("plaintext", "ssl", "sasl_plaintext", "sasl_ssl")
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
# Options that mean something only where kafka_security has this in its name.
_NEEDED = {
    "kafka_ca_file": "ssl",
    "kafka_certificate_file": "ssl",
    "kafka_user": "sasl",
}


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
    client_id: str

    def connection(self) -> dict[str, Any]:
        """The arguments that every client of this cluster takes.

        Raises:
            ConfigError: a certificate or key cannot be used.
        """
        arguments: dict[str, Any] = {
            "bootstrap_servers": self.addresses,
            "client_id": self.client_id,
            "security_protocol": self.security.upper(),
        }
        if self.security.endswith("ssl"):
            arguments["ssl_context"] = verifying_context(
                "kafka",
                ca_file=self.ca_file,
                certificate_file=self.certificate_file,
                key_file=self.key_file,
            )
        if self.security.startswith("sasl"):
            arguments["sasl_mechanism"] = self.sasl_mechanism
            arguments["sasl_plain_username"] = self.user
            arguments["sasl_plain_password"] = self.password
        return arguments


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerOptions:
    """The options by which a service finds Kafka; its own options inherit them."""

    kafka: str = option(
        "127.0.0.1:9092", "brokers to start from", group=KAFKA, metavar="HOST:PORT[,HOST:PORT]"
    )
    kafka_security: str = option(
        "plaintext",
        "how to talk to the brokers: " + ", ".join(SECURITY),
        group=KAFKA,
        metavar="HOW",
        choices=SECURITY,
    )
    kafka_ca_file: str = option(
        "",
        "certificates that sign the brokers' (default: the system's)",
        group=KAFKA,
        metavar="PEM",
    )
    kafka_certificate_file: str = option(
        "", "our certificate, where brokers ask for one", group=KAFKA, metavar="PEM"
    )
    kafka_key_file: str = option("", "its key, where it is apart", group=KAFKA, metavar="PEM")
    kafka_sasl: str = option(
        "PLAIN",
        "SASL mechanism: " + ", ".join(MECHANISMS),
        group=KAFKA,
        metavar="MECHANISM",
        choices=MECHANISMS,
    )
    kafka_user: str = option("", "SASL user", group=KAFKA, metavar="NAME")
    kafka_password_file: str = option(
        "", "file that holds the SASL password", group=KAFKA, metavar="FILE"
    )
    kafka_password: Secret = secret("SASL password", group=KAFKA)

    def check_broker(self) -> None:
        """Raises: ConfigError where an option is wrong or they do not go together."""
        for address in self.kafka.split(","):
            host_and_port(address.strip(), "kafka")
        for name in ("kafka_ca_file", "kafka_certificate_file", "kafka_key_file"):
            if (path := getattr(self, name)) and not Path(path).is_file():
                raise ConfigError(f"{name} is {path}, which is no file")
        if self.kafka_security.startswith("sasl") and not self.kafka_user:
            raise ConfigError(f"kafka_security {self.kafka_security} needs kafka_user")
        # Who asks for one of these believes that it is in force.
        for name, how in _NEEDED.items():
            if getattr(self, name) and how not in self.kafka_security:
                raise ConfigError(
                    f"{name} is given, and kafka_security {self.kafka_security} does not use it;"
                    f" choose {' or '.join(one for one in SECURITY if how in one)}"
                )
        self.broker("").connection()

    def broker(self, client_id: str) -> Broker:
        """The brokers, as the client *client_id* reaches them."""
        return Broker(
            addresses=self.kafka,
            security=self.kafka_security,
            ca_file=self.kafka_ca_file,
            certificate_file=self.kafka_certificate_file,
            key_file=self.kafka_key_file,
            sasl_mechanism=self.kafka_sasl,
            user=self.kafka_user,
            password=self.kafka_password,
            client_id=client_id,
        )


def one_line(error: Exception) -> str:
    """What a Kafka client's error says, or its name where it says nothing."""
    text = str(error).strip().partition("\n")[0].removeprefix(f"{type(error).__name__}: ")
    # The client lists the addresses as it keeps them, which is no help to anybody.
    return "no broker answers" if text.startswith("Unable to bootstrap") else text or repr(error)
