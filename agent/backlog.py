# SPDX-License-Identifier: Apache-2.0
"""Batches on their way to Kafka, in memory: for a replay, which can begin anew."""

from collections import deque

from agent.segments import Entry, Name
from schemas.wire import Batch, encode

_MOST_BYTES = 32 << 20


class Backlog:
    """A queue with room for so many bytes of batches, which does not refuse more."""

    def __init__(self, most_bytes: int = _MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._waiting: deque[Entry] = deque()
        self._waiting_bytes = 0
        self._next = 0

    @property
    def has_room(self) -> bool:
        return self._waiting_bytes < self._most_bytes

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, batch: Batch) -> None:
        name = Name(batch.node, batch.run, batch.kind, batch.seq, batch.rows)
        payload = encode(batch)
        self._waiting.append(Entry(self._next, name, payload, 0))
        self._waiting_bytes += len(payload)
        self._next += 1

    def peek(self, most: int) -> list[Entry]:
        """The oldest batches, at most so many."""
        return [self._waiting[place] for place in range(min(most, len(self._waiting)))]

    def acknowledge(self, count: int) -> None:
        """Forget the oldest *count* batches."""
        for _ in range(count):
            self._waiting_bytes -= len(self._waiting.popleft().payload)
