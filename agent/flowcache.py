# SPDX-License-Identifier: Apache-2.0
"""Account the flow cache exactly, while the kernel writes to it.

A *snapshot* copies the slots that changed and reports what each counted since the snapshot
before.  Nothing is deleted, so nothing races with the kernel.  A slot's generation tells whether
it still holds the flow we saw last time: if so, report the difference; if not, all of it.

A flow that was evicted in between comes through the ring buffer with its final counts, from which
`settle` subtracts what snapshots have reported of it.  If the ring buffer was full, the kernel
added its counts to the hook point's overflow totals instead, including the part that we have
reported; `take_lost` returns that part, to be subtracted from those totals.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.rows import Rows, chosen, copied, joined
from agent.surroundings import copies
from schemas.dtype import dtype_from_layout, unpack
from schemas.flow import LANE
from schemas.succession import FLOW_REPORTED

_NO_MINIMUM = np.uint16(0xFFFF)

# 16384 slots are 1 MiB: the second look at a chunk finds it in the CPU's cache.
_CHUNK = 1 << 14
# Which is about a millisecond.
_CHUNKS_A_BREATH = 4

_REPLACED = np.dtype(
    [
        ("key", "<u8"),  # slot index << 16 | generation
        ("lane", "<u4"),
        ("packets", "<u4"),
        ("bytes", "<u8"),
    ]
)


@dataclass(frozen=True, slots=True)
class Counted:
    """Flows and what each did since it was last reported.

    *slots* are copies of cache slots, of which only identity, flags, extremes and the time of the
    last packet are to be read; *first_ns* is CLOCK_MONOTONIC.
    """

    slots: Rows
    first_ns: NDArray[np.uint64]
    packets: NDArray[np.uint64]
    bytes: NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.packets)


class FlowCache:
    """What has been reported of each slot, and the arithmetic of what has not."""

    def __init__(self, slots: Rows, origins: Rows, contexts: Rows) -> None:
        self._slots = slots
        self._origins = origins
        self._contexts = contexts
        self._generation = np.zeros(len(slots), np.uint16)
        self._lane = np.zeros(len(slots), np.uint32)
        self._packets = np.zeros(len(slots), np.uint32)
        self._bytes = np.zeros(len(slots), np.uint64)
        # Of the flow's interval, by its first packet: what was reported of it.
        self._first_ns = np.zeros(len(slots), np.uint64)
        self._tcp_flags = np.zeros(len(slots), np.uint8)
        self._min_bytes = np.zeros(len(slots), np.uint16)
        self._max_bytes = np.zeros(len(slots), np.uint16)
        # Flows gone from their slots whose eviction has not come yet, sorted by key.
        self._replaced = np.empty(0, _REPLACED)
        self._is_touched = np.zeros(len(slots), np.bool_)

    def take_touched(self) -> NDArray[np.intp]:
        """The slots of which something was reported since this was asked last."""
        touched = np.flatnonzero(self._is_touched)
        self._is_touched[touched] = False
        return touched

    def reported(self, index: NDArray[np.intp]) -> Rows:
        """What has been reported of the flows in these slots, as rows of FLOW_REPORTED."""
        rows = np.zeros(len(index), dtype_from_layout(FLOW_REPORTED))
        for name, values in self._columns().items():
            rows[name] = values[index]
        return rows

    def replaced(self) -> bytes:
        """Flows gone from their slots that are to be settled yet."""
        return self._replaced.tobytes()

    def restore(self, reported: Rows, replaced: bytes) -> None:
        """Go on where somebody else had come to."""
        for name, values in self._columns().items():
            values[:] = reported[name]
        self._replaced = np.frombuffer(replaced, _REPLACED).copy()

    def _columns(self) -> dict[str, NDArray[Any]]:
        return {
            "first_ns": self._first_ns,
            "bytes": self._bytes,
            "packets": self._packets,
            "lane": self._lane,
            "generation": self._generation,
            "min_bytes": self._min_bytes,
            "max_bytes": self._max_bytes,
            "tcp_flags": self._tcp_flags,
        }

    def snapshot(self, breathe: Callable[[], None] = lambda: None) -> Counted:
        """What every flow in the cache did since the last snapshot.

        It takes some milliseconds of a CPU, with a *breathe* in each.
        """
        found = []
        for number, start in enumerate(range(0, len(self._slots), _CHUNK)):
            if number and number % _CHUNKS_A_BREATH == 0:
                breathe()
            if (part := self._changed_in(start)) is not None:
                found.append(part)
        if not found:
            return _nothing(self._slots.dtype)
        # All at once: with few flows, what a call costs is most of it.
        slots, index, origins, unstable = zip(*found, strict=True)
        self._let_go(np.concatenate(unstable))
        counted = self._report(joined(slots), np.concatenate(index), joined(origins))
        self._replaced = chosen(self._replaced, np.argsort(self._replaced["key"]))
        return counted

    def _changed_in(
        self, start: int
    ) -> tuple[Rows, NDArray[np.intp], Rows, NDArray[np.intp]] | None:
        """Copies of the slots of one chunk that changed, where they are, and their origins.

        Last come those whose identity changed under the copy: of them nothing can be told yet.
        """
        chunk = slice(start, start + _CHUNK)
        live = self._slots[chunk]
        generation = live["generation"].copy()
        # Both counters, since a copy may hold one of them from before a packet.
        is_changed = (
            (live["packets"] != self._packets[chunk])
            | (live["bytes"] != self._bytes[chunk])
            | (generation != self._generation[chunk])
        )
        changed = np.flatnonzero(is_changed)
        if not len(changed):
            return None
        slots = chosen(live, changed)
        index = changed + start
        origins = chosen(self._origins, index)
        before, after = generation[changed], live["generation"][changed]
        is_stable = (before == after) & (before & 1 == 0)
        unstable = index[~is_stable]
        if len(unstable):
            slots = chosen(slots, is_stable)
            index, origins = index[is_stable], chosen(origins, is_stable)
        return slots, index, origins, unstable

    def _let_go(self, index: NDArray[np.intp]) -> None:
        """Whoever has these slots next, the flows that were reported of them have left.

        That must be known now, although nothing can be told of the slots before the next snapshot:
        totals that were read before this one may hold all that those flows counted, and a row that
        tells a part of it again is made up for only by what overflows later, if anything does.
        """
        self._remember_replaced(index)
        self._packets[index] = 0
        self._bytes[index] = 0
        self._is_touched[index] = True

    def _report(self, slots: Rows, index: NDArray[Any], origins: Rows) -> Counted:
        is_same = self._is_reported(slots, index)
        # Counters wrap, and so do these differences: the result is right.
        packets = slots["packets"] - np.where(is_same, self._packets[index], np.uint32(0))
        in_bytes = slots["bytes"] - np.where(is_same, self._bytes[index], np.uint64(0))
        self._remember_replaced(index[~is_same])
        self._is_touched[index] = True
        self._generation[index] = slots["generation"]
        self._lane[index] = slots["lane"]
        self._packets[index] = slots["packets"]
        self._bytes[index] = slots["bytes"]
        completed = self._completed(slots, origins, index, is_same)
        self._first_ns[index] = origins["first_ns"]
        self._tcp_flags[index] = slots["tcp_flags"]
        self._min_bytes[index] = slots["min_bytes"]
        self._max_bytes[index] = slots["max_bytes"]
        return Counted(completed, origins["first_ns"], packets.astype(np.uint64), in_bytes)

    def _completed(
        self, slots: Rows, origins: Rows, index: NDArray[Any], is_same: NDArray[np.bool_]
    ) -> Rows:
        """The slots with what the interval before still got after its snapshot.

        That interval's flags and extremes were kept when this one's first packet came; what of
        them was not reported then belongs to this report.
        """
        completed = copied(slots)
        is_renewed = ~is_same | (origins["first_ns"] != self._first_ns[index])
        flags = origins["before_tcp_flags"] & ~np.where(is_same, self._tcp_flags[index], 0)
        completed["tcp_flags"] |= np.where(is_renewed, flags, 0).astype(np.uint8)
        least, most = origins["before_min_bytes"], origins["before_max_bytes"]
        is_less = is_renewed & (~is_same | (least < self._min_bytes[index]))
        is_more = is_renewed & (~is_same | (most > self._max_bytes[index]))
        least = np.where(is_less, least, _NO_MINIMUM)
        completed["min_bytes"] = np.minimum(slots["min_bytes"], least)
        completed["max_bytes"] = np.maximum(slots["max_bytes"], np.where(is_more, most, 0))
        return completed

    def _is_reported(self, rows: Rows, index: NDArray[Any]) -> NDArray[np.bool_]:
        """Whether *rows* are the flows that were reported of these slots last.

        During a long outage a slot may be replaced so often that its generation comes round.
        Bytes never go down, so that most such flows are told apart, and none of them counts as
        what is missing to 2^32 packets.
        """
        is_same: NDArray[np.bool_] = (rows["generation"] == self._generation[index]) & (
            rows["bytes"] >= self._bytes[index]
        )
        return is_same

    def _remember_replaced(self, index: NDArray[Any]) -> None:
        index = index[(self._bytes[index] > 0) | (self._packets[index] > 0)]
        if not len(index):
            return
        replaced = np.empty(len(index), _REPLACED)
        replaced["key"] = _key(index, self._generation[index])
        replaced["lane"] = self._lane[index]
        replaced["packets"] = self._packets[index]
        replaced["bytes"] = self._bytes[index]
        self._replaced = joined([self._replaced, replaced])

    def settle(self, evictions: Rows) -> Counted:
        """What evicted flows did that no snapshot has reported."""
        index = evictions["slot_index"].astype(np.int64)
        is_current = self._is_reported(evictions, index)
        packets = np.where(is_current, self._packets[index], np.uint32(0))
        in_bytes = np.where(is_current, self._bytes[index], np.uint64(0))
        # Its counts are settled now; a later snapshot must not take it for unsettled.
        self._packets[index[is_current]] = 0
        self._bytes[index[is_current]] = 0
        self._is_touched[index[is_current]] = True
        self._subtract_replaced(_key(index, evictions["generation"]), packets, in_bytes)
        packets, in_bytes = evictions["packets"] - packets, evictions["bytes"] - in_bytes
        # Most flows are silent when they have to go, and nothing is left to say of them.
        is_news = (packets > 0) | (in_bytes > 0)
        completed = self._completed(evictions, evictions, index, is_current)
        return Counted(
            chosen(completed, is_news),
            evictions["first_ns"][is_news],
            packets[is_news].astype(np.uint64),
            in_bytes[is_news],
        )

    def _subtract_replaced(
        self, keys: NDArray[np.uint64], packets: NDArray[np.uint32], in_bytes: NDArray[np.uint64]
    ) -> None:
        if not len(self._replaced) or not len(keys):
            return
        at = np.searchsorted(self._replaced["key"], keys).clip(max=len(self._replaced) - 1)
        is_found = self._replaced["key"][at] == keys
        packets[is_found] = self._replaced["packets"][at[is_found]]
        in_bytes[is_found] = self._replaced["bytes"][at[is_found]]
        is_left = np.ones(len(self._replaced), np.bool_)
        is_left[at[is_found]] = False
        self._replaced = chosen(self._replaced, is_left)

    def forget_silent(self, *, now: int, ticks: int) -> None:
        """Empty the slots whose last packet came *ticks* or more before the tick *now*.

        Everything of them must have been reported, and no packet may come meanwhile.
        """
        age = np.uint32(now & 0xFFFFFFFF) - self._slots["last_jiffies"]
        silent = np.flatnonzero(age >= ticks)
        for name, reported in (("packets", self._packets), ("bytes", self._bytes)):
            self._slots[name][silent] = 0
            reported[silent] = 0

    def take_lost(self, points: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        """Packets and bytes by hook point that were reported of flows whose eviction was lost.

        To be called when every eviction from before the last snapshot has been settled: what is
        left unsettled then never came.
        """
        packets = np.zeros(points, np.uint64)
        in_bytes = np.zeros(points, np.uint64)
        # The kernel keeps no totals of copies, which count nothing.
        is_counted = ~copies(self._replaced["lane"], self._contexts)
        lost = chosen(self._replaced, is_counted)
        point = unpack(LANE, "point", lost["lane"])
        np.add.at(packets, point, lost["packets"].astype(np.uint64))
        np.add.at(in_bytes, point, lost["bytes"])
        self._replaced = self._replaced[:0]
        return packets, in_bytes


def _key(index: NDArray[Any], generation: NDArray[np.uint16]) -> NDArray[np.uint64]:
    return index.astype(np.uint64) << np.uint64(16) | generation.astype(np.uint64)


def _nothing(dtype: np.dtype[Any]) -> Counted:
    return Counted(
        np.empty(0, dtype), np.empty(0, np.uint64), np.empty(0, np.uint64), np.empty(0, np.uint64)
    )
