# SPDX-License-Identifier: Apache-2.0
"""Hook points: the small numbers by which the kernel programs know interface and direction.

An interface takes a pair of them and gives it back when it goes.  The flow cache deletes nothing,
so slots, events in the buffers and packets in flight may still name a pair that was given back:
it waits until whole intervals have reported all of that under its old name.  Slots that hold its
flows after that harm nobody: only what they count from then on is reported again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.interfaces import Interface
from agent.plan import FIRST_POINT
from agent.register import FREE, SETTLING, Register, pair_count
from schemas.fields import DIRECTIONS
from schemas.wire import Names

# Packets of an interface that has no points are booked under this name.
UNKNOWN = "unknown"
# The first whole interval after it was given back reports all that a pair has counted.  A second
# one leaves time to a record that another CPU was still writing.
_INTERVALS_TO_SETTLE = 2


@dataclass(frozen=True, slots=True)
class Pair:
    """The two points of one interface."""

    ingress: int
    egress: int


class HookPoints:
    """Interface and direction of every hook point; the kernel has *capacity* points.

    What *register* knows of pairs already holds: their interfaces may still be counted.
    """

    def __init__(self, capacity: int, register: Register | None = None) -> None:
        self.directions = np.full(capacity, DIRECTIONS["ingress"], np.uint8)
        self.directions[FIRST_POINT + 1 :: 2] = DIRECTIONS["egress"]
        self.register = register or Register(pair_count(capacity))
        # Called when points stand for another interface than before, which is not attached yet.
        self.on_named: Callable[[], None] = lambda: None
        self._taken: dict[Pair, str] = {}
        self._settling: dict[Pair, int] = {}
        # By half of the point; replaced, never changed, since batches keep it.
        self._names: tuple[str, ...] = (UNKNOWN,)
        free = set(range(len(self.register)))
        for entry in self.register.entries():
            free.discard(entry.number)
            pair = pair_of(entry.number)
            self._set_name(pair, entry.name)
            if entry.is_settling:
                self._settling[pair] = _INTERVALS_TO_SETTLE
            else:
                self._taken[pair] = entry.name
        # Low ones first: what is never used is never looked at.
        self._free = [pair_of(number) for number in sorted(free, reverse=True)]

    @property
    def capacity(self) -> int:
        return len(self.directions)

    @property
    def count(self) -> int:
        """One more than the highest point that was ever in use."""
        return FIRST_POINT + 2 * (len(self._names) - 1)

    @property
    def taken(self) -> dict[Pair, str]:
        """The pairs in use, with the full names of their interfaces."""
        return self._taken

    def names(self) -> list[str]:
        """The interface of every hook point; those that wait keep the name that they had."""
        return [self._names[(point + 1) // 2] for point in range(self.count)]

    def take(self, name: str) -> Pair | None:
        """A pair for the interface of that full name; None while all are in use."""
        if not self._free:
            return None
        pair = self._free.pop()
        self.rename(pair, name)
        return pair

    def rename(self, pair: Pair, name: str) -> None:
        """Correct the name of a pair of which nothing has been reported yet."""
        self.register.name(number_of(pair), name)
        self._taken[pair] = name
        self._set_name(pair, name)

    def _set_name(self, pair: Pair, name: str) -> None:
        place = number_of(pair) + 1
        names = [*self._names, *[""] * (place + 1 - len(self._names))]
        names[place] = name
        self._names = tuple(names)
        self.on_named()

    def give_back(self, pair: Pair) -> None:
        """Its interface has gone, or has another pair now; nothing sends its packets here."""
        self.register.set_state(number_of(pair), SETTLING)
        del self._taken[pair]
        self._settling[pair] = _INTERVALS_TO_SETTLE

    def settle(self) -> None:
        """An interval has ended whose rows hold all that was counted before its snapshot."""
        left = {pair: intervals - 1 for pair, intervals in self._settling.items()}
        self._settling = {pair: intervals for pair, intervals in left.items() if intervals}
        settled = [pair for pair, intervals in left.items() if not intervals]
        for pair in settled:
            self.register.set_state(number_of(pair), FREE)
        self._free += settled
        self._free.sort(key=number_of, reverse=True)

    def interfaces(self, points: NDArray[Any]) -> NDArray[Any]:
        """A number for the interface of each of *points*, the same for both directions."""
        return (points + 1) // 2

    def columns(self, points: NDArray[Any]) -> dict[str, Any]:
        """The columns `interface` and `direction` of rows at *points*."""
        codes = self.interfaces(points).astype(
            np.uint8 if len(self._names) <= 256 else np.dtype("<u2")
        )
        return {
            "interface": Names(codes, self._names),
            "direction": self.directions[points],
        }


def number_of(pair: Pair) -> int:
    """Its number in the register."""
    return (pair.ingress - FIRST_POINT) // 2


def pair_of(number: int) -> Pair:
    """The pair of that number in the register."""
    point = FIRST_POINT + 2 * number
    return Pair(point, point + 1)


def number_points(interfaces: Sequence[Interface]) -> HookPoints:
    """Points of which each of *interfaces* has a pair, and no more."""
    points = HookPoints(FIRST_POINT + 2 * len(interfaces))
    for one in interfaces:
        points.take(one.full_name)
    return points
