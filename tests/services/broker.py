# SPDX-License-Identifier: Apache-2.0
"""The Kafka that tests share: `kafka` is the address of a real broker, one for a whole run.

It takes a second to start and stays up, so a test makes topics of its own name instead of asking
for a clean broker.  A machine without Java or the jars fails the test with the remedy.
"""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from hookline.kafka import Kafka


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def kafka(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """Host and port of a broker on loopback that creates topics on first use."""
    async with Kafka(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker.bootstrap
