# SPDX-License-Identifier: Apache-2.0
"""Cut columns into batches, and name each of them for ever."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from schemas.wire import Batch, Column, Names, Text

MAX_ROWS = 8192
# An Apache Kafka broker accepts 1 MiB by default (message.max.bytes), after compression, on which
# headers of packets that somebody else chose may gain nothing.
_MAX_BYTES = 900_000


class Cutter(Protocol):
    """What makes batches of columns, at once or once there are enough."""

    def batches(
        self, kind: str, columns: Mapping[str, Column], anchor: Mapping[str, int]
    ) -> Iterator[Batch]: ...

    def next_seq(self, kind: str) -> int:
        """The number of the next batch of that kind."""
        ...


@dataclass(slots=True)
class Batcher:
    """Numbers the batches of one run of one agent, kind by kind and without holes."""

    node: str
    boot_id: str
    run: str
    _next_seq: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))

    def next_seq(self, kind: str) -> int:
        return self._next_seq[kind]

    def begin_at(self, kind: str, seq: int) -> None:
        """Go on with the batches of a run that had made so many."""
        self._next_seq[kind] = seq

    def batches(
        self, kind: str, columns: Mapping[str, Column], anchor: Mapping[str, int]
    ) -> Iterator[Batch]:
        """The rows of *columns* in batches that any broker takes, of at most MAX_ROWS."""
        rows = row_count(columns["time"])
        most = min(MAX_ROWS, _MAX_BYTES // sum(map(_value_bytes, columns.values())))
        for start in range(0, rows, most):
            stop = min(start + most, rows)
            seq = self._next_seq[kind]
            self._next_seq[kind] += 1
            yield Batch(
                kind=kind,
                node=self.node,
                boot_id=self.boot_id,
                run=self.run,
                seq=seq,
                anchor=anchor,
                rows=stop - start,
                columns={name: _slice(column, start, stop) for name, column in columns.items()},
            )


def _slice(column: Column, start: int, stop: int) -> Column:
    if isinstance(column, Names):
        return Names(column.codes[start:stop], column.categories)
    if isinstance(column, Text):
        return column.cut(start, stop)
    return column[start:stop]


def _value_bytes(column: Column) -> int:
    if isinstance(column, Text):
        # The longest counts for all: names that somebody else chose must not make a batch burst.
        return column.lengths.itemsize + int(column.lengths.max(initial=0))
    return (column.codes if isinstance(column, Names) else column).itemsize


def row_count(column: Column) -> int:
    """How many values a column has."""
    if isinstance(column, Text):
        return len(column.lengths)
    return len(column.codes if isinstance(column, Names) else column)
