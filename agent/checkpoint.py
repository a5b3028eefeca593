# SPDX-License-Identifier: Apache-2.0
"""Keep what has been told of the kernel's counters where the kernel keeps the counters.

Counters only grow, so whoever knows how much of them has been told can tell the rest: once, and
whoever he is.  That knowledge is in two pinned maps: a row for each slot of the flow cache, and
one piece of content for all else.  Both hold it twice.  `commit` brings the older copy up to date
while the newer one is valid, and makes it valid with a single store.  An agent that is killed at
any moment leaves one whole copy behind, and whatever was told since that was valid has not been
sent (agent/outbox.py).
"""

import mmap
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgpack
import numpy as np
from numpy.typing import NDArray

from agent import libbpf, newmaps
from agent.plan import Pins
from agent.rows import Rows, copied
from schemas.dtype import dtype_from_layout
from schemas.fingerprint import described_dtype
from schemas.succession import FLOW_REPORTED

REPORTED = "reported"
CONTENT = "checkpoint"
# Five counters of 8 bytes for each of 4096 hook points, and then some.
_MOST_CONTENT_BYTES = 4 << 20
_HEAD_BYTES = 64


class Reported(Protocol):
    """What knows how much of each slot has been told."""

    def take_touched(self) -> NDArray[np.intp]:
        """The slots of which something was told since this was asked last."""
        ...

    def reported(self, index: NDArray[np.intp]) -> Rows:
        """Rows of FLOW_REPORTED for these slots."""
        ...


class ContentTooLargeError(Exception):
    """There is too much to keep at this moment; it will be less when buffers have been drained."""


@dataclass(frozen=True, slots=True)
class Saved:
    """What was valid when its agent ended."""

    content: Mapping[str, Any]
    reported: Rows  # a row for each slot


class Checkpoint:
    """Both maps of one agent; they are made where they are not there yet."""

    def __init__(self, pins: Pins, slots: int) -> None:
        self._reported = _two_copies(pins, dtype_from_layout(FLOW_REPORTED), slots)
        half_bytes = _HEAD_BYTES + _MOST_CONTENT_BYTES
        words = (_HEAD_BYTES + 2 * half_bytes) // 8
        self._content = shared_array(pins.map(CONTENT), value_bytes=8, count=words)
        self._number = np.frombuffer(self._content, np.uint64, 1)
        # Slots that the copy which is not valid lacks.
        self._stale: NDArray[np.intp] = np.arange(slots)

    def commit(self, content: Mapping[str, Any], cache: Reported) -> None:
        """Make valid what has been told by now.

        Raises:
            ContentTooLargeError: nothing has changed; try again later.
        """
        packed = msgpack.packb(content)
        if len(packed) > _MOST_CONTENT_BYTES:
            raise ContentTooLargeError(f"{len(packed)} bytes, of {_MOST_CONTENT_BYTES}")
        number = int(self._number[0]) + 1
        touched = cache.take_touched()
        behind = np.concatenate([self._stale, touched])
        self._reported[number & 1][behind] = cache.reported(behind)
        self._stale = touched
        at = _half_at(self._content, number)
        head = np.array([len(packed), zlib.crc32(packed)], np.uint64)
        self._content[at : at + head.nbytes] = head.tobytes()
        self._content[at + _HEAD_BYTES : at + _HEAD_BYTES + len(packed)] = packed
        # Everything before is written by now: x86 keeps stores in order.
        self._number[0] = number


def saved_in(pins: Pins) -> Saved | None:
    """What is valid there; None where nothing ever was."""
    try:
        content = _existing_array(pins.map(CONTENT))
    except FileNotFoundError:
        return None
    number = int(np.frombuffer(content, np.uint64, 1)[0])
    if not number:
        return None
    at = _half_at(content, number)
    length, checksum = np.frombuffer(content, np.uint64, 2, at).tolist()
    packed = content[at + _HEAD_BYTES : at + _HEAD_BYTES + length]
    if zlib.crc32(packed) != checksum:
        raise AssertionError(f"checkpoint {number} in {pins.folder} is damaged")
    saved = msgpack.unpackb(packed, strict_map_key=False)
    slots = saved["sizes"]["cpus"] * saved["sizes"]["slots_per_cpu"]
    dtype = described_dtype(saved["description"], FLOW_REPORTED.name)
    return Saved(saved, copied(_two_copies(pins, dtype, slots)[number & 1]))


def shared_array(path: Path, *, value_bytes: int, count: int) -> mmap.mmap:
    """The array pinned at *path*, or a new one, as writable memory."""
    os.close(newmaps.open_or_create_array(path, value_bytes=value_bytes, count=count))
    return _existing_array(path)


def _existing_array(path: Path) -> mmap.mmap:
    with libbpf.opened(path) as fd:
        size_bytes = -(-libbpf.array_bytes(fd) // mmap.PAGESIZE) * mmap.PAGESIZE
        return mmap.mmap(fd, size_bytes, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)


def _two_copies(pins: Pins, dtype: np.dtype[Any], slots: int) -> NDArray[Any]:
    memory = shared_array(pins.map(REPORTED), value_bytes=dtype.itemsize, count=2 * slots)
    return np.frombuffer(memory, dtype, 2 * slots).reshape(2, slots)


def _half_at(content: mmap.mmap, number: int) -> int:
    """Where the half of that number begins; the first bytes are the number that is valid."""
    return _HEAD_BYTES + (number & 1) * ((len(content) - _HEAD_BYTES) // 2 // 8 * 8)
