# SPDX-License-Identifier: Apache-2.0
"""A consumer of one test: its group, its node and its database, beside those of other tests.

All share one broker, so each looks at its own alone.  What was there before a test is deleted: a new
group would have to read and store all of it.
"""

import asyncio
import itertools
from collections.abc import Sequence
from pathlib import Path

import pytest_asyncio

from schemas.catalogue import RECORDS
from schemas.clickhouse import DATABASE
from schemas.dead_letter import TOPIC as DEAD_LETTERS
from tests.consumer.engine import Engine
from tests.consumer.process import (
    DEADLINE_S,
    POLL_S,
    Consumer,
    create_topics,
    delete_everything,
    has_read_everything,
)

TOPICS = [record.topic for record in RECORDS]
_numbers = itertools.count()


class Place:
    """One test's names: its group, its node and its database."""

    def __init__(self, kafka: str, directory: Path) -> None:
        self.kafka = kafka
        self.directory = directory
        self.node = f"node-{next(_numbers)}"
        self.group = f"group-of-{self.node}"
        self.database = directory / "db"

    def consumer(self, *flags: str, name: str = "consumer", run_by: Sequence[str] = ()) -> Consumer:
        return Consumer(
            self.directory,
            *("--kafka", self.kafka, "--group", self.group, "--group-instance", name),
            *("--clickhouse", f"chdb://{self.database}", "--max-age", "0.2", *flags),
            name=name,
            run_by=run_by,
        )

    async def store_everything(self) -> None:
        """Run a consumer until nothing is left to read."""
        with self.consumer() as consumer:
            await self.until_read(consumer)
            assert await consumer.terminate() == 0

    async def until_read(self, consumer: Consumer) -> None:
        """Return once everything that is in Kafka now is stored, or a dead letter."""
        await consumer.until_ready()
        async with asyncio.timeout(DEADLINE_S):
            while not await has_read_everything(self.kafka, self.group, TOPICS):
                assert consumer.process.poll() is None, consumer.log
                await asyncio.sleep(POLL_S)

    def engine(self) -> Engine:
        return Engine(self.database)

    def tables(self) -> set[str]:
        with self.engine() as engine:
            query = f"SELECT groupArray(name) FROM system.tables WHERE database = '{DATABASE}'"
            return set(engine.value(query))

    def stored(self, what: str = "count()", table: str = "flows", node: str = "") -> object:
        with self.engine() as engine:
            return engine.value(
                f"SELECT {what} FROM {DATABASE}.{table} WHERE node LIKE '{node or self.node}'"
            )


@pytest_asyncio.fixture
async def place(kafka: str, tmp_path: Path) -> Place:
    # What comes into being while a group reads makes its partitions move.
    topics = (*TOPICS, DEAD_LETTERS)
    await create_topics(kafka, topics, partitions=1)
    await delete_everything(kafka, *topics)
    return Place(kafka, tmp_path)
