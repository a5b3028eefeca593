# SPDX-License-Identifier: Apache-2.0
"""Cut the records of one topic into blocks, each of one partition, and say whose turn it is.

A block is due when it holds `max_rows` rows or when its oldest record is `max_age_s` seconds old,
whichever comes first.  All blocks that wait may together hold no more than one full block does;
when they do, the largest is due as well, and nothing more has room until it is taken.

A partition may begin with a block that somebody has planned already.  It is due when its last
record is there; until then it does not count, because nothing can be done to make room.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf

from consumer.plan import Plan
from consumer.record import Accepted, Partition, Record, Rejected, judge
from schemas.wire import Batch, Names

# What a block may take of memory, however few rows are in it.
MAX_BLOCK_BYTES = 192 << 20
# Python's objects for one record: a few for each column.
RECORD_BYTES = 8 << 10
# What a category takes, however short it is.
CATEGORY_BYTES = 128


@dataclass(slots=True)
class Block:
    """The records of one partition from offset *start* up to *end*.

    They are judged as they come; only those of a block with a *plan* stay as they are, since the
    plan may say that they have to be left out.
    """

    partition: Partition
    start: int
    end: int
    opened_at: float  # -inf where it has waited before
    verdicts: list[Accepted | Rejected] = field(default_factory=list)
    plan: Plan | None = None
    records: list[Record] = field(default_factory=list)
    # Whether the rows of its batches may be stored, though it was never seen that they are.
    is_doubtful: bool = False
    rows: int = 0
    size_bytes: int = 0

    def add(self, record: Record) -> None:
        self.end = record.offset + 1
        if self.plan:
            self.records.append(record)
            self.size_bytes += _size_bytes(record)
        else:
            self.hold(judge(record))

    def hold(self, verdict: Accepted | Rejected) -> None:
        self.verdicts.append(verdict)
        self.size_bytes += _size_bytes(verdict.record)
        if isinstance(verdict, Accepted):
            self.rows += verdict.rows.rows
            self.size_bytes += _categories_bytes(verdict.rows)

    @property
    def is_complete(self) -> bool:
        """Whether all its records are there, where a plan says which."""
        return not self.plan or self.end >= self.plan.end

    def judge_all(self) -> None:
        """Make a planned block one like others, of whose batches each may be stored."""
        records, self.records = self.records, []
        self.plan = None
        self.is_doubtful = True
        self.size_bytes = 0
        for record in records:
            self.hold(judge(record))

    def settle_rejected(self) -> list[Rejected]:
        """Take out the records that were rejected."""
        rejected = [one for one in self.verdicts if isinstance(one, Rejected)]
        self.verdicts = [one for one in self.verdicts if isinstance(one, Accepted)]
        return rejected

    @property
    def accepted(self) -> list[Accepted]:
        return [one for one in self.verdicts if isinstance(one, Accepted)]

    def split_at(self, offset: int) -> tuple["Block", "Block"]:
        """The records before *offset*, and those from there on."""
        halves = (
            Block(self.partition, self.start, offset, -inf, is_doubtful=self.is_doubtful),
            Block(self.partition, offset, self.end, -inf, is_doubtful=self.is_doubtful),
        )
        for verdict in self.verdicts:
            halves[verdict.record.offset >= offset].hold(verdict)
        return halves


def _size_bytes(record: Record) -> int:
    # The payload, and its columns.
    return RECORD_BYTES + 2 * len(record.payload or b"")


def _categories_bytes(batch: Batch) -> int:
    names = (column for column in batch.columns.values() if isinstance(column, Names))
    return CATEGORY_BYTES * sum(len(column.categories) for column in names)


@dataclass(slots=True)
class _Track:
    """One partition: its blocks in their order, and where the next one begins."""

    next_offset: int
    log_end: int
    doubtful_until: int
    blocks: deque[Block] = field(default_factory=deque)


class Lane:
    """The blocks of one topic that wait for their insert."""

    def __init__(self, max_rows: int, max_age_s: float) -> None:
        self._max_rows = max_rows
        self._max_age_s = max_age_s
        self._tracks: dict[Partition, _Track] = {}
        self._is_flushing = False
        # Of all blocks that count, since every record asks for it and partitions may be many.
        self._rows = 0
        self._size_bytes = 0

    def begin(
        self,
        partition: Partition,
        offset: int,
        *,
        log_end: int,
        plan: Plan | None = None,
        is_doubtful: bool = False,
    ) -> None:
        """Expect the records of a partition from *offset* on, at first those of its *plan*.

        *is_doubtful* where those up to the end of its log may be stored, in whatever order.
        """
        track = _Track(offset, log_end, log_end if is_doubtful else offset)
        if plan:
            track.blocks.append(Block(partition, offset, offset, -inf, plan=plan))
        self._tracks[partition] = track

    def add(self, record: Record, now: float) -> bool:
        """Take a record, fetched at monotonic time *now*; whether a block is due by now."""
        track = self._tracks[record.topic, record.partition]
        block = self._block_for(track, record, now)
        self._count(block, -1)
        block.add(record)
        self._count(block)
        track.next_offset = block.end
        return self._is_due(track.blocks[0], now) or not self._has_room

    def _block_for(self, track: _Track, record: Record, now: float) -> Block:
        last = track.blocks[-1] if track.blocks else None
        # An offset that is lower begins a log anew.
        is_next = record.offset >= track.next_offset
        if last and last.plan:
            if is_next and record.offset < last.plan.end:
                return last
            # What is missing now will never come; whoever takes the block will see.
            self._count(last, -1)
            last.end = last.plan.end
            self._count(last)
        elif last and is_next and not self._is_full(last):
            return last
        # An offset that is higher follows records lost, which belong to this block then.
        start = min(track.next_offset, record.offset)
        block = Block((record.topic, record.partition), start, start, now)
        block.is_doubtful = start < track.doubtful_until
        track.blocks.append(block)
        return block

    def _is_full(self, block: Block) -> bool:
        return block.rows >= self._max_rows or block.size_bytes >= MAX_BLOCK_BYTES

    def _is_due(self, block: Block, now: float) -> bool:
        if block.plan:
            return block.is_complete
        return self._is_full(block) or block.opened_at + self._max_age_s <= now

    def has_room_for(self, record: Record) -> bool:
        """Whether *record* may be added without holding more than we want to."""
        blocks = self._tracks[record.topic, record.partition].blocks
        is_planned = blocks and (plan := blocks[-1].plan) and record.offset < plan.end
        return bool(is_planned) or self._has_room

    @property
    def _has_room(self) -> bool:
        return self._rows < self._max_rows and self._size_bytes < MAX_BLOCK_BYTES

    def _count(self, block: Block, sign: int = 1) -> None:
        """Add what a block takes to what all of them do, or take it off before it changes."""
        if block.is_complete:
            self._rows += sign * block.rows
            self._size_bytes += sign * block.size_bytes

    def take(self, now: float) -> Block | None:
        """The block whose turn it is; None while none is due."""
        heads = [track.blocks[0] for track in self._tracks.values() if track.blocks]
        ready = [block for block in heads if block.is_complete]
        due = ready if self._is_flushing else [one for one in ready if self._is_due(one, now)]
        if due:
            chosen = min(due, key=lambda block: block.opened_at)
        elif ready and not self._has_room:
            chosen = max(ready, key=lambda block: block.size_bytes)
        else:
            return None
        self._tracks[chosen.partition].blocks.popleft()
        self._count(chosen, -1)
        return chosen

    def put_back(self, blocks: Sequence[Block]) -> None:
        """Put blocks, in their order, before those of their partition that wait."""
        for block in reversed(blocks):
            self._tracks[block.partition].blocks.appendleft(block)
            self._count(block)

    def doubt(self, partition: Partition) -> None:
        """Doubt everything that the log held when the partition began."""
        track = self._tracks[partition]
        track.doubtful_until = track.log_end
        for block in track.blocks:
            block.is_doubtful |= block.start < track.doubtful_until

    def flush(self) -> None:
        """From now on every block is due, whose records are all there."""
        self._is_flushing = True

    def due_in(self, now: float) -> float:
        """Seconds until the next block is due by its age; infinite where none waits."""
        opened = [
            track.blocks[0].opened_at
            for track in self._tracks.values()
            if track.blocks and not track.blocks[0].plan
        ]
        return max(0.0, min(opened) + self._max_age_s - now) if opened else inf

    @property
    def rows(self) -> int:
        """How many rows wait."""
        return self._rows
