# SPDX-License-Identifier: Apache-2.0
"""Sockets by their five-tuple and time: which one a flow belonged to.

Rows live in slots that never move; what is sorted is an index of hashes and slots.  A lookup
finds for every key its newest socket and steps back to the one that was open at the time asked
for, so a tuple that another process takes over is told apart by when.

The table has a bound.  When it is full, closed sockets make room, those that closed first, then
those that no flow has asked for longest.

A closed TCP socket stays for a minute, so where connections are short nearly all that the table
holds has closed.  What is done for each interval therefore looks at them at most through one array
in its order, and never one by one.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.tuples import TCP, Keys, has_remote, mixed, protocols

Times = NDArray[np.int64]  # CLOCK_MONOTONIC, nanoseconds
Slots = NDArray[np.intp]  # slot 0 stands for none

OPEN = np.iinfo(np.int64).max
# How long packets may follow the end of a socket.  TCP's tuple stays reserved for a minute
# (TIME_WAIT), in which the peer may repeat itself; other protocols only have what is under way.
_TCP_AFTERMATH_NS = 60_000_000_000
_AFTERMATH_NS = 1_000_000_000
# For fewer keys than one of so many that the table holds, it does not pay to learn where hashes begin.
_FEW = 16
# Open ones go after all that have closed.
_AFTER_CLOSED = 1 << 62
# Sockets of one tuple that a lookup looks at; there are rarely two.
_MOST_STEPS = 8
# Steps from where a hash should stand to where it does, before it is searched for.
_MOST_STRIDES = 8


@dataclass(frozen=True, slots=True)
class Owners:
    """Who has a socket, by socket."""

    pid: NDArray[np.uint32]
    uid: NDArray[np.uint32]
    command: NDArray[np.uint64]  # by its number, as the cgroup
    cgroup: NDArray[np.uint64]

    def __getitem__(self, which: NDArray[Any]) -> "Owners":
        return Owners(self.pid[which], self.uid[which], self.command[which], self.cgroup[which])

    def __setitem__(self, which: NDArray[Any], given: "Owners") -> None:
        self.pid[which], self.uid[which] = given.pid, given.uid
        self.command[which], self.cgroup[which] = given.command, given.cgroup

    def __len__(self) -> int:
        return len(self.pid)


def no_owners(count: int) -> Owners:
    """As many owners as *count*, nobody known."""
    return Owners(
        np.zeros(count, np.uint32),
        np.zeros(count, np.uint32),
        np.zeros(count, np.uint64),
        np.zeros(count, np.uint64),
    )


class SocketTable:
    """At most *most* sockets; `evicted_total` counts those that had to go for others."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.owners = no_owners(most + 1)
        self._keys: Keys = np.zeros((most + 1, 5), np.uint64)
        self._opened_ns = np.zeros(most + 1, np.int64)
        self._closed_ns = np.zeros(most + 1, np.int64)
        self._used_ns = np.zeros(most + 1, np.int64)
        # Before that time no row can need it any more.
        self._needed_ns = np.full(most + 1, OPEN, np.int64)
        # Handed out from the end, low slots first, so that a table used little stays small.
        self._free = np.arange(most, 0, -1)
        self._free_count = most
        self._hashes = np.empty(0, np.uint64)
        self._slots: Slots = np.empty(0, np.intp)
        # Where hashes with the same highest bits begin; empty when it is to be made anew.
        self._begins: NDArray[np.intp] = np.empty(0, np.intp)
        self._shift = np.uint64(64 - most.bit_length())
        self.evicted_total = 0

    def __len__(self) -> int:
        return len(self._slots)

    def open(self, keys: Keys, opened_ns: Times, owners: Owners, *, seen_ns: int = 0) -> None:
        """Add sockets, or take what is told anew of those that are known.

        *seen_ns* is when they were seen, where that is later than when they were opened.
        """
        known = self._newest(keys)
        since_ns, until_ns = self._opened_ns[known], self._closed_ns[known]
        is_known, is_open = known > 0, until_ns == OPEN
        is_other = (self.owners.pid[known] != owners.pid) & (owners.pid != 0)
        is_same = is_known & ((opened_ns == since_ns) | (is_open & (self.owners.pid[known] == 0)))
        is_retold = is_same & is_other
        self.owners[known[is_retold]] = owners[is_retold]
        is_later = np.where(
            is_open, is_other & (opened_ns > since_ns), np.maximum(opened_ns, seen_ns) > until_ns
        )
        new = np.flatnonzero(~is_known | (is_later & ~is_same))
        self.evicted_total += max(len(new) - self._most, 0)
        new = new[np.argsort(opened_ns[new], kind="stable")][-self._most :]
        if len(new):
            self._add(keys.take(new, axis=0), opened_ns.take(new), owners[new], seen_ns)

    def _add(self, keys: Keys, opened_ns: Times, owners: Owners, seen_ns: int) -> None:
        slots = self._take_slots(len(keys))
        self._keys[slots] = keys
        self._opened_ns[slots] = opened_ns
        self._closed_ns[slots] = OPEN
        self._needed_ns[slots] = OPEN
        self._used_ns[slots] = np.maximum(opened_ns, seen_ns)
        self.owners[slots] = owners
        hashes = mixed(keys)
        order = np.argsort(hashes, kind="stable")
        place = np.searchsorted(self._hashes, hashes[order], side="right")
        self._hashes = np.insert(self._hashes, place, hashes[order])
        self._slots = np.insert(self._slots, place, slots[order])
        self._begins = self._begins[:0]
        self._cede(place + np.arange(len(place)) - 1)

    def _take_slots(self, count: int) -> Slots:
        if count > self._free_count:
            self._evict(max(count - self._free_count, self._most // 16))
        self._free_count -= count
        taken: Slots = self._free[self._free_count : self._free_count + count][::-1].copy()
        return taken

    def _evict(self, count: int) -> None:
        """Let go of *count* sockets, or of all where there are fewer."""
        closed_ns = self._closed_ns[self._slots]
        last_ns = np.where(closed_ns != OPEN, closed_ns, self._used_ns[self._slots] + _AFTER_CLOSED)
        gone = np.arange(len(last_ns))
        if count < len(gone):
            gone = np.argpartition(last_ns, count - 1)[:count]
        self.evicted_total += len(gone)
        self._remove(gone)

    def _remove(self, places: NDArray[np.intp]) -> None:
        """Free what stands at *places* of the index."""
        slots = self._slots[places]
        self._needed_ns[slots] = OPEN
        self._free[self._free_count : self._free_count + len(slots)] = slots
        self._free_count += len(slots)
        is_left = np.ones(len(self._slots), np.bool_)
        is_left[places] = False
        self._hashes, self._slots = self._hashes[is_left], self._slots[is_left]
        self._begins = self._begins[:0]

    def close(self, keys: Keys, closed_ns: Times) -> None:
        """Note that sockets have closed; those opened later stay open."""
        rows, place = self._find(keys)
        keys, closed_ns = keys.take(rows, axis=0), closed_ns.take(rows)
        for _ in range(_MOST_STEPS):
            slots = self._slots.take(place)
            is_meant = (self._opened_ns.take(slots) <= closed_ns) & (
                self._closed_ns.take(slots) > closed_ns
            )
            self._end(place[is_meant], closed_ns[is_meant])
            earlier = np.flatnonzero(self._has_earlier(place, keys))
            if not len(earlier):
                return
            place, closed_ns = place.take(earlier) - 1, closed_ns.take(earlier)
            keys = keys.take(earlier, axis=0)

    def close_unlisted(self, keys: Keys, seen_ns: int) -> None:
        """Note as closed by *seen_ns* what was open before and is not among *keys*."""
        is_listed = np.zeros(self._most + 1, np.bool_)
        is_listed[self._newest(keys)] = True
        slots = self._slots
        is_gone = ~is_listed[slots] & (self._closed_ns[slots] == OPEN)
        is_gone &= self._opened_ns[slots] < seen_ns
        gone = np.flatnonzero(is_gone)
        self._end(gone, np.full(len(gone), seen_ns, np.int64))

    def _end(self, place: NDArray[np.intp], closed_ns: Times) -> None:
        """What stands at *place* of the index has closed."""
        slots = self._slots[place]
        self._closed_ns[slots] = closed_ns
        self._needed_ns[slots] = self._last_packet_ns(slots)
        self._cede(place)

    def _cede(self, place: NDArray[np.intp]) -> None:
        """Whoever opens a tuple again within a minute has it from then on, and not who had it before."""
        place = place[(place >= 0) & (place < len(self._slots) - 1)]
        place = place[self._hashes[place] == self._hashes[place + 1]]
        slots, following = self._slots[place], self._slots[place + 1]
        has_closed = self._closed_ns[slots] != OPEN
        slots, following = slots[has_closed], following[has_closed]
        ceded_ns = np.maximum(self._closed_ns[slots], self._opened_ns[following] - 1)
        self._needed_ns[slots] = np.minimum(self._needed_ns[slots], ceded_ns)

    def forget_closed(self, before_ns: int) -> Keys:
        """Let go of sockets that no packet can belong to any more, at *before_ns* or later.

        Returns the keys of those.
        """
        is_gone = self._needed_ns < before_ns
        gone: Slots = np.flatnonzero(is_gone)
        if len(gone):
            self._remove(np.flatnonzero(is_gone[self._slots]))
        forgotten: Keys = self._keys.take(gone, axis=0)
        return forgotten

    def _last_packet_ns(self, slots: Slots) -> Times:
        """When the last packet of closed sockets may have come."""
        is_tcp = protocols(self._keys.take(slots, axis=0)) == TCP
        return self._closed_ns[slots] + np.where(is_tcp, _TCP_AFTERMATH_NS, _AFTERMATH_NS)

    def bound(self) -> Slots:
        """The slots of sockets without a peer that are open: listeners and the like."""
        slots = self._slots[self._closed_ns[self._slots] == OPEN]
        bound: Slots = slots[~has_remote(self._keys.take(slots, axis=0))]
        return bound

    def keys(self, slots: Slots) -> Keys:
        """The keys of what is in *slots*."""
        keys: Keys = self._keys.take(slots, axis=0)
        return keys

    def find(self, keys: Keys, first_ns: Times, last_ns: Times) -> Slots:
        """For each key the slot of its socket between these times, 0 where there is none."""
        found: Slots = np.zeros(len(keys), np.intp)
        rows, place = self._find(keys)
        if not len(rows):
            return found
        first_ns, last_ns = first_ns.take(rows), last_ns.take(rows)
        slots, next_slots = self._back_to(place, keys.take(rows, axis=0), first_ns)
        # A row may hold the end of one socket and the beginning of the next.
        late = np.flatnonzero(self._closed_ns.take(slots) < first_ns)
        following = next_slots[late]
        is_next = (following > 0) & (self._opened_ns[following] <= last_ns[late])
        is_past = self._last_packet_ns(slots[late]) < first_ns[late]
        slots[late] = np.where(is_next, following, np.where(is_past, 0, slots[late]))
        self._used_ns[slots] = last_ns
        found[rows] = slots
        return found

    def _back_to(self, place: NDArray[np.intp], keys: Keys, first_ns: Times) -> tuple[Slots, Slots]:
        """The latest sockets opened by then, or the earliest there are, and what followed them."""
        slots = self._slots[place]
        next_slots = np.zeros_like(slots)
        for _ in range(_MOST_STEPS):
            late = np.flatnonzero(self._opened_ns.take(slots) > first_ns)
            late = late[self._has_earlier(place.take(late), keys.take(late, axis=0))]
            if not len(late):
                break
            place[late] -= 1
            next_slots[late] = slots[late]
            slots[late] = self._slots[place[late]]
        return slots, next_slots

    def _newest(self, keys: Keys) -> Slots:
        newest: Slots = np.zeros(len(keys), np.intp)
        rows, place = self._find(keys)
        newest[rows] = self._slots[place]
        return newest

    def _find(self, keys: Keys) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Which of *keys* are known, and the place of the newest of each in the index."""
        nothing = np.empty(0, np.intp)
        if not len(self._hashes) or not len(keys):
            return nothing, nothing
        hashes = mixed(keys)
        place = self._behind(hashes) - 1
        # Before the first stands the last, whose hash is another.
        rows = np.flatnonzero(self._hashes.take(place, mode="wrap") == hashes)
        place = place.take(rows)
        is_it = _are_equal(
            self._keys.take(self._slots.take(place), axis=0), keys.take(rows, axis=0)
        )
        return rows[is_it], place[is_it]

    def _behind(self, hashes: NDArray[np.uint64]) -> NDArray[np.intp]:
        """The place behind the last of each hash, as searchsorted finds, but in a few strides."""
        if not len(self._begins):
            if len(hashes) * _FEW < len(self._hashes):
                return self._searched(hashes)
            counts = np.bincount((self._hashes >> self._shift).astype(np.intp))
            self._begins = np.zeros((1 << (64 - int(self._shift))) + 1, np.intp)
            self._begins[1 : len(counts) + 1] = counts
            np.cumsum(self._begins, out=self._begins)
        place = self._begins.take((hashes >> self._shift).astype(np.intp))
        left = np.arange(len(hashes))
        for _ in range(_MOST_STRIDES):
            is_before = self._hashes.take(place.take(left), mode="clip") <= hashes.take(left)
            left = left[is_before & (place.take(left) < len(self._hashes))]
            if not len(left):
                return place
            place[left] += 1
        place[left] = self._searched(hashes[left])
        return place

    def _searched(self, hashes: NDArray[np.uint64]) -> NDArray[np.intp]:
        # In order, since each search then begins where the one before has left the caches warm.
        order = np.argsort(hashes)
        place: NDArray[np.intp] = np.empty(len(hashes), np.intp)
        place[order] = np.searchsorted(self._hashes, hashes[order], side="right")
        return place

    def _has_earlier(self, place: NDArray[np.intp], keys: Keys) -> NDArray[np.bool_]:
        """Whether the same keys stand right before *place* as well."""
        # Nearly all are told apart by their hashes.
        has_earlier = place > 0
        has_earlier &= self._hashes.take(place - 1, mode="wrap") == self._hashes.take(place)
        rows = np.flatnonzero(has_earlier)
        if len(rows):
            earlier = self._keys.take(self._slots.take(place.take(rows) - 1), axis=0)
            has_earlier[rows] = _are_equal(earlier, keys.take(rows, axis=0))
        return has_earlier


def _are_equal(keys: Keys, others: Keys) -> NDArray[np.bool_]:
    is_equal: NDArray[np.bool_] = keys[:, 0] == others[:, 0]
    for number in range(1, keys.shape[1]):
        is_equal &= keys[:, number] == others[:, number]
    return is_equal
