# SPDX-License-Identifier: Apache-2.0
r"""The order of things: source, batch, sink, commit.

    fetch -> decode -> batch until due -> insert -> commit
                    \-> dead letter -------------/

Every topic holds one kind and fills one table.  While a table's insert runs in a thread, the
next batch of that table is fetched; one insert a table is under way, and a second that is due
waits for it, which is our back-pressure.  The offsets of a batch are committed after its rows
are stored and its rejected records are in the dead letter topic.

Shutdown: stop fetching, insert what is pending, commit; whoever owns source and sink closes
them afterwards.  When partitions are revoked the same happens, and what cannot be finished in
time is forgotten: nothing of it was committed, so their next owner reads it again.
"""

import asyncio
import logging
from collections.abc import Sequence
from time import monotonic

from consumer.batch import Batch
from consumer.metrics import Metrics
from consumer.quarantine import Quarantine
from consumer.record import Accepted, Record, Rejected
from consumer.sink import BlockRefused, Sink
from consumer.source import Fetched, Source
from schemas import layout, wire

FETCH_WAIT_S = 0.2
# Shorter than the group waits for us before it gives our partitions to others.
RELEASE_TIMEOUT_S = 20.0

log = logging.getLogger(__name__)


def judge(record: Record) -> Accepted | Rejected:
    """Decode a record, or say why it cannot be."""
    if record.fault:
        return Rejected(record, record.fault)
    if record.payload is None:
        return Rejected(record, "record has no value")
    try:
        rows = wire.decode(record.payload)
    except wire.WireError as error:
        return Rejected(record, str(error))
    if rows.record.topic != record.topic:
        return Rejected(record, f"kind {rows.kind!r} belongs into topic {rows.record.topic}")
    return Accepted(record, rows)


