# SPDX-License-Identifier: Apache-2.0
"""Read the topic of dead letters from end to end: which there are, and which were replayed.

A letter is told from its payload as soon as it was read.  What stays are the newest of those that
are asked for, the counts by reason, and two bytes for each offset: its group among the counts, and
whether a note says that it was replayed.  A note stands behind the letters that it names, so one
reading finds both.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from consumer.record import Partition, Record
from hookline.dead_letter.entries import Choice, Entry, read
from hookline.dead_letter.tally import Tally
from hookline.progress import Progress
from hookline.topics import Topics
from schemas.dead_letter import REPLAYED, Note

_REPLAYED_BIT = 1 << 15


class Survey:
    """What is known of the letters in *spans* that *choice* takes, the newest *keep* in full."""

    def __init__(self, spans: Mapping[Partition, range], choice: Choice, *, keep: int) -> None:
        self.tally = Tally()
        self._choice = choice
        self._keep = keep
        self._starts = {partition: span.start for (_, partition), span in spans.items()}
        self._marks: dict[int, NDArray[Any]] = {
            partition: np.zeros(len(span), np.uint16) for (_, partition), span in spans.items()
        }
        self._kept: dict[int, dict[int, Entry]] = {partition: {} for partition in self._starts}

    def add(self, record: Record) -> None:
        found = read(record)
        if isinstance(found, Note):
            self._heed(found, record)
        elif self._choice.takes(found):
            self._take(found)

    def _take(self, entry: Entry) -> None:
        marks, start = self._marks[entry.partition], self._starts[entry.partition]
        marks[entry.offset - start] = self.tally.add(entry)
        if not self._keep:
            return
        kept = self._kept[entry.partition]
        kept[entry.offset] = entry.without_payload()
        if len(kept) > self._keep:
            del kept[next(iter(kept))]

    def _heed(self, note: Note, record: Record) -> None:
        if note.what != REPLAYED:
            return
        marks, start = self._marks[record.partition], self._starts[record.partition]
        kept = self._kept[record.partition]
        for offset in note.letters:
            if not start <= offset < start + len(marks):
                continue
            group = int(marks[offset - start])
            if group and not group & _REPLAYED_BIT:
                marks[offset - start] = group | _REPLAYED_BIT
                self.tally.add_replayed(group)
            if offset in kept:
                kept[offset] = replace(kept[offset], replayed_ms=record.timestamp_ms)

    def newest(self) -> list[Entry]:
        """The newest letters, the very newest last."""
        entries = [entry for kept in self._kept.values() for entry in kept.values()]
        entries.sort(key=lambda entry: (entry.time_ms, entry.partition, entry.offset))
        return entries[-self._keep :]

    def replayed(self) -> dict[int, NDArray[Any]]:
        """The offsets of the letters that were replayed, by partition."""
        return self._where(lambda marks: marks >= _REPLAYED_BIT)

    def unreplayed(self) -> dict[int, NDArray[Any]]:
        """The offsets of those that were not."""
        return self._where(lambda marks: (marks > 0) & (marks < _REPLAYED_BIT))

    def _where(self, is_so: Callable[[NDArray[Any]], NDArray[Any]]) -> dict[int, NDArray[Any]]:
        return {
            partition: np.flatnonzero(is_so(marks)) + self._starts[partition]
            for partition, marks in self._marks.items()
        }


async def survey(
    topics: Topics, spans: Mapping[Partition, range], choice: Choice, *, keep: int
) -> Survey:
    """Read what is in *spans*.

    Raises:
        BrokerError: Kafka stopped answering.
    """
    found = Survey(spans, choice, keep=keep)
    with Progress("reading dead letters", sum(map(len, spans.values()))) as progress:
        async for records in topics.records(spans):
            for record in records:
                found.add(record)
            progress.add(len(records))
    return found
