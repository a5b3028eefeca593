# SPDX-License-Identifier: Apache-2.0
"""Accumulate the records of one table until they are worth inserting.

A batch is due when it holds `max_rows` rows, or as much memory as so many take at most, or when its
oldest record is `max_age_s` seconds old, whichever comes first.  It remembers the next offset of every partition it drew from, so
that we commit exactly what was inserted.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256

from consumer.record import Accepted, Partition, Record
from schemas.wire import Names

# More than a row takes, names of servers and their questions included.
ROW_BYTES = 256
# What a category takes in memory, however short it is.
CATEGORY_BYTES = 128


@dataclass(slots=True)
class Batch:
    """Records waiting to be inserted into one table, and the offsets to commit once they are.

    *assignment* numbers the assignment of partitions under which they were fetched: offsets
    may be committed only while it lasts.
    """

    max_rows: int
    max_age_s: float
    assignment: int = 0
    accepted: list[Accepted] = field(default_factory=list)
    next_offsets: dict[Partition, int] = field(default_factory=dict)
    rows: int = 0
    memory_bytes: int = 0
    _opened_at: float = 0.0

    def add(self, accepted: Accepted, now: float) -> None:
        """Take the rows of one record, fetched at monotonic time *now*."""
        self._advance(accepted.record, now)
        self.accepted.append(accepted)
        self.rows += accepted.rows.rows
        self.memory_bytes += _memory_bytes(accepted)

    def skip(self, record: Record, now: float) -> None:
        """Pass over a record that is in the dead letter topic already."""
        self._advance(record, now)

    def _advance(self, record: Record, now: float) -> None:
        if not self.next_offsets:
            self._opened_at = now
        # Kafka commits the offset to read next, not the one just read.
        self.next_offsets[record.topic, record.partition] = record.offset + 1

    @property
    def is_full(self) -> bool:
        return self.rows >= self.max_rows or self.memory_bytes >= self.max_rows * ROW_BYTES

    def is_due(self, now: float) -> bool:
        return self.is_full or self.due_in(now) <= 0

    def due_in(self, now: float) -> float:
        """Seconds until the oldest record is too old; infinite where there is none."""
        if not self.next_offsets:
            return float("inf")
        return self._opened_at + self.max_age_s - now


def _memory_bytes(accepted: Accepted) -> int:
    columns = accepted.rows.columns.values()
    categories = sum(len(column.categories) for column in columns if isinstance(column, Names))
    return len(accepted.record.payload or b"") + CATEGORY_BYTES * categories


def insert_token(accepted: Iterable[Accepted]) -> str:
    """A name for these rows, by which ClickHouse knows an insert that is repeated.

    It is made of what names the rows for ever, not of offsets: those start again when a topic
    is created anew, and ClickHouse would take new rows for old ones.
    """
    digest = sha256()
    for one in accepted:
        rows = one.rows
        digest.update(repr((rows.node, rows.boot_id, rows.run, rows.kind, rows.seq)).encode())
    return digest.hexdigest()
