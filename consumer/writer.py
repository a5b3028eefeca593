# SPDX-License-Identifier: Apache-2.0
r"""Store the blocks of one topic, one after the other, each exactly once.

    take a block -> leave out what is stored -> plan -> insert -> commit its end with the next plan
                 \-> form it again, where it is planned -/

Invariant: what stands before a partition's committed offset is settled: stored, or a dead letter.
What stands behind is not in ClickHouse, nor on its way there, except the block whose plan is
committed with the offset: of that any part may be stored, or be stored later, by us or by an owner
before us, under the one token that the plan leads to.  So rows are inserted only after their plan
is committed, which only the owner can do, and a plan is replaced only after its block is stored,
or refused.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from math import inf
from time import monotonic

from consumer.lane import Block, Lane
from consumer.membership import Mark
from consumer.metrics import Metrics
from consumer.patience import Patience
from consumer.plan import Plan, insert_token, planned
from consumer.presence import without_days
from consumer.quarantine import Quarantine
from consumer.record import Accepted, Partition, Record, Rejected, judge
from consumer.sieve import Chosen, Sieve
from consumer.sink import BlockRefused, Sink, SinkUnavailable, now_s
from schemas import layout

# An insert that has not begun so long after its plan was committed is planned again first, so a
# process that was paused for longer finds out whether the partition is still its own.
PLAN_VALID_S = 60.0
# A block of fewer rows is left to the views: they take as much CPU as inserts of our own then, and
# one request.
SUMMED_ROWS = 20_000

log = logging.getLogger(__name__)


class Lost(Exception):  # noqa: N818  # it says what they are
    """The partitions are not ours any more."""


class Writer:
    """Stores what one assignment of partitions brings of *kind*.

    *commit* commits offsets with their metadata, and tells whether the partitions are still ours.
    With *sums* large blocks are summed up here rather than by the views of the table.
    """

    def __init__(
        self,
        kind: layout.Record,
        lane: Lane,
        *,
        sink: Sink,
        quarantine: Quarantine,
        metrics: Metrics,
        commit: Callable[[Mapping[Partition, Mark]], Awaitable[bool]],
        sums: bool = False,
    ) -> None:
        self.lane = lane
        self._kind = kind
        self._sink = sink
        self._sieve = Sieve(kind, sink, metrics)
        self._quarantine = quarantine
        self._metrics = metrics
        self._commit_to_kafka = commit
        self._sums = sums
        # What is settled and not committed yet.
        self._settled: dict[Partition, Mark] = {}
        self._is_closed = False
        self._something_due = asyncio.Event()
        self._something_taken = asyncio.Event()

    async def put(self, record: Record) -> None:
        """Take a record, once there is room for it; it is dropped if the end comes first."""
        while not self._is_closed and not self.lane.has_room_for(record):
            self._something_taken.clear()
            await self._something_taken.wait()
        if self._is_closed:
            return
        is_first = self.lane.due_in(monotonic()) == inf
        if self.lane.add(record, monotonic()) or is_first:
            self._something_due.set()

    def finish(self) -> None:
        """Take nothing more, and let `run` return when all is stored."""
        self._is_closed = True
        self.lane.flush()
        self._something_due.set()
        self._something_taken.set()

    async def run(self) -> None:
        """Store blocks as they become due, until `finish` and nothing is left.

        Raises:
            Lost: the partitions are not ours any more.
            SinkError, BrokerError: a human is needed.
        """
        try:
            await self._store_all()
        finally:
            self.finish()

    async def _store_all(self) -> None:
        while True:
            self._something_due.clear()
            if block := self.lane.take(monotonic()):
                self._something_taken.set()
                await self._store(block)
                continue
            await self._commit_settled()
            if self._is_closed:
                return
            await self._until_due()

    async def _until_due(self) -> None:
        due_in = self.lane.due_in(monotonic())
        try:
            async with asyncio.timeout(None if due_in == inf else due_in):
                await self._something_due.wait()
        except TimeoutError:
            return

    async def _store(self, block: Block) -> None:
        started = monotonic()
        former = block.plan
        formed = self._formed_again(block, former) if former else None
        formed = formed or await self._formed(block)
        if not formed:
            return
        plan, chosen = formed
        # Where its plan was lost, it may be the same block by chance.
        is_repeated = plan is former or chosen.has_doubtful
        try:
            await self._insert(block.partition, plan, chosen.accepted, is_repeated=is_repeated)
        except BlockRefused as refusal:
            await self._shrink(block, chosen, refusal)
            return
        self._settled[block.partition] = (block.end, "")
        self._sieve.remember(block.partition, chosen)
        self._tell(chosen, monotonic() - started)

    async def _formed(self, block: Block) -> tuple[Plan, Chosen] | None:
        """A plan for the block and what is to be inserted; None where that is nothing, or later."""
        await self._reject(block.settle_rejected())
        chosen = await self._sieve.choose(
            block.partition,
            block.accepted,
            is_doubtful=block.is_doubtful,
            before_asking=self._commit_settled,
        )
        offsets = [one.record.offset for one in chosen.accepted]
        token = insert_token(chosen.accepted)
        rows = sum(one.rows.rows for one in chosen.accepted)
        plan = planned(
            *(block.start, block.end, token, offsets, chosen.stored_days),
            is_summed=self._sums and rows >= SUMMED_ROWS,
        )
        if not plan.fits and len(offsets) > 1:
            self.lane.put_back(block.split_at(offsets[len(offsets) // 2]))
            return None
        self._metrics.repeated_batches.labels(self._kind.topic).inc(chosen.repeated)
        if not offsets:
            self._settled[block.partition] = (block.end, "")
            return None
        return plan, chosen

    def _formed_again(self, block: Block, plan: Plan) -> tuple[Plan, Chosen] | None:
        """What the block's plan says; None, and no plan any more, where it cannot be followed."""
        verdicts = [judge(one) for one in block.records if one.offset not in plan.left_out]
        accepted = [one for one in verdicts if isinstance(one, Accepted)]
        # Other records are there, or some are gone, or this version reads them otherwise.
        if len(accepted) < len(verdicts) or not insert_token(accepted).startswith(plan.token):
            self._metrics.void_plans.labels(self._kind.topic).inc()
            log.error(
                "a planned block cannot be formed again; each of its batches is asked for instead",
                extra={**_place(block.partition), "offset": plan.start, "end": plan.end},
            )
            block.judge_all()
            self.lane.doubt(block.partition)
            return None
        self._metrics.repeated_blocks.labels(self._kind.table).inc()
        block.verdicts, block.records = list(accepted), []
        rest = [_without_stored_days(one, plan) for one in accepted]
        return plan, Chosen(rest, dict(plan.stored_days))

    async def _reject(self, rejected: Sequence[Rejected]) -> None:
        # A plan leaves them out, so they must be safe before it is committed.
        await self._quarantine.put(rejected)
        self._metrics.rejected_records.labels(self._kind.topic).inc(len(rejected))

    async def _insert(
        self, partition: Partition, plan: Plan, accepted: list[Accepted], *, is_repeated: bool
    ) -> None:
        patience = Patience("insert retried", table=self._kind.table)
        while True:
            until_s = now_s() + PLAN_VALID_S
            await self._commit({**self._settled, partition: (plan.start, plan.text())})
            try:
                await self._sink.insert(
                    self._kind, accepted, until_s=until_s, is_summed=plan.is_summed
                )
                if is_repeated:
                    await self._complete(accepted, until_s)
            except SinkUnavailable as error:
                reason = str(error)
            else:
                return
            is_repeated = True
            self._metrics.retried_inserts.labels(self._kind.table).inc()
            await patience.rest(reason)

    async def _complete(self, accepted: list[Accepted], until_s: float) -> None:
        late_s = until_s + PLAN_VALID_S
        if rows := await self._sink.complete(self._kind, accepted, until_s=late_s):
            self._metrics.restored_rows.labels(self._kind.table).inc(rows)
            log.warning(
                "clickhouse had lost rows as it was killed; they are stored again",
                extra={"table": self._kind.table, "rows": rows},
            )

    async def _shrink(self, block: Block, chosen: Chosen, refusal: BlockRefused) -> None:
        """Make two blocks of one that ClickHouse refuses; of a single record, a dead letter."""
        self._metrics.refused_inserts.labels(self._kind.table).inc()
        if len(chosen.accepted) > 1:
            # What refused it may have been a view, after the table had taken the rows.
            block.is_doubtful = True
            middle = chosen.accepted[len(chosen.accepted) // 2].record.offset
            self.lane.put_back(block.split_at(middle))
            return
        record = chosen.accepted[0].record
        await self._reject([Rejected(record, f"clickhouse refuses its rows: {refusal}")])
        self._settled[block.partition] = (block.end, "")

    async def _commit_settled(self) -> None:
        if self._settled:
            await self._commit(self._settled)

    async def _commit(self, marks: Mapping[Partition, Mark]) -> None:
        if not await self._commit_to_kafka(marks):
            self._metrics.uncommitted_inserts.labels(self._kind.table).inc(len(self._settled))
            raise Lost
        self._settled = {}
        self._metrics.commits.labels(self._kind.table).inc()
        log.debug("offsets committed", extra={"table": self._kind.table})

    def _tell(self, chosen: Chosen, seconds: float) -> None:
        table, topic = self._kind.table, self._kind.topic
        batches = [one.rows for one in chosen.accepted]
        rows = sum(batch.rows for batch in batches)
        self._metrics.insert_seconds.labels(table).observe(seconds)
        self._metrics.inserted_rows.labels(table).inc(rows)
        self._metrics.completed_batches.labels(topic).inc(len(chosen.stored_days))
        self._metrics.unknown_columns.labels(topic).inc(sum(len(one.unknown) for one in batches))
        self._metrics.defaulted_columns.labels(topic).inc(
            sum(len(self._kind.fields) - len(one.columns) for one in batches)
        )
        log.info(
            "rows inserted",
            extra={
                "table": table,
                "rows": rows,
                "records": len(batches),
                "seconds": round(seconds, 3),
            },
        )


def _without_stored_days(one: Accepted, plan: Plan) -> Accepted:
    if not (days := plan.stored_days.get(one.record.offset)):
        return one
    return Accepted(one.record, without_days(one.rows, days))


def _place(partition: Partition) -> dict[str, object]:
    topic, number = partition
    return {"topic": topic, "partition": number}
