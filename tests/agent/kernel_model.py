# SPDX-License-Identifier: Apache-2.0
"""A flow cache as one CPU keeps it, in plain Python, which also remembers the truth."""

from collections import Counter
from collections.abc import Iterator
from itertools import islice, takewhile

import numpy as np

from schemas.dtype import dtype_from_layout
from schemas.flow import FLOW_CONTEXT, FLOW_EVICTION, FLOW_ORIGIN, FLOW_SLOT, LANE
from schemas.ledger import HOOK_TOTALS

POINTS = 3


class KernelModel:
    """One set of *ways* slots, an event buffer of *room* evictions, and overflow totals."""

    def __init__(self, *, ways: int = 2, room: int = 1 << 30) -> None:
        self.slots = np.zeros(ways, dtype_from_layout(FLOW_SLOT))
        self.origins = np.zeros(ways, dtype_from_layout(FLOW_ORIGIN))
        self.contexts = np.zeros(1, dtype_from_layout(FLOW_CONTEXT))
        self.totals = np.zeros((1, POINTS), dtype_from_layout(HOOK_TOTALS))
        self.room = room
        # Evictions from the first on, None in place of one that is not finished; those before
        # *released* have made room for others.
        self.log: list[np.void | None] = []
        self.released = 0
        self.truth: Counter[str] = Counter()
        self._tick = 0
        self._halted: Iterator[None] = iter(())

    def packet(self, flow: int, in_bytes: int = 100, flags: int = 0) -> None:
        """Count one packet of *flow*, at the hook point that flow belongs to."""
        self.go_on()
        self._halted = self._steps(flow, in_bytes, flags)
        self.go_on()

    def halt_amid(self, flow: int, steps: int) -> None:
        """Count one packet of *flow*, but stand still after so many steps, until `go_on`."""
        self.go_on()
        self._halted = self._steps(flow, 100, 0)
        for _ in islice(self._halted, steps):
            pass

    def go_on(self) -> None:
        """Let the CPU finish the packet amid which it stands still, if it does."""
        for _ in self._halted:
            pass

    def _steps(self, flow: int, in_bytes: int, flags: int) -> Iterator[None]:
        """The stores of one packet whose order matters to a reader, with a stop between any two."""
        self._tick += 1
        point = 1 + flow % (POINTS - 1)
        self.truth["packets"] += 1
        self.truth["bytes"] += in_bytes
        self.totals["seen_packets"][0, point] += 1
        self.totals["seen_bytes"][0, point] += in_bytes
        way = self._way_of(flow)
        is_new = way is None
        if is_new:
            way = int(np.argmin(np.where(self.slots["bytes"] > 0, self.slots["last_jiffies"], 0)))
            yield from self._take(way, flow, point)
        slot = self.slots[way]
        slot["packets"] = (int(slot["packets"]) + 1) % (1 << 32)
        slot["bytes"] += np.uint64(in_bytes)
        slot["tcp_flags"] |= flags
        slot["last_jiffies"] = self._tick
        if is_new:
            yield
            slot["generation"] = (int(slot["generation"]) + 1) % (1 << 16)

    def drain(self) -> np.ndarray:
        """What a reader that releases at once would get."""
        reader = Reader(self)
        evictions = reader.drain()
        reader.release(reader.drained())
        return evictions

    def _way_of(self, flow: int) -> int | None:
        for way, slot in enumerate(self.slots):
            if slot["bytes"] and slot["src_port_be"] == flow:
                return way
        return None

    def _take(self, way: int, flow: int, point: int) -> Iterator[None]:
        slot = self.slots[way]
        if slot["bytes"]:
            yield from self._evict(way)
        slot["generation"] |= 1
        yield
        slot["src_port_be"], slot["lane"] = flow, point << LANE.shift("point")
        slot["packets"] = slot["bytes"] = slot["tcp_flags"] = 0
        self.origins[way]["first_ns"] = self._tick

    def _evict(self, way: int) -> Iterator[None]:
        slot = self.slots[way]
        point = int(slot["lane"]) >> LANE.shift("point") & LANE.mask("point")
        if len(self.log) - self.released >= self.room:
            slot["generation"] |= 1
            yield
            self.totals["overflows"][0, point] += 1
            self.totals["overflow_packets"][0, point] += slot["packets"]
            self.totals["overflow_bytes"][0, point] += slot["bytes"]
            yield
            return
        place = len(self.log)
        self.log.append(None)
        yield
        eviction = np.zeros(1, dtype_from_layout(FLOW_EVICTION))
        for name in FLOW_SLOT.fields:
            eviction[name.name] = slot[name.name]
        eviction["first_ns"] = self.origins[way]["first_ns"]
        eviction["slot_index"] = way
        slot["generation"] |= 1
        yield
        self.log[place] = eviction[0]
        self.totals["evicted_packets"][0, point] += slot["packets"]
        self.totals["evicted_bytes"][0, point] += slot["bytes"]
        yield


class Reader:
    """A reader of the model's event buffer, which outlives it."""

    outlives_reader = True
    held_share = 0.0

    def __init__(self, kernel: KernelModel) -> None:
        self._kernel = kernel
        self._drained = kernel.released

    def drain(self, limit: int = 1 << 20) -> np.ndarray:
        written = self._kernel.log[self._drained : self._drained + limit]
        found = list(takewhile(lambda eviction: eviction is not None, written))
        self._drained += len(found)
        return np.array(found, dtype_from_layout(FLOW_EVICTION))

    def position(self) -> tuple[int, ...]:
        return (len(self._kernel.log),)

    def has_passed(self, position: tuple[int, ...]) -> bool:
        return (self._drained,) >= position

    def drained(self) -> tuple[int, ...]:
        return (self._drained,)

    def release(self, position: tuple[int, ...]) -> None:
        self._kernel.released = max(self._kernel.released, position[0])
        self._drained = max(self._drained, position[0])
