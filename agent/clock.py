# SPDX-License-Identifier: Apache-2.0
"""From the kernel's clocks to wall time.

Per packet the kernel programs note jiffies, which cost nothing, and where precision matters
CLOCK_MONOTONIC.  Rows carry wall time.  An *anchor* is one moment on all three clocks; it is
taken anew at each drain, so a stepped or slewed wall clock bends at most one interval.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from agent import libbpf
from agent.plan import Pins
from agent.rows import Rows

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
# The smallest frame that the kernel lets a test run have.
_FRAME = bytes(14)
_CLOCK_MONOTONIC_COARSE = 6  # include/uapi/linux/time.h
_MS_NS = 1_000_000

Wall = TypeVar("Wall", int, NDArray[np.int64])


@dataclass(frozen=True, slots=True)
class Anchor:
    """One moment: jiffies, CLOCK_MONOTONIC and wall time, and the length of a tick."""

    jiffies: int
    monotonic_ns: int
    wall_ns: int
    tick_ns: int

    def wall_from_monotonic(self, monotonic_ns: NDArray[np.uint64]) -> NDArray[np.int64]:
        return monotonic_ns.astype(np.int64) + (self.wall_ns - self.monotonic_ns)

    def wall_from_jiffies(self, jiffies: NDArray[np.uint32]) -> NDArray[np.int64]:
        """The end of the tick in which each of *jiffies* (modulo 2^32) fell, at most now."""
        age_ticks = (np.uint32(self.jiffies & 0xFFFFFFFF) - jiffies).astype(np.int32)
        age_ns = np.maximum(age_ticks - 1, 0) * self.tick_ns
        return np.int64(self.wall_ns) - age_ns.astype(np.int64)

    def known_end(self, wall_ns: Wall) -> Wall:
        """The whole millisecond at or behind each of *wall_ns*, where a tick is at least as long.

        A tick's place within a millisecond is that of the anchor, which is drawn anew at each
        drain: digits that say nothing of a packet, and that took 2 bytes of each stored row.
        """
        if self.tick_ns < _MS_NS:
            return wall_ns
        return -(-wall_ns // _MS_NS) * _MS_NS

    def jiffies_at(self, wall_ns: int) -> int:
        """The first tick that surely begins behind a wall time; 1 for times before the boot."""
        # The present one has begun at some time before now.
        return max(self.jiffies + 2 + (wall_ns - self.wall_ns) // self.tick_ns, 1)

    def as_map(self) -> Mapping[str, int]:
        return {"monotonic_ns": self.monotonic_ns, "wall_ns": self.wall_ns}


class Clock(Protocol):
    """Where anchors come from: the kernel, or the capture that is replayed."""

    def anchor(self) -> Anchor: ...
    def begin_interval(self) -> None: ...


class KernelClock:
    """Takes anchors by running the clock program, which reads jiffies in the kernel."""

    def __init__(self, pins: Pins, shared: Rows) -> None:
        self._program_fd = libbpf.open_pinned(pins.program("hook_clock"))
        self._shared = shared
        self._tick_ns = tick_ns()
        # An interval that another agent began is not over: its snapshot is still to be taken.
        if not int(shared["interval_jiffies"][0]):
            self.begin_interval()

    def anchor(self) -> Anchor:
        jiffies, monotonic_ns = self._read()
        offset_ns = wall_offset_ns()
        return Anchor(jiffies, monotonic_ns, monotonic_ns + offset_ns, self._tick_ns)

    def begin_interval(self) -> None:
        """Tell the programs that flags and extremes are to begin anew, once a snapshot is taken.

        They do with a tick to come: of one that has begun, a flow that never rests has counted
        packets already, and would wait for its first one for ever.
        """
        jiffies, _ = self._read()
        # The next tick may come between this reading and the programs' first look at it.
        self._shared["interval_jiffies"][0] = (jiffies + 2) & 0xFFFFFFFF

    def _read(self) -> tuple[int, int]:
        libbpf.run_program(self._program_fd, _FRAME)
        return int(self._shared["jiffies"][0]), int(self._shared["monotonic_ns"][0])


def tick_ns() -> int:
    """The length of a tick: what the coarse clock, which ticks move on, says of itself."""
    return round(time.clock_getres(_CLOCK_MONOTONIC_COARSE) * 1e9)


def wall_offset_ns() -> int:
    """Wall time minus CLOCK_MONOTONIC: the reading of three in which the least time passed."""
    readings: list[tuple[int, int]] = []
    for _ in range(3):
        before_ns = time.monotonic_ns()
        wall_ns = time.time_ns()
        after_ns = time.monotonic_ns()
        readings.append((after_ns - before_ns, wall_ns - (before_ns + after_ns) // 2))
    return min(readings)[1]


def boot_id() -> str:
    """The kernel's name for this boot, during which CLOCK_MONOTONIC never goes back."""
    return _BOOT_ID.read_text().strip()