class Pipeline:
    """Moves records of *kinds* from a source, given to `run`, to *sink*."""

    def __init__(
        self,
        sink: Sink,
        quarantine: Quarantine,
        metrics: Metrics,
        *,
        kinds: Sequence[layout.Record],
        max_rows: int,
        max_age_s: float,
    ) -> None:
        self._sink = sink
        self._quarantine = quarantine
        self._metrics = metrics
        self._kinds = {kind.topic: kind for kind in kinds}
        self._max_rows = max_rows
        self._max_age_s = max_age_s
        self._batches: dict[str, Batch] = {}
        self._inserts: dict[str, asyncio.Task[None]] = {}
        # Held while fetched records turn into batches, so that a rebalance sees all or nothing.
        self._turn = asyncio.Lock()

    async def run(self, source: Source, stop: asyncio.Event, *, stop_timeout_s: float) -> bool:
        """Move records until *stop* is set; False where the last of them could not be stored.

        Raises whatever ends the process: an insert or a commit that cannot succeed.
        """
        self._open_batches(source.assignment)
        moving = asyncio.create_task(self._move(source))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({moving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if moving.done():
            moving.result()
        moving.cancel()
        await asyncio.wait({moving})
        try:
            async with asyncio.timeout(stop_timeout_s):
                await self._flush(source)
        except TimeoutError:
            log.error(  # noqa: TRY400  # the place in our code says nothing here
                "stopped before everything was stored; it stays in kafka",
                extra={"deadline_s": stop_timeout_s, "rows": self._pending_rows()},
            )
            return False
        return True

    async def release(self, source: Source) -> None:
        """Insert and commit what is pending before its partitions move; forget the rest."""
        try:
            async with asyncio.timeout(RELEASE_TIMEOUT_S), self._turn:
                await self._flush(source)
        except TimeoutError:
            log.warning(
                "partitions revoked before everything was stored",
                extra={"deadline_s": RELEASE_TIMEOUT_S, "rows": self._pending_rows()},
            )
        # What is fetched next belongs to the next assignment.
        self._open_batches(source.assignment + 1)

    def _open_batches(self, assignment: int) -> None:
        self._batches = {
            topic: Batch(self._max_rows, self._max_age_s, assignment) for topic in self._kinds
        }

    def _pending_rows(self) -> int:
        return sum(batch.rows for batch in self._batches.values())

    async def _move(self, source: Source) -> None:
        while True:
            fetched = await source.fetch(self._longest_wait())
            async with self._turn:
                if fetched.assignment == source.assignment:
                    await self._take(source, fetched)
                await self._insert_due(source)
            self._show_waiting(source)

    def _longest_wait(self) -> float:
        now = monotonic()
        due_in = min(batch.due_in(now) for batch in self._batches.values())
        return max(0.0, min(FETCH_WAIT_S, due_in))

    async def _take(self, source: Source, fetched: Fetched) -> None:
        # A rebalance that could not wait for us puts new batches in place of these.
        batches = self._batches
        for records in fetched.by_partition:
            verdicts = [judge(record) for record in records]
            # Their offsets are committed with the batch, so they must be safe before that.
            await self._quarantine.put([one for one in verdicts if isinstance(one, Rejected)])
            for verdict in verdicts:
                self._count(verdict)
                batch = batches[verdict.record.topic]
                if isinstance(verdict, Rejected):
                    batch.skip(verdict.record, monotonic())
                else:
                    batch.add(verdict, monotonic())
                if batch.is_full:
                    await self._start_insert(source, batches, verdict.record.topic)

    def _count(self, verdict: Accepted | Rejected) -> None:
        record = verdict.record
        self._metrics.records.labels(record.topic).inc()
        self._metrics.payload_bytes.labels(record.topic).inc(len(record.payload or b""))
        if isinstance(verdict, Rejected):
            self._metrics.rejected_records.labels(record.topic).inc()
            return
        rows = verdict.rows
        self._metrics.unknown_columns.labels(record.topic).inc(len(rows.unknown))
        self._metrics.defaulted_columns.labels(record.topic).inc(
            len(rows.record.fields) - len(rows.columns)
        )

    async def _insert_due(self, source: Source) -> None:
        batches = self._batches
        for topic, batch in batches.items():
            self._raise_if_failed(topic)
            if batch.is_due(monotonic()):
                await self._start_insert(source, batches, topic)

    def _raise_if_failed(self, topic: str) -> None:
        if (insert := self._inserts.get(topic)) and insert.done():
            insert.result()

    async def _start_insert(self, source: Source, batches: dict[str, Batch], topic: str) -> None:
        if previous := self._inserts.get(topic):
            # Waiting must not cancel it when we are cancelled.
            await asyncio.wait({previous})
            previous.result()
        batch = batches[topic]
        batches[topic] = Batch(self._max_rows, self._max_age_s, batch.assignment)
        if batch.next_offsets and batch.assignment == source.assignment:
            self._inserts[topic] = asyncio.create_task(self._store(source, topic, batch))

    async def _store(self, source: Source, topic: str, batch: Batch) -> None:
        kind = self._kinds[topic]
        started = monotonic()
        await self._insert(kind, [one for one in batch.accepted if one.rows.rows])
        seconds = monotonic() - started
        self._metrics.insert_seconds.labels(kind.table).observe(seconds)
        log.info(
            "rows inserted",
            extra={
                "table": kind.table,
                "rows": batch.rows,
                "records": len(batch.accepted),
                "seconds": round(seconds, 3),
            },
        )
        if await source.commit(batch.next_offsets, assignment=batch.assignment):
            self._metrics.commits.labels(kind.table).inc()
            log.debug("offsets committed", extra={"table": kind.table})
            return
        self._metrics.uncommitted_inserts.labels(kind.table).inc()
        log.warning(
            "partitions moved before the commit; their next owner inserts these rows again",
            extra={"table": kind.table, "rows": batch.rows},
        )

    async def _insert(self, kind: layout.Record, accepted: Sequence[Accepted]) -> None:
        """Store rows; halve what ClickHouse refuses until only the culprits are left out."""
        if not accepted:
            return
        try:
            await self._sink.insert(kind, accepted)
        except BlockRefused as refusal:
            self._metrics.refused_inserts.labels(kind.table).inc()
            if len(accepted) == 1:
                record = accepted[0].record
                reason = f"clickhouse refuses its rows: {refusal}"
                await self._quarantine.put([Rejected(record, reason)])
                self._metrics.rejected_records.labels(record.topic).inc()
                return
        else:
            self._metrics.inserted_rows.labels(kind.table).inc(
                sum(one.rows.rows for one in accepted)
            )
            return
        middle = len(accepted) // 2
        await self._insert(kind, accepted[:middle])
        await self._insert(kind, accepted[middle:])

    async def _flush(self, source: Source) -> None:
        batches = self._batches
        for topic in batches:
            await self._start_insert(source, batches, topic)
        for insert in self._inserts.values():
            await asyncio.wait({insert})
            insert.result()

    def _show_waiting(self, source: Source) -> None:
        self._metrics.set_lag(source.lag())
        for topic, batch in self._batches.items():
            self._metrics.pending_rows.labels(self._kinds[topic].table).set(batch.rows)
