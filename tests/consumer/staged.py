# SPDX-License-Identifier: Apache-2.0
"""A Kafka of three partitions and a ClickHouse server that a file of tests shares, as fixtures."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from hookline.kafka import Kafka
from schemas.dead_letter import TOPIC as DEAD_LETTERS
from tests.consumer.clickhouse_server import Server
from tests.consumer.process import create_topics
from tests.consumer.stage import TOPICS, Stage


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def broker(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Kafka]:
    async with Kafka(tmp_path_factory.mktemp("kafka"), partitions=3) as broker:
        await create_topics(broker.bootstrap, TOPICS, partitions=3)
        await create_topics(broker.bootstrap, [DEAD_LETTERS], partitions=1)
        yield broker


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("server") / "db") as server:
        yield server


@pytest_asyncio.fixture(loop_scope="module")
async def stage(broker: Kafka, server: Server, tmp_path: Path) -> Stage:
    stage = Stage(broker.bootstrap, server, tmp_path)
    await stage.begin()
    return stage
