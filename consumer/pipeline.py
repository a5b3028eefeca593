# SPDX-License-Identifier: Apache-2.0
"""The order of things: source, lanes, writers.

    fetch -> decode -> lane of the topic -> writer of the table -> ClickHouse, commit

Every topic holds one kind and fills one table.  Its lane cuts the records of its partitions into
blocks, and its writer stores them one after the other, while the next ones are fetched and decoded.
A lane that has no room holds up the fetch, which is our back-pressure.

Lanes and writers live as long as an assignment of partitions.  When it ends, by a rebalance or
because we stop, they get a deadline to store what is there; what cannot be stored by then is
forgotten.  Its next owner reads it again from what is committed: see `writer.py`.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

from consumer.lane import Lane
from consumer.membership import Mark
from consumer.metrics import Metrics
from consumer.plan import NewerPlan, Plan, PlanError, plan_in
from consumer.positions import Position, Positions
from consumer.quarantine import Quarantine
from consumer.record import Partition
from consumer.sink import Sink, SinkUnavailable
from consumer.source import Fetched, Source
from consumer.writer import Lost, Writer
from schemas import layout
from schemas.flow import FLOW

FETCH_WAIT_S = 0.2
# Shorter than the group waits for us before it gives our partitions to others.
RELEASE_TIMEOUT_S = 20.0
# Decoding so much takes a few milliseconds; then writers get a turn.
TURN_BYTES = 1 << 20
TURN_RECORDS = 50

log = logging.getLogger(__name__)


class Pipeline:
    """Moves records of *kinds* from a source, given to `run`, to *sink*.

    With *sums* it sums up large blocks of flows for the rollups itself.
    """

    def __init__(
        self,
        sink: Sink,
        quarantine: Quarantine,
        metrics: Metrics,
        *,
        kinds: Sequence[layout.Record],
        max_rows: int,
        max_age_s: float,
        flow_max_age_s: float = inf,
        sums: bool = False,
    ) -> None:
        self._sink = sink
        self._quarantine = quarantine
        self._metrics = metrics
        self._kinds = {kind.topic: kind for kind in kinds}
        self._max_rows = max_rows
        self._max_age_s = max_age_s
        self._flow_max_age_s = flow_max_age_s
        self._sums = sums
        self._assignment = -1
        self._writers: dict[str, Writer] = {}
        self._writing: set[asyncio.Task[None]] = set()
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self, source: Source, stop: asyncio.Event, *, stop_timeout_s: float) -> bool:
        """Move records until *stop* is set; False where the last of them could not be stored.

        Raises whatever ends the process: an insert or a commit that cannot succeed.
        """
        moving = asyncio.create_task(self._move(source))
        stopping = asyncio.create_task(stop.wait())
        ends: set[asyncio.Future[Any]] = {moving, stopping, self._failure}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if moving.done():
            moving.result()
        moving.cancel()
        await asyncio.wait({moving})
        is_stored = not self._failure.done() and await self._end(stop_timeout_s)
        if self._failure.done():
            self._failure.result()
        if not is_stored:
            log.error(
                "stopped before everything was stored; it stays in kafka",
                extra={"deadline_s": stop_timeout_s, "rows": self._waiting_rows()},
            )
        return is_stored

    async def take_over(self, source: Source, assignment: int, positions: Positions) -> None:
        """Begin to store what *source* brings under a new assignment.

        Raises:
            SinkError: the database is not what we expect.
        """
        filled = await self._filled(
            {topic for (topic, _), position in positions.items() if not position.is_committed}
        )
        self._assignment = assignment

        async def commit(marks: Mapping[Partition, Mark]) -> bool:
            return await source.commit(marks, assignment=assignment)

        self._writers = {
            topic: Writer(
                kind,
                Lane(self._max_rows, self._max_age_of(kind)),
                sink=self._sink,
                quarantine=self._quarantine,
                metrics=self._metrics,
                commit=commit,
                sums=self._sums and kind is FLOW,
            )
            for topic, kind in self._kinds.items()
        }
        waiting = [
            partition
            for partition, position in positions.items()
            if not self._begin(partition, position, is_doubtful=partition[0] in filled)
        ]
        for partition in waiting:
            source.pause(partition)
        self._metrics.assigned_partitions.set(len(positions))
        self._metrics.waiting_partitions.set(len(waiting))
        for writer in self._writers.values():
            task = asyncio.create_task(writer.run())
            self._writing.add(task)
            task.add_done_callback(self._has_ended)

    def _max_age_of(self, kind: layout.Record) -> float:
        # An insert costs what it costs, however few rows are in it; so only those are hurried on
        # that people look at while they come.
        return min(self._max_age_s, self._flow_max_age_s) if kind is FLOW else self._max_age_s

    async def _filled(self, topics: set[str]) -> set[str]:
        """Those of *topics* whose table may hold some of what was read when offsets were lost."""
        filled = set()
        for topic in topics:
            try:
                is_empty = await self._sink.is_empty(self._kinds[topic])
            except SinkUnavailable:
                is_empty = False
            if not is_empty:
                filled.add(topic)
        return filled

    def _begin(self, partition: Partition, position: Position, *, is_doubtful: bool) -> bool:
        """Expect the records of a partition; False where it has to be left alone.

        *is_doubtful* where nothing is committed, and still some of them may be stored.
        """
        is_doubtful = is_doubtful and not position.is_committed
        plan: Plan | None = None
        try:
            plan = plan_in(position.metadata)
        except NewerPlan as newer:
            # What it tells may still be on its way into ClickHouse, and only a newer consumer
            # knows how to say it again.
            self._tell_of_plan(
                "a newer consumer's plan; its partition has to wait", partition, newer
            )
            return False
        except PlanError as error:
            # It is nothing of ours, so nothing of ours is on its way.
            self._tell_of_plan("metadata is no plan; every batch is asked for", partition, error)
            is_doubtful = True
        if plan and not _is_there(plan, position):
            reason = f"its records went from {plan.start} to {plan.end}"
            self._tell_of_plan("a planned block is gone from kafka", partition, reason)
            plan, is_doubtful = None, True
        topic, _ = partition
        self._writers[topic].lane.begin(
            partition,
            position.offset,
            log_end=position.log_end,
            plan=plan,
            # A log that ends before what was committed is read from its begin.
            is_doubtful=is_doubtful or position.offset > position.log_end,
        )
        return True

    def _tell_of_plan(self, event: str, partition: Partition, reason: object) -> None:
        topic, number = partition
        self._metrics.void_plans.labels(topic).inc()
        log.error(event, extra={"topic": topic, "partition": number, "reason": str(reason)})

    def _has_ended(self, task: asyncio.Task[None]) -> None:
        self._writing.discard(task)
        if task.cancelled() or not (error := task.exception()):
            return
        if isinstance(error, Lost):
            log.warning("partitions moved; their next owner goes on where we were")
        elif not self._failure.done():
            self._failure.set_exception(error)

    async def release(self) -> None:
        """Store and commit what waits before its partitions move; forget the rest."""
        if not await self._end(RELEASE_TIMEOUT_S):
            log.warning(
                "partitions revoked before everything was stored",
                extra={"deadline_s": RELEASE_TIMEOUT_S, "rows": self._waiting_rows()},
            )

    async def _end(self, timeout_s: float) -> bool:
        """End all writers, by force after *timeout_s*; whether they have stored everything."""
        writing = set(self._writing)
        for writer in self._writers.values():
            writer.finish()
        if not writing:
            return True
        _, late = await asyncio.wait(writing, timeout=timeout_s)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)
        return not late

    def _waiting_rows(self) -> int:
        return sum(writer.lane.rows for writer in self._writers.values())

    async def _move(self, source: Source) -> None:
        while True:
            fetched = await source.fetch(FETCH_WAIT_S)
            if fetched.assignment == self._assignment:
                await self._take(fetched)
            self._show_waiting(source)

    async def _take(self, fetched: Fetched) -> None:
        # A rebalance closes these writers, which then drop the rest, and puts others in their place.
        writers = self._writers
        turn_bytes = turn_records = 0
        for records in fetched.by_partition:
            for record in records:
                size_bytes = len(record.payload or b"")
                self._metrics.records.labels(record.topic).inc()
                self._metrics.payload_bytes.labels(record.topic).inc(size_bytes)
                await writers[record.topic].put(record)
                turn_bytes += size_bytes
                turn_records += 1
                if turn_bytes >= TURN_BYTES or turn_records >= TURN_RECORDS:
                    turn_bytes = turn_records = 0
                    await asyncio.sleep(0)

    def _show_waiting(self, source: Source) -> None:
        self._metrics.set_lag(source.lag())
        for topic, writer in self._writers.items():
            self._metrics.pending_rows.labels(self._kinds[topic].table).set(writer.lane.rows)


def _is_there(plan: Plan, position: Position) -> bool:
    """Whether the records of *plan* are all in the log, and the plan is about this log."""
    return plan.start == position.offset and (
        position.log_start <= plan.start and plan.end <= position.log_end
    )
