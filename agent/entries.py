# SPDX-License-Identifier: Apache-2.0
"""The table in which the kernel programs look up an interface, by its index.

A hash table would cost each packet a helper call, so it is an array in which an index has two
possible places, of which the programs look at the second only where the first is another's.  When
both are taken, an interface moves to its own other place, as cuckoos do.  The programs look at any
time: who moves is in both places for a moment, and index and points are stored as one word.
"""

import mmap

import numpy as np

from agent.plan import INTERFACE_SLOTS
from agent.points import Pair
from schemas.control import INTERFACE_ENTRY

# As in bpf/flow.bpf.c.
_SPREAD = 0x9E3779B1
_MOST_MOVES = 32
_POINTS_AT = 32
_WORDS = INTERFACE_ENTRY.size_bytes // 8


class InterfaceTable:
    """The table of that descriptor: one network namespace's interfaces and their hook points."""

    def __init__(self, fd: int) -> None:
        memory = mmap.mmap(
            fd,
            INTERFACE_SLOTS * INTERFACE_ENTRY.size_bytes,
            mmap.MAP_SHARED,
            mmap.PROT_READ | mmap.PROT_WRITE,
        )
        self._words = np.frombuffer(memory, np.uint64).reshape(INTERFACE_SLOTS, _WORDS)

    def set(self, ifindex: int, pair: Pair, link_bytes: int) -> bool:
        """Let the packets of an interface be booked at *pair*; False where there is no place."""
        place = self._place_of(ifindex)
        if place is None and (place := self._make_place(ifindex)) is None:
            return False
        points = pair.ingress | pair.egress << 16
        self._words[place, 1] = link_bytes
        # One aligned store: the programs see all of it or nothing.
        self._words[place, 0] = ifindex | points << _POINTS_AT
        return True

    def clear(self, ifindex: int) -> None:
        """Let the packets of an interface be booked as those of an unknown one."""
        if (place := self._place_of(ifindex)) is not None:
            self._words[place, 0] = 0

    def _place_of(self, ifindex: int) -> int | None:
        for place in places(ifindex):
            if self._holder(place) == ifindex:
                return place
        return None

    def _make_place(self, ifindex: int) -> int | None:
        """A free place for *ifindex*, if need be by moving others; a few moves nearly always do."""
        way: list[int] = []
        for place in places(ifindex):
            if not self._holder(place):
                return place
        place = places(ifindex)[0]
        while (holder := self._holder(place)) and len(way) < _MOST_MOVES:
            way.append(place)
            first, second = places(holder)
            place = second if place == first else first
            if place in way:
                return None
        if holder:
            return None
        for origin in reversed(way):
            self._words[place, 1] = self._words[origin, 1]
            self._words[place, 0] = self._words[origin, 0]
            place = origin
        return place

    def _holder(self, place: int) -> int:
        return int(self._words[place, 0]) & 0xFFFFFFFF


def places(ifindex: int) -> tuple[int, int]:
    """Where the programs look for an index, in this order."""
    spread = ifindex * _SPREAD & 0xFFFFFFFF
    return ifindex & (INTERFACE_SLOTS - 1), spread * INTERFACE_SLOTS >> 32
