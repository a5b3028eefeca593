# SPDX-License-Identifier: Apache-2.0
"""Tell one destination, one request after the other, for as long as it takes.

    give up what is too old -> remind of what still fires -> take a delivery -> send -> settle

A request that fails for its own sake rests while others go on; where the destination is away, all
of it rests.  Nothing but the queue is kept, so a worker may be killed anywhere.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from sqlite3 import Error as DatabaseError
from typing import Any

import aiohttp

from consumer.alerts.outlets.change import Delivery
from consumer.alerts.outlets.destination import Destination
from consumer.alerts.outlets.metrics import OutletMetrics
from consumer.alerts.outlets.pace import Bucket, pause_s
from consumer.alerts.outlets.post import Outcome, post
from consumer.alerts.outlets.queue import Queue
from consumer.patience import Patience

# What nobody announces is found so late: age, and clocks that were set.
LOOK_EVERY_S = 30.0
_NS = 1_000_000_000

log = logging.getLogger(__name__)

Run = Callable[..., Awaitable[Any]]


class Worker:
    """Serves one destination; *in_thread* runs what touches the queue."""

    def __init__(
        self, to: Destination, queue: Queue, in_thread: Run, metrics: OutletMetrics
    ) -> None:
        self._to = to
        self._queue = queue
        self._in_thread = in_thread
        self._metrics = metrics
        self._woken = asyncio.Event()
        self._is_ending = False
        self._bucket = Bucket(to.per_minute, to.burst, time.monotonic())
        self._chance = random.Random()  # noqa: S311  # it spreads load, and hides nothing
        self._failures: dict[int, int] = {}  # of each delivery that rests
        self._rests_until: dict[int, float] = {}
        self._away_until = 0.0
        self._failures_of_all = 0

    def wake(self) -> None:
        """There is something new in the queue."""
        self._woken.set()

    def end(self) -> None:
        """Begin no other request."""
        self._is_ending = True
        self._woken.set()

    async def run(self, client: aiohttp.ClientSession) -> None:
        """Work until `end`, or until cancelled."""
        patience = Patience("alerts cannot be kept", outlet=self._to.name)
        while not self._is_ending:
            self._woken.clear()
            try:
                wait_s = await self._turn(client)
            except DatabaseError as error:
                await patience.rest(str(error))
                continue
            patience = Patience("alerts cannot be kept", outlet=self._to.name)
            if wait_s > 0 and not self._is_ending:
                await self._rest(wait_s)

    async def _rest(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(min(seconds, LOOK_EVERY_S)):
                await self._woken.wait()
        except TimeoutError:
            return

    async def _turn(self, client: aiohttp.ClientSession) -> float:
        """Do the next thing; how long to wait before the one after it."""
        now_ns, now = time.time_ns(), time.monotonic()
        if lost := await self._in_thread(self._look, now_ns):
            self._metrics.lost.labels(self._to.name).inc(lost)
            log.error("alerts given up", extra={"outlet": self._to.name, "alerts": lost})
            # Some deliveries may be no more; those that are try again a little sooner.
            self._failures.clear()
            self._rests_until.clear()
        if now < self._away_until:
            return self._away_until - now
        tokens = self._bucket.tokens(now)
        if not tokens:
            return self._bucket.wait_s()
        resting = [number for number, until in self._rests_until.items() if now < until]
        delivery, next_ns = await self._in_thread(self._take, now_ns, resting, tokens)
        if delivery is None:
            return self._until_next(now_ns, next_ns, now)
        self._bucket.take()
        await self._settle(delivery, await post(client, self._to, delivery, now_ns))
        return 0.0

    def _look(self, now_ns: int) -> int:
        lost = self._queue.give_up(self._to, now_ns)
        self._queue.remind(self._to, now_ns)
        self._show()
        return lost

    def _show(self) -> None:
        waiting = self._queue.waiting(self._to)
        self._metrics.set_waiting(self._to.name, waiting.changes, waiting.oldest_ns)

    def _take(
        self, now_ns: int, resting: list[int], most: int
    ) -> tuple[Delivery | None, int | None]:
        delivery = self._queue.take(self._to, now_ns, resting=resting, most=most)
        return delivery, None if delivery else self._queue.next_ns(self._to)

    def _until_next(self, now_ns: int, next_ns: int | None, now: float) -> float:
        waits = [until - now for until in self._rests_until.values() if until > now]
        if next_ns is not None and next_ns > now_ns:
            waits.append((next_ns - now_ns) / _NS)
        return min(waits, default=LOOK_EVERY_S)

    async def _settle(self, delivery: Delivery, outcome: Outcome) -> None:
        count, name = len(delivery.changes), self._to.name
        if outcome.is_taken:
            await self._in_thread(self._queue.told, self._to, delivery, time.time_ns())
            self._metrics.sent.labels(name).inc(count)
            if delivery.is_summary:
                self._metrics.held.labels(name).inc(count)
        elif outcome.is_passing:
            self._failed(delivery, outcome)
            return
        else:
            reason = outcome.reason
            await self._in_thread(self._queue.reject, self._to, delivery, reason, time.time_ns())
            self._metrics.rejected.labels(name).inc(count)
            log.error(
                "alerts rejected",
                extra={"outlet": name, "at": self._to.shown, "alerts": count, "reason": reason},
            )
        self._failures_of_all = 0
        self._failures.pop(delivery.number, None)
        self._rests_until.pop(delivery.number, None)
        await self._in_thread(self._show)

    def _failed(self, delivery: Delivery, outcome: Outcome) -> None:
        now = time.monotonic()
        number = delivery.number
        self._metrics.retried.labels(self._to.name).inc()
        if outcome.is_away:
            self._failures_of_all += 1
            failures = self._failures_of_all
        else:
            self._failures[number] = failures = self._failures.get(number, 0) + 1
        rest_s = pause_s(failures, outcome.retry_after_s, self._chance)
        if outcome.is_away:
            self._away_until = now + rest_s
        else:
            self._rests_until[number] = now + rest_s
        log.warning(
            "outlet takes no alerts",
            extra={
                "outlet": self._to.name,
                "at": self._to.shown,
                "reason": outcome.reason,
                "again_in_s": round(rest_s, 1),
            },
        )
