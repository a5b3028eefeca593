# SPDX-License-Identifier: Apache-2.0
"""What keeps the history of one machine: Kafka, and the consumer with the ClickHouse engine.

They live in a data directory, which serves one at a time: `hookline up`, or a replay while that
does not run.
"""

import contextlib
import fcntl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hookline.backlog import GROUP, until_stored
from hookline.child import Child
from hookline.kafka import Kafka, KafkaError, claimed, free_port, refuse_taken
from hookline.settings import RUNNING_FILE

KAFKA_PORT = 9092
_STOP_SECONDS = 15.0


class StorageError(Exception):
    """The data directory cannot be used; the text is one line for a human."""


@dataclass(frozen=True, slots=True)
class Place:
    """The files below the data directory."""

    data: Path

    @property
    def kafka(self) -> Path:
        return self.data / "kafka"

    @property
    def clickhouse(self) -> Path:
        return self.data / "clickhouse"

    @property
    def spool(self) -> Path:
        return self.data / "spool"

    @property
    def running(self) -> Path:
        return self.data / RUNNING_FILE

    def log(self, name: str) -> Path:
        return self.data / f"{name}.log"


@contextlib.contextmanager
def sole_user(place: Place) -> Iterator[None]:
    """Make the data directory and hold it.

    Raises:
        StorageError: it cannot be written, or somebody else holds it.
    """
    try:
        place.data.mkdir(parents=True, exist_ok=True)
        lock = (place.data / "lock").open("w")
    except OSError as error:
        raise StorageError(
            f"cannot write {error.filename}: {error.strerror}; choose --data"
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StorageError(
                f"another hookline up uses {place.data}; choose another --data"
            ) from None
        yield


class Storage:
    """Kafka and consumer, from start to stop."""

    def __init__(
        self, place: Place, *, http_port: int, kafka_port: int, tell: Callable[[str], None]
    ) -> None:
        self._place = place
        self._tell = tell
        self._http_port = http_port
        self.kafka = Kafka(place.kafka, port=_kafka_port(kafka_port))
        self.consumer = Child("consumer", place.log("consumer"), tell)

    @property
    def url(self) -> str:
        """Where the consumer answers ClickHouse's HTTP interface."""
        return f"http://127.0.0.1:{self._http_port}"

    async def start(self) -> None:
        """Start both and return when they work."""
        await self.kafka.start()
        await self.consumer.start(
            [
                f"--kafka={self.kafka.bootstrap}",
                f"--clickhouse=chdb://{self._place.clickhouse}",
                f"--serve=127.0.0.1:{self._http_port}",
                # Whatever the environment says: we ask for this group's offsets at the end.
                f"--group={GROUP}",
                # The one member there ever is: its successor need not wait until it is given up.
                "--group-instance=up",
            ]
        )

    async def stop(self, store_seconds: float) -> int:
        """Stop both, once what was published is stored or the time is over; the exit code."""
        if self.consumer.is_running and not await until_stored(self.kafka.bootstrap, store_seconds):
            self._tell("what is in Kafka and not yet in ClickHouse is stored at the next start")
        code = await self.consumer.stop(_STOP_SECONDS)
        await self.kafka.stop()
        return code


def _kafka_port(wanted: int) -> int:
    if wanted:
        return wanted
    try:
        refuse_taken(KAFKA_PORT)
        claimed(KAFKA_PORT).close()
    except KafkaError:
        return free_port()
    return KAFKA_PORT
