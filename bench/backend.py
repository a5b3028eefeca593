# SPDX-License-Identifier: Apache-2.0
"""What stands behind the agents, each part in a process whose CPU and memory can be read.

One broker with several partitions a topic, one ClickHouse that consumers reach by HTTP, and several
consumers of one group.  ClickHouse is the embedded engine behind the small server of the tests.
"""

import asyncio
import time
import urllib.request
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.processes import cpu_seconds, memory_mb
from consumer.record import Partition
from hookline.kafka import Kafka
from hookline.topics import Topics
from schemas.catalogue import RECORDS
from schemas.clickhouse import DATABASE
from schemas.flow import FLOW
from service.broker import BrokerOptions
from tests.consumer.clickhouse_server import Server
from tests.consumer.process import Consumer

GROUP = "hookline-consumer"
TOPICS = [record.topic for record in RECORDS]
DEADLINE_S = 120.0
_POLL_S = 0.05
# When a flow was stored, finer than the table's own column tells.
STORED = "ADD COLUMN IF NOT EXISTS stored_us DateTime64(6) MATERIALIZED now64(6)"


@dataclass(slots=True)
class Backend:
    """The parts, and what one can ask them."""

    directory: Path
    kafka: Kafka
    database: Server
    topics: Topics
    consumers: list[Consumer]
    partitions: list[Partition]

    def start_consumer(self, *flags: str) -> Consumer:
        """One more, or one that takes the place of one that has ended."""
        number = len(self.consumers)
        one = Consumer(
            self.directory,
            *("--kafka", self.kafka.bootstrap, "--group", GROUP),
            *("--clickhouse", self.database.url, *flags),
            name=f"consumer-{number}",
        )
        self.consumers.append(one)
        return one

    @property
    def running(self) -> list[Consumer]:
        return [one for one in self.consumers if one.process.poll() is None]

    async def lag(self) -> int:
        """Records in Kafka that are not committed by the group."""
        spans = await self.topics.spans(self.partitions)
        committed = await self.topics.committed(GROUP)
        return sum(
            span.stop - max(span.start, committed.get(partition, 0))
            for partition, span in spans.items()
        )

    async def until_stored(self) -> float:
        """Return once everything is stored and committed: how many seconds that took."""
        began_s = time.monotonic()
        async with asyncio.timeout(DEADLINE_S):
            while await self.lag():
                for one in self.running:
                    assert one.process.poll() is None, one.log
                await asyncio.sleep(_POLL_S)
        return time.monotonic() - began_s

    def cpu_s(self) -> dict[str, float]:
        """Seconds of a CPU that each part has taken so far."""
        return {
            "broker": cpu_seconds(self.kafka.pid),
            "consumers": sum(cpu_seconds(one.process.pid) for one in self.running),
            "clickhouse": cpu_seconds(self.database.pid),
        }

    def resident_mb(self) -> dict[str, float]:
        of_consumers = [memory_mb(one.process.pid)["Rss"] for one in self.running]
        return {
            "broker": memory_mb(self.kafka.pid)["Rss"],
            "consumer": max(of_consumers, default=0.0),
            "clickhouse": memory_mb(self.database.pid)["Rss"],
        }

    def kafka_bytes(self) -> int:
        """What the logs of our topics take on the disk; their indexes are sparse files."""
        logs = (self.kafka.directory / "data").glob("hookline.*/*")
        return sum(one.stat().st_blocks * 512 for one in logs)

    def inserts(self) -> int:
        """How many blocks ClickHouse was sent."""
        return sum(self.database.asked(f"insert.{record.table}") for record in RECORDS)

    def execute(self, statement: str) -> None:
        """Have ClickHouse do something that returns nothing."""
        url = f"{self.database.url}/"
        request = urllib.request.Request(url, data=statement.encode())  # noqa: S310  # loopback
        with urllib.request.urlopen(request) as answer:  # noqa: S310
            answer.read()


@asynccontextmanager
async def a_backend(
    directory: Path, *, partitions: int, consumers: int, flags: Sequence[str] = ()
) -> AsyncIterator[Backend]:
    """All of it, with that many consumers which have their partitions."""
    async with Kafka(directory / "kafka", partitions=partitions) as kafka:
        broker = BrokerOptions(kafka=kafka.bootstrap).broker("hookline-bench")
        with Server(directory / "clickhouse") as database:
            async with Topics(broker) as topics:
                backend = Backend(directory, kafka, database, topics, [], [])
                try:
                    # The first one makes topics and tables, which others then find.
                    await backend.start_consumer(*flags).until_ready()
                    for _ in range(consumers - 1):
                        backend.start_consumer(*flags)
                    await asyncio.gather(*(one.until_ready() for one in backend.consumers))
                    backend.partitions = await topics.partitions(TOPICS)
                    backend.execute(f"ALTER TABLE {DATABASE}.{FLOW.table} {STORED}")
                    yield backend
                finally:
                    for one in backend.running:
                        one.kill()
