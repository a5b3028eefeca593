# SPDX-License-Identifier: Apache-2.0
"""The agent's publisher with batches of a test's own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from agent.backlog import Backlog
from agent.publisher import Publisher
from schemas.wire import Batch
from service.broker import Broker


class Publishing:
    """A publisher and what it has to publish."""

    def __init__(self, broker: Broker) -> None:
        self._backlog = Backlog()
        self.publisher = Publisher(broker, [self._backlog])

    def add(self, batch: Batch) -> None:
        self._backlog.add(batch)
        self.publisher.more_waits()

    @property
    def published_batches(self) -> int:
        return self.publisher.published_batches_total

    @property
    def waiting_batches(self) -> int:
        return len(self._backlog)


@asynccontextmanager
async def publishing(broker: Broker) -> AsyncIterator[Publishing]:
    """One that publishes until the end of the block."""
    made = Publishing(broker)
    made.publisher.start()
    try:
        yield made
    finally:
        await made.publisher.stop(0.1)
