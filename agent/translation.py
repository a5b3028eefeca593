# SPDX-License-Identifier: Apache-2.0
"""Read what another version of this agent has left, by the description that it left with it.

Members of structs are found by their names; what is missing is zero, what is unknown is left out.
Packed fields are taken apart as they were packed, and packed as they are now.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.buffers import EventBuffer, Position
from agent.maps import mapped
from agent.perf import PerfBuffer
from agent.plan import Pins, Sizes
from agent.ring import RingBuffer
from agent.rows import Rows
from schemas.dtype import dtype_from_layout, unpack
from schemas.fingerprint import described_bits, described_dtype
from schemas.flow import CONTEXT_LANE, LANE, SHAPES
from schemas.layout import Bits, Layout


@dataclass(frozen=True, slots=True)
class Translation:
    """From the layouts of a *description* to those of today."""

    description: Mapping[str, Any]

    def dtype(self, layout: Layout) -> np.dtype[np.void]:
        """What the struct was then."""
        return described_dtype(self.description, layout.name)

    def rows(self, rows: Rows, layout: Layout) -> Rows:
        """A copy of *rows* as the struct is now."""
        translated = np.zeros(rows.shape, dtype_from_layout(layout))
        if translated.dtype == rows.dtype and self._packs_alike:
            translated[:] = rows
            return translated
        for name in set(translated.dtype.names or ()) & set(rows.dtype.names or ()):
            translated[name] = self._lane(rows[name]) if name == "lane" else rows[name]
        return translated

    @property
    def _packs_alike(self) -> bool:
        return all(
            described_bits(self.description, bits.name).widths == bits.widths
            for bits in (LANE, CONTEXT_LANE)
        )

    def _lane(self, lane: NDArray[np.uint32]) -> NDArray[np.uint32]:
        before = {bits.name: described_bits(self.description, bits.name) for bits in _LANES}
        has_context = unpack(before[LANE.name], "shape", lane) == SHAPES["context"]
        plain, context = (_repacked(lane, before[bits.name], bits) for bits in _LANES)
        return np.where(has_context, context, plain)

    def mapped(
        self, pins: Pins, name: str, layout: Layout, count: int, *, is_writable: bool = False
    ) -> Rows:
        """The array pinned under that name, as it is now; nobody may write to it any more."""
        del is_writable
        return self.rows(mapped(pins.map(name), self.dtype(layout), count), layout)

    def buffer(self, pins: Pins, sizes: Sizes, name: str, layout: Layout) -> EventBuffer:
        """The buffer pinned under that name."""
        kind = RingBuffer if sizes.buffer == "ring" else PerfBuffer
        opened = kind(pins.map(name), sizes.ring_bytes, self.dtype(layout))
        return Translated(opened, partial(self.rows, layout=layout))


_LANES = (LANE, CONTEXT_LANE)


def _repacked(lane: NDArray[np.uint32], before: Bits, now: Bits) -> NDArray[np.uint32]:
    packed = np.zeros(len(lane), np.uint32)
    for part, _ in now.widths:
        if part in dict(before.widths):
            value = unpack(before, part, lane).astype(np.uint32) & np.uint32(now.mask(part))
            packed |= value << np.uint32(now.shift(part))
    return packed


class Translated:
    """A buffer whose events are translated as they are drained."""

    def __init__(self, buffer: EventBuffer, translate: Any) -> None:
        self._buffer = buffer
        self._translate = translate

    def position(self) -> Position:
        return self._buffer.position()

    def has_passed(self, position: Position) -> bool:
        return self._buffer.has_passed(position)

    def drain(self, limit: int = 1 << 20) -> Rows:
        translated: Rows = self._translate(self._buffer.drain(limit))
        return translated

    def drained(self) -> Position:
        return self._buffer.drained()

    @property
    def held_share(self) -> float:
        return self._buffer.held_share

    @property
    def outlives_reader(self) -> bool:
        return self._buffer.outlives_reader

    def release(self, position: Any) -> None:
        self._buffer.release(position)
