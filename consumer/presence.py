# SPDX-License-Identifier: Apache-2.0
"""Ask ClickHouse which batches it holds, in one query for many, and read its answer.

A batch names itself in its rows (`node`, `run`, `seq`) and knows their times, so the query reads
only the times in question.  ClickHouse stores the rows of one insert and day together or not at
all, so of each day all rows of a batch are there, or none.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from consumer.ranges import Ranges
from consumer.stored import Name
from schemas.clickhouse import DATABASE
from schemas.layout import Record
from schemas.wire import Batch, Column, Names, Text

DAY_NS = 86_400 * 10**9
# Spans of time that lie closer than this are read as one: more conditions cost more than rows.
JOIN_NS = 600 * 10**9
# A clock gone wild makes a day of every row.
MAX_SPANS = 64

Rows = Mapping[int, int]  # how many, by their day since 1970
Found = Mapping[Name, Rows]
Span = tuple[int, int]  # the first and the last nanosecond


def name_of(batch: Batch) -> Name:
    return batch.node, batch.run, batch.seq


def rows_by_day(batch: Batch) -> dict[int, int]:
    """How many rows of *batch* belong to each day."""
    days, counts = np.unique(_days(batch), return_counts=True)
    return dict(zip(days.tolist(), counts.tolist(), strict=True))


def stored_days(batch: Batch, found: Found) -> Ranges:
    """The days of which the rows of *batch* are there."""
    return Ranges(found.get(name_of(batch), {}))


def lacks_rows(batch: Batch, found: Found) -> bool:
    """Whether some rows of a day are there and others are not, which no insert leaves behind."""
    there = found.get(name_of(batch), {})
    return any(0 < there.get(day, 0) < rows for day, rows in rows_by_day(batch).items())


def missing(batches: Sequence[Batch], found: Found) -> list[Batch]:
    """What of *batches* is not there: all rows of a day, or none."""
    rest = [without_days(batch, stored_days(batch, found)) for batch in batches]
    return [batch for batch in rest if batch.rows]


def without_days(batch: Batch, days: Ranges) -> Batch:
    """*batch* without its rows of these days."""
    of_days = _days(batch)
    kept = np.ones(batch.rows, np.bool_)
    for first, last in days:
        kept &= (of_days < first) | (of_days > last)
    columns = {name: _chosen(column, kept) for name, column in batch.columns.items()}
    return Batch(
        kind=batch.kind,
        node=batch.node,
        boot_id=batch.boot_id,
        run=batch.run,
        seq=batch.seq,
        anchor=batch.anchor,
        rows=int(kept.sum()),
        columns=columns,
        unknown=batch.unknown,
    )


def _chosen(column: Column, kept: NDArray[np.bool_]) -> Column:
    if isinstance(column, Names):
        return Names(column.codes[kept], column.categories)
    if isinstance(column, Text):
        return Text(column.lengths[kept], column.content[np.repeat(kept, column.lengths)])
    return column[kept]


def question(record: Record, batches: Sequence[Batch]) -> str:
    """The query that finds *batches*, all of the kind *record* and none without rows.

    Its rows are node, run, seq, day and how many.
    """
    by_span: dict[Span, list[Batch]] = {}
    joined = _joined(span for batch in batches for span in _spans(batch))
    starts = [first for first, _ in joined]
    for batch in batches:
        for first, _ in _spans(batch):
            span = joined[int(np.searchsorted(starts, first, "right")) - 1]
            by_span.setdefault(span, []).append(batch)
    conditions = " OR ".join(_condition(span, some) for span, some in by_span.items())
    return (
        "SELECT node, run, seq,"
        f" intDiv(toUnixTimestamp64Nano(time), {DAY_NS}) AS day, count()"
        f" FROM {DATABASE}.{record.table} WHERE {conditions} GROUP BY node, run, seq, day"
    )


def answer(rows: Iterable[Sequence[Any]]) -> dict[Name, dict[int, int]]:
    """What was found, by batch and day."""
    found: dict[Name, dict[int, int]] = {}
    for node, run, seq, day, count in rows:
        found.setdefault((node, run, seq), {})[day] = count
    return found


def _condition(span: Span, batches: Sequence[Batch]) -> str:
    first, last = span
    seqs = [batch.seq for batch in batches]
    return (
        f"(time BETWEEN {_moment(first)} AND {_moment(last)}"
        f" AND node IN ({_texts(batch.node for batch in batches)})"
        f" AND run IN ({_texts(batch.run for batch in batches)})"
        f" AND seq BETWEEN {min(seqs)} AND {max(seqs)})"
    )


def _moment(time_ns: int) -> str:
    return f"fromUnixTimestamp64Nano({time_ns}, 'UTC')"


def _texts(texts: Iterable[str]) -> str:
    quoted = (text.replace("\\", "\\\\").replace("'", "\\'") for text in dict.fromkeys(texts))
    return ", ".join(f"'{text}'" for text in quoted)


def _days(batch: Batch) -> NDArray[np.int64]:
    return _times(batch) // DAY_NS


def _times(batch: Batch) -> NDArray[np.int64]:
    return np.asarray(batch.columns["time"])


def _spans(batch: Batch) -> list[Span]:
    """From when to when the rows of each day are; a wild clock's are years apart."""
    times = _times(batch)
    first, last = int(times.min()), int(times.max())
    if first // DAY_NS == last // DAY_NS:
        return [(first, last)]
    ordered = np.sort(times)
    ends = np.flatnonzero(np.diff(ordered // DAY_NS, append=-1))
    starts = np.concatenate(([0], ends[:-1] + 1))
    return [(int(ordered[a]), int(ordered[b])) for a, b in zip(starts, ends, strict=True)]


def _joined(spans: Iterable[Span]) -> list[Span]:
    """The spans in their order, those that overlap or nearly touch as one."""
    ordered = sorted(spans)
    latest = np.maximum.accumulate(np.array([last for _, last in ordered], np.int64))
    gaps = np.array([first for first, _ in ordered[1:]], np.int64) - latest[:-1]
    cuts = np.flatnonzero(gaps > JOIN_NS)
    if len(cuts) >= MAX_SPANS:
        cuts = np.sort(cuts[np.argsort(gaps[cuts])[-(MAX_SPANS - 1) :]])
    starts = [0, *(cuts + 1).tolist()]
    ends = [*cuts.tolist(), len(ordered) - 1]
    return [(ordered[a][0], int(latest[b])) for a, b in zip(starts, ends, strict=True)]
