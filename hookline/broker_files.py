# SPDX-License-Identifier: Apache-2.0
"""Write the files that an embedded broker reads: its settings, its identity, its logging.

Everything that grows has a bound here: the log of records by time and by bytes, the broker's own
log by bytes.  Everything that listens does so on loopback.  Paths are relative to the directory,
where the broker runs, so that no path needs Java's escapes.
"""

import base64
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

NODE_ID = 1
MAX_RECORD_BYTES = 16 << 20
SEGMENT_BYTES = 64 << 20  # what is kept beyond the retention: a segment goes as a whole
METADATA_BYTES = 8 << 20  # the least that Kafka accepts
LOG_FILE_BYTES = 4 << 20
LOG_FILES = 3

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Retention:
    """How long records are kept, and how many bytes of them in each partition."""

    hours: int = 24
    partition_bytes: int = 1 << 30


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the broker answers clients, and where its controller answers the broker."""

    broker: int
    controller: int


def write_files(
    directory: Path,
    *,
    ports: Ports,
    partitions: int,
    retention: Retention,
    settings: Mapping[str, object],
) -> None:
    """Prepare *directory* for a start, the first or a later one; *settings* win over ours.

    Raises: OSError when the directory cannot be written.
    """
    for folder in (directory / "data", directory / "tmp"):
        folder.mkdir(parents=True, exist_ok=True)
    # A killed JVM leaves the native libraries that it unpacked.
    for leftover in (directory / "tmp").iterdir():
        leftover.unlink()
    format_once(directory / "data")
    (directory / "logging.properties").write_text(logging_properties())
    ours = server_properties(ports, partitions=partitions, retention=retention)
    (directory / "server.properties").write_text(as_properties({**ours, **settings}))


def format_once(data: Path) -> None:
    """Give the data folder its identity, unless it has one.

    This is what `kafka-storage format` leaves behind, without the JVM that it takes.  The file
    appears whole or not at all, so a start that was killed here can be repeated.
    """
    path = data / "meta.properties"
    if path.exists():
        return
    unfinished = data / "meta.properties.new"
    with unfinished.open("w") as file:
        file.write(meta_properties())
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def meta_properties() -> str:
    return as_properties(
        {
            "version": 1,
            "cluster.id": kafka_uuid(),
            "node.id": NODE_ID,
            "directory.id": kafka_uuid(),
        }
    )


def kafka_uuid() -> str:
    """Make a random identifier in Kafka's spelling: 16 bytes in URL-safe base64, unpadded."""
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")


def server_properties(ports: Ports, *, partitions: int, retention: Retention) -> dict[str, object]:
    broker, controller = f"{LOOPBACK}:{ports.broker}", f"{LOOPBACK}:{ports.controller}"
    return {
        "process.roles": "broker,controller",
        "node.id": NODE_ID,
        "controller.quorum.voters": f"{NODE_ID}@{controller}",
        "listeners": f"PLAINTEXT://{broker},CONTROLLER://{controller}",
        "advertised.listeners": f"PLAINTEXT://{broker}",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": "data",
        # Topics.
        "auto.create.topics.enable": "true",
        "num.partitions": partitions,
        "compression.type": "producer",
        "message.max.bytes": MAX_RECORD_BYTES,
        # One node: every copy is the only one.
        "default.replication.factor": 1,
        "offsets.topic.replication.factor": 1,
        "offsets.topic.num.partitions": 1,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "transaction.state.log.num.partitions": 1,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
        "share.coordinator.state.topic.num.partitions": 1,
        # Bounds.
        "log.retention.hours": retention.hours,
        "log.retention.bytes": retention.partition_bytes,
        "log.retention.check.interval.ms": 60_000,
        "log.segment.bytes": SEGMENT_BYTES,
        "socket.request.max.bytes": 2 * MAX_RECORD_BYTES,
        "queued.max.request.bytes": 4 * MAX_RECORD_BYTES,
        "metadata.log.segment.bytes": METADATA_BYTES,
        "metadata.max.retention.bytes": METADATA_BYTES,
        # No note that the controller is alive, twice a second, to a quorum of itself: a third
        # of the 3 % of a core that an idle broker takes.
        "metadata.max.idle.interval.ms": 0,
        # The default of 128 MiB is half of the heap; compacted topics here are small.
        "log.cleaner.dedupe.buffer.size": 4 << 20,
        # A consumer group of one need not wait for others.
        "group.initial.rebalance.delay.ms": 0,
        # A killed broker is let in again when its session ends: 2 s, where the default is 9.
        "broker.session.timeout.ms": 2000,
        "broker.heartbeat.interval.ms": 500,
        # One machine's flows keep few threads busy.
        "num.network.threads": 2,
        "num.io.threads": 2,
        "background.threads": 2,
    }


def logging_properties() -> str:
    handler = "java.util.logging.FileHandler"
    return as_properties(
        {
            "handlers": handler,
            ".level": "WARNING",
            # Each start opens file 0 anew; what was there moves to 1, and 1 to 2.
            f"{handler}.pattern": "kafka.%g.log",
            f"{handler}.limit": LOG_FILE_BYTES,
            f"{handler}.count": LOG_FILES,
            f"{handler}.formatter": "java.util.logging.SimpleFormatter",
            "java.util.logging.SimpleFormatter.format": "%1$tFT%1$tT.%1$tL %4$s %5$s%6$s%n",
        }
    )


def as_properties(settings: Mapping[str, object]) -> str:
    return "".join(f"{key}={value}\n" for key, value in settings.items())
