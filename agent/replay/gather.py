# SPDX-License-Identifier: Apache-2.0
"""Join the rows of many intervals into whole batches.

An agent publishes each interval for itself, because somebody waits for it.  Nobody waits for an
interval of a capture, and a day of them would be a hundred thousand records of a few rows.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from agent.batch import MAX_ROWS, Batcher, row_count
from schemas.wire import Batch, Column, Names, Text

# ClickHouse refuses inserts that touch more than a hundred partitions, which are days.
_MOST_SPAN_NS = 30 * 86_400 * 1_000_000_000


@dataclass(slots=True)
class Gatherer:
    """A batcher that waits for more: `batches` takes rows, `rest` gives what waits at the end."""

    batcher: Batcher
    _waiting: dict[str, list[Mapping[str, Column]]] = field(default_factory=dict)
    _rows: dict[str, int] = field(default_factory=dict)
    _first_ns: dict[str, int] = field(default_factory=dict)

    def next_seq(self, kind: str) -> int:
        """What waits is not numbered yet, so this is the number that it will have at least."""
        return self.batcher.next_seq(kind)

    def batches(
        self, kind: str, columns: Mapping[str, Column], anchor: Mapping[str, int]
    ) -> Iterator[Batch]:
        """Whole batches, once there are enough rows for one."""
        times: Any = columns["time"]
        if not len(times):
            return
        first_ns = self._first_ns.setdefault(kind, int(times.min()))
        if int(times.max()) - first_ns > _MOST_SPAN_NS:
            yield from self._take(kind, anchor)
            self._first_ns[kind] = int(times.min())
        self._waiting.setdefault(kind, []).append(columns)
        self._rows[kind] = self._rows.get(kind, 0) + row_count(times)
        if self._rows[kind] >= MAX_ROWS:
            yield from self._take(kind, anchor)

    def rest(self, anchor: Mapping[str, int]) -> Iterator[Batch]:
        """All that still waits."""
        for kind in list(self._waiting):
            yield from self._take(kind, anchor)

    def _take(self, kind: str, anchor: Mapping[str, int]) -> Iterator[Batch]:
        self._first_ns.pop(kind, None)
        self._rows.pop(kind, None)
        parts = self._waiting.pop(kind, [])
        if not parts:
            return
        joined = {name: _joined([part[name] for part in parts]) for name in parts[0]}
        yield from self.batcher.batches(kind, joined, anchor)


def _joined(parts: list[Column]) -> Column:
    if len(parts) == 1:
        return parts[0]
    if isinstance(parts[0], Names):
        return _joined_names([part for part in parts if isinstance(part, Names)])
    if isinstance(parts[0], Text):
        texts = [part for part in parts if isinstance(part, Text)]
        return Text(
            np.concatenate([text.lengths for text in texts]),
            np.concatenate([text.content for text in texts]),
        )
    return np.concatenate([part for part in parts if isinstance(part, np.ndarray)])


def _joined_names(parts: list[Names]) -> Names:
    if all(part.categories == parts[0].categories for part in parts):
        return Names(np.concatenate([part.codes for part in parts]), parts[0].categories)
    numbers: dict[str, int] = {}
    codes = []
    for part in parts:
        numbered = [numbers.setdefault(name, len(numbers)) for name in part.categories]
        codes.append(np.array(numbered, "<u2")[part.codes])
    return Names(np.concatenate(codes), tuple(numbers))
