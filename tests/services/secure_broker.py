# SPDX-License-Identifier: Apache-2.0
"""A broker as administrators run it: TLS, passwords, client certificates and rights, on loopback.

One broker has a listener for each way to come in, so it serves every test of a run.  Who comes by
its first one, in the clear, may do everything, which is how tests look at what happened.
"""

import asyncio
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from agent.config import Config
from consumer.quarantine import TOPIC as DEAD_LETTERS
from hookline.broker_files import LOOPBACK, as_properties, kafka_uuid
from hookline.jvm import class_path, find_java
from hookline.kafka import Kafka, free_port
from schemas.catalogue import RECORDS
from service.broker import Broker
from service.options import Secret
from tests.consumer.process import create_topics
from tests.services import acls
from tests.services.certificates import Authority

MECHANISM = "SCRAM-SHA-512"
PASSWORDS = {"agent": "kept by the agent", "consumer": "kept by the consumer"}
# How the brokers call who shows a certificate, unless they are told otherwise.
CERTIFIED = {f"User:{name}": f"User:CN={name}" for name in PASSWORDS}
_LISTENERS = {
    "PLAINTEXT": "PLAINTEXT",
    "TLS": "SSL",
    "PASSWORD": "SASL_SSL",
    "CERTIFICATE": "SSL",
    "ELSEWHERE": "SSL",
}
_PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule"
_SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule"


@dataclass(frozen=True, slots=True)
class SecureKafka:
    """Where to come in, by listener; and who signs."""

    ports: dict[str, int]
    ours: Authority
    foreign: Authority

    @property
    def plain(self) -> str:
        return self.address("PLAINTEXT")

    def address(self, listener: str) -> str:
        return f"{LOOPBACK}:{self.ports[listener]}"

    def options(self, listener: str, name: str = "agent") -> dict[str, str]:
        """What the service *name* has to be told for *listener*, as options."""
        told = {"kafka": self.address(listener), "kafka_ca_file": str(self.ours.own.pem)}
        if listener == "PASSWORD":
            return told | {
                "kafka_security": "sasl_ssl",
                "kafka_sasl": MECHANISM,
                "kafka_user": name,
                "kafka_password": PASSWORDS[name],
            }
        if listener == "CERTIFICATE":
            certificate = self.ours.signed(name)
            told["kafka_certificate_file"] = str(certificate.pem)
            told["kafka_key_file"] = str(certificate.key)
        return told | {"kafka_security": "ssl"}


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def secure_kafka(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SecureKafka]:
    """A broker that lets in whom it should, and nobody else."""
    folder = tmp_path_factory.mktemp("secure-kafka")
    certificates = tmp_path_factory.mktemp("certificates")
    ours, foreign = (Authority.made(certificates, name) for name in ("ours", "foreign"))
    ports = {listener: free_port() for listener in _LISTENERS}
    kafka = SecureKafka(ports, ours, foreign)
    settings = _settings(kafka)
    await asyncio.to_thread(_format_with_users, folder, settings)
    async with Kafka(folder, port=ports["PLAINTEXT"], settings=settings):
        await create_topics(
            kafka.plain, [*(one.topic for one in RECORDS), DEAD_LETTERS], partitions=1
        )
        await acls.give(kafka.plain, principals=CERTIFIED)
        yield kafka


def _settings(kafka: SecureKafka) -> dict[str, object]:
    addresses = ",".join(f"{name}://{kafka.address(name)}" for name in _LISTENERS)
    controller = f"{LOOPBACK}:{free_port()}"
    protocols = _LISTENERS | {"CONTROLLER": "PLAINTEXT"}
    users = " ".join(f'user_{name}="{password}"' for name, password in PASSWORDS.items())
    here = kafka.ours.signed("broker").both
    elsewhere = kafka.ours.signed("elsewhere", hosts="DNS:kafka.example").both
    return {
        "controller.quorum.voters": f"1@{controller}",
        "listeners": f"{addresses},CONTROLLER://{controller}",
        "advertised.listeners": addresses,
        "listener.security.protocol.map": ",".join(f"{a}:{b}" for a, b in protocols.items()),
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": here,
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": kafka.ours.own.pem,
        "listener.name.elsewhere.ssl.keystore.location": elsewhere,
        "listener.name.certificate.ssl.client.auth": "required",
        "sasl.enabled.mechanisms": f"{MECHANISM},PLAIN",
        "listener.name.password.plain.sasl.jaas.config": f"{_PLAIN} required {users};",
        f"listener.name.password.{MECHANISM.lower()}.sasl.jaas.config": f"{_SCRAM} required;",
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
    }


def _format_with_users(folder: Path, settings: dict[str, object]) -> None:
    """Prepare the data folder as administrators do, with the first users in it."""
    least = {
        "process.roles": "broker,controller",
        "node.id": 1,
        "controller.listener.names": "CONTROLLER",
        "log.dirs": folder / "data",
    }
    properties = folder / "format.properties"
    properties.write_text(as_properties({**least, **settings}))
    users = [
        word
        for name, password in PASSWORDS.items()
        for word in ("--add-scram", f"{MECHANISM}=[name={name},password={password}]")
    ]
    subprocess.run(
        [
            *(find_java(), "-XX:TieredStopAtLevel=1", "-cp", class_path()),
            *("kafka.tools.StorageTool", "format"),
            *("--cluster-id", kafka_uuid(), "--config", properties, *users),
        ],
        check=True,
        capture_output=True,
    )


def broker_of(options: dict[str, str]) -> Broker:
    """The brokers, as an agent that was given *options* reaches them."""
    given = {
        name: Secret(value) if "password" in name else value for name, value in options.items()
    }
    return Config(**given).broker("hookline-agent-test")
