# SPDX-License-Identifier: Apache-2.0
"""A group of consumers between one Kafka and one ClickHouse server, and what they have stored.

Several tests may share both: each has a group, which begins where the topics end, and nodes of its
own.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.structs import OffsetAndMetadata

from consumer.membership import Mark
from consumer.record import Partition
from schemas import wire
from schemas.catalogue import RECORDS
from schemas.clickhouse import DATABASE
from tests.consumer.clickhouse_server import Server
from tests.consumer.process import (
    DEADLINE_S,
    FLOWS,
    POLL_S,
    Consumer,
    has_read_everything,
    producer,
    publish,
)
from tests.schemas.batches import a_batch

TOPICS = [record.topic for record in RECORDS]
_numbers = itertools.count()


class Stage:
    """One test's consumers, batches and rows."""

    def __init__(self, kafka: str, server: Server, directory: Path) -> None:
        self.kafka = kafka
        self.server = server
        self.directory = directory
        self.node = f"stage-{next(_numbers)}"
        self.group = f"group-of-{self.node}"
        self.sent: dict[tuple[str, str, int], int] = {}

    async def begin(self) -> dict[Partition, int]:
        """Let the group begin where the topics end; these offsets."""
        async with _started(AIOKafkaConsumer(*TOPICS, bootstrap_servers=self.kafka)) as reader:
            ends = await reader.end_offsets(reader.assignment())
        found = {(one.topic, one.partition): end for one, end in ends.items()}
        await self.commit({partition: (end, "") for partition, end in found.items()})
        return found

    async def commit(self, marks: Mapping[Partition, Mark]) -> None:
        """Commit offsets with metadata, as somebody does while nobody is in the group."""
        outsider = AIOKafkaConsumer(
            bootstrap_servers=self.kafka, group_id=self.group, enable_auto_commit=False
        )
        async with _started(outsider):
            outsider.assign([TopicPartition(*one) for one in marks])
            await outsider.commit(
                {TopicPartition(*one): OffsetAndMetadata(*mark) for one, mark in marks.items()}
            )

    def consumer(
        self, *flags: str, name: str = "a", is_static: bool = True, **others: Any
    ) -> Consumer:
        return Consumer(
            self.directory,
            *("--kafka", self.kafka, "--group", self.group),
            *(("--group-instance", name) if is_static else ()),
            *("--clickhouse", self.server.url, "--max-age", "0.1", *flags),
            name=name,
            **others,
        )

    def batches(self, run: str, *seqs: int, rows: int = 10) -> list[wire.Batch]:
        """Batches of this stage's node."""
        return [a_batch(rows=rows, node=self.node, run=run, seq=seq) for seq in seqs]

    async def publish(self, *batches: wire.Batch) -> None:
        """Publish batches, of which each has to be stored once."""
        for batch in batches:
            self.sent[batch.node, batch.run, batch.seq] = batch.rows
        await publish(self.kafka, *batches)

    async def publish_to(self, partition: Partition, *batches: wire.Batch) -> None:
        """Publish batches into this partition, whatever their node."""
        topic, number = partition
        async with producer(self.kafka) as one:
            for batch in batches:
                self.sent[batch.node, batch.run, batch.seq] = batch.rows
                await one.send_and_wait(
                    topic, wire.encode(batch), batch.node.encode(), partition=number
                )

    async def until_committed(self, *consumers: Consumer) -> None:
        """Return once the ends of all topics are committed, without a consumer's death."""
        async with asyncio.timeout(DEADLINE_S):
            while not await has_read_everything(self.kafka, self.group, TOPICS):
                for one in consumers:
                    assert one.process.poll() is None, one.log
                await asyncio.sleep(POLL_S)

    def stored(self, table: str = "flows") -> dict[tuple[str, str, int], int]:
        """How many rows there are of each batch of this stage's nodes."""
        rows = self.server.rows(
            f"SELECT node, run, seq, count() FROM {DATABASE}.{table}"
            f" WHERE node = '{self.node}' OR node LIKE '{self.node}-%' GROUP BY ALL"
        )
        return {(node, run, seq): count for node, run, seq, count in rows}

    def summed(self) -> list[tuple[int, ...]]:
        """Flows, packets and bytes of this stage's nodes, as the rows and as rollups have them."""
        counted = {"flows": "count()", "flows_1m": "sum(flows)", "edges_1d": "sum(flows)"}
        return [
            tuple(
                *self.server.rows(
                    f"SELECT {flows}, sum(packets), sum(bytes) FROM {DATABASE}.{table}"
                    f" WHERE node = '{self.node}' OR node LIKE '{self.node}-%'"
                )
            )
            for table, flows in counted.items()
        ]

    def flows_partition(self, number: int) -> Partition:
        return FLOWS, number


@asynccontextmanager
async def _started(client: AIOKafkaConsumer) -> AsyncIterator[AIOKafkaConsumer]:
    await client.start()
    try:
        yield client
    finally:
        await client.stop()
