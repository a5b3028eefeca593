# SPDX-License-Identifier: Apache-2.0
"""Slots in which rules are counted: which are free, and since when.

Headers of packets that a rule refused may still be on their way to us when it has gone, under the
number of its slot.  So a slot rests before another rule gets it.
"""

from collections import deque
from collections.abc import Callable, Iterable

from agent.rules.tables import ALLOW_LIST_SLOT
from schemas.refusal import RULE_SLOTS

_REST_SECONDS = 5.0


class Slots:
    """Gives out slots; *now* is a clock in seconds that never goes back."""

    def __init__(self, taken: Iterable[int], now: Callable[[], float]) -> None:
        self._now = now
        in_use = {ALLOW_LIST_SLOT, *taken}
        self._free = deque(slot for slot in range(RULE_SLOTS) if slot not in in_use)
        self._resting: deque[tuple[float, int]] = deque()

    def take(self, count: int) -> list[int] | None:
        """So many slots; None where there are not enough, even of those that rest."""
        while self._resting and self._resting[0][0] <= self._now():
            self._free.append(self._resting.popleft()[1])
        # Better a header under a wrong name than no rule.
        while len(self._free) < count and self._resting:
            self._free.append(self._resting.popleft()[1])
        if len(self._free) < count:
            return None
        return [self._free.popleft() for _ in range(count)]

    def give_back(self, slots: Iterable[int]) -> None:
        """Nothing counts in them any more."""
        due = self._now() + _REST_SECONDS
        self._resting.extend((due, slot) for slot in slots)
