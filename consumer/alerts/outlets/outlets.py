# SPDX-License-Identifier: Apache-2.0
"""Deliver changes of alerts to every destination that wants them, and lose none.

deliver -> queue on disk -> one worker a destination -> Alertmanager, webhook, chat
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from sqlite3 import Error as DatabaseError
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry

from consumer.alerts.alert import Alert
from consumer.alerts.outlets.database import QueueError
from consumer.alerts.outlets.destination import Destination
from consumer.alerts.outlets.metrics import OutletMetrics
from consumer.alerts.outlets.options import destinations_in
from consumer.alerts.outlets.post import session
from consumer.alerts.outlets.queue import Queue
from consumer.alerts.outlets.worker import Worker

LAST_REQUEST_S = 5.0

T = TypeVar("T")
log = logging.getLogger(__name__)


def outlets_of(
    section: Mapping[str, Any], folder: Path, registry: CollectorRegistry | None = None
) -> "Outlets":
    """The outlets that the tables `outlet` of *section* describe; *folder* holds their queue.

    Raises:
        ConfigError: one of them cannot be used; the text is one line that names it.
    """
    return Outlets(destinations_in(section), folder, registry or CollectorRegistry())


class Outlets:
    """All destinations of alerts, from `start` to `stop`."""

    def __init__(
        self, destinations: Sequence[Destination], folder: Path, registry: CollectorRegistry
    ) -> None:
        self.destinations = tuple(destinations)
        self._folder = folder
        self._metrics = OutletMetrics([to.name for to in destinations], registry)
        self._thread: ThreadPoolExecutor
        self._queue: Queue
        self._workers: list[Worker] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Open the queue and go on with what it holds.

        Raises:
            QueueError: it cannot be opened.
        """
        # SQLite's connection belongs to one thread, and so do its waits for the disk.
        self._thread = ThreadPoolExecutor(1, "outlets")
        try:
            self._queue = await self._in_thread(Queue, self._folder)
        except QueueError:
            self._thread.shutdown()
            raise
        left = await self._in_thread(self._queue.leave, [to.name for to in self.destinations])
        for name, changes in left.items():
            log.error("alerts given up: no such outlet", extra={"outlet": name, "alerts": changes})
        for to in self.destinations:
            for path in to.exposed:
                log.warning("secret is open to every user", extra={"outlet": to.name, "path": path})
        self._client = session()
        self._workers = [
            Worker(to, self._queue, self._in_thread, self._metrics) for to in self.destinations
        ]
        self._tasks = [asyncio.create_task(one.run(self._client)) for one in self._workers]

    async def deliver(self, alerts: Sequence[Alert]) -> None:
        """Take changes of alerts; once it returns, they are on disk.

        An alert that still fires may be given again and again: a destination is told as often as
        it wants to be.

        Raises:
            QueueError: they could not be stored, and none was.
            Exception: a worker has ended, which is a fault of ours and not to be hidden.
        """
        if fault := self.failure():
            raise fault
        if not alerts or not self.destinations:
            return
        put = partial(self._queue.put, list(alerts), self.destinations, time.time_ns())
        try:
            known = await self._in_thread(put)
        except DatabaseError as error:
            raise QueueError(f"cannot keep alerts in {self._folder}: {error}") from None
        for name, count in known.items():
            self._metrics.known.labels(name).inc(count)
        for worker in self._workers:
            worker.wake()

    async def firing(self) -> list[Alert]:
        """What destinations believe to fire, or will, also by runs before this one.

        Who starts anew takes these up, or delivers that they are resolved.
        """
        return await self._in_thread(self._queue.firing)

    def failure(self) -> BaseException | None:
        """Why a worker has ended by itself, which is a fault of ours; None while all work."""
        ended = [task for task in self._tasks if task.done() and not task.cancelled()]
        return next((task.exception() for task in ended), None)

    async def stop(self) -> None:
        """End the workers and close the queue; what is left is sent by the next run."""
        for worker in self._workers:
            worker.end()
        if self._tasks:
            # A request that is cut off is sent again, so it gets a moment.
            _, late = await asyncio.wait(self._tasks, timeout=LAST_REQUEST_S)
            for task in late:
                task.cancel()
            await asyncio.wait(self._tasks)
        await self._client.close()
        await self._in_thread(self._queue.close)
        self._thread.shutdown()

    async def _in_thread(self, function: Callable[..., T], *arguments: Any) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, function, *arguments)
