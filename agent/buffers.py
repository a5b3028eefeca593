# SPDX-License-Identifier: Apache-2.0
"""Open the buffers through which events come, of whichever kind the kernel has."""

from collections.abc import Callable
from typing import Any, Protocol

from agent.perf import PerfBuffer
from agent.plan import Pins, Sizes
from agent.ring import RingBuffer
from agent.rows import Rows
from schemas.dtype import dtype_from_layout
from schemas.layout import Layout

# Of locked memory, which perf buffers count as, 8 MiB are usual: flows and packets have them.
_PERF_SHARE_OF_SOCKETS = 8

Position = tuple[int, ...]


class EventBuffer(Protocol):
    """Events of one kind, as rows in the order in which each CPU wrote them."""

    def position(self) -> Position:
        """How far the kernel has written."""
        ...

    def has_passed(self, position: Position) -> bool:
        """Whether all up to there was drained."""
        ...

    def drain(self, limit: int = ...) -> Rows:
        """Copy out what was written."""
        ...

    def drained(self) -> Position:
        """How far it was drained, which is how far it may be released."""
        ...

    @property
    def held_share(self) -> float:
        """Which part of the buffer holds what was drained and not released."""
        ...

    @property
    def outlives_reader(self) -> bool:
        """Whether what was not released is there for the next reader."""
        ...

    def release(self, position: Any) -> None:
        """Give the space up to *position* back to the kernel, and never drain it again."""
        ...


Open = Callable[[str, Layout], EventBuffer]


def open_buffer(pins: Pins, sizes: Sizes, name: str, layout: Layout) -> EventBuffer:
    """The buffer that is pinned under that name."""
    dtype = dtype_from_layout(layout)
    if sizes.buffer == "ring":
        return RingBuffer(pins.map(name), sizes.ring_bytes, dtype)
    share = _PERF_SHARE_OF_SOCKETS if name == "sockets" else 1
    return PerfBuffer(pins.map(name), sizes.ring_bytes // share, dtype)


def take(buffer: EventBuffer) -> Rows:
    """Drain a buffer whose events nobody else will want."""
    rows = buffer.drain()
    buffer.release(buffer.drained())
    return rows
