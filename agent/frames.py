# SPDX-License-Identifier: Apache-2.0
"""Read captured packets from their ring buffer, and the books of a capture.

The client of a capture does this in its own process: it gets both maps as descriptors.  Records
have the length that their packet has, so they are walked one by one; the order of loads and stores
is that of ring.py, and as safe.
"""

import mmap
import struct
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from schemas.capture import CAPTURE_BOOKS, CAPTURE_SLOTS, CAPTURED_FRAME
from schemas.dtype import dtype_from_layout
from schemas.layout import ADDR, U16, U32, U64, Layout

_BUSY = 1 << 31
_DISCARD = 1 << 30
_HEADER_BYTES = 8
# Space goes back to the kernel while there is more to copy.
_GIVE_BACK_BYTES = 1 << 18


class Frame(NamedTuple):
    """One captured packet."""

    seen_ns: int
    src_addr: bytes
    dst_addr: bytes
    src_port: int
    dst_port: int
    point: int
    protocol: int
    original_bytes: int
    captured_bytes: int
    data: bytes


def _struct_of(layout: Layout) -> struct.Struct:
    codes = {U16: "H", U32: "I", U64: "Q", ADDR: "16s"}
    return struct.Struct(
        "<"
        + "".join(
            codes[field.kind] if field.name else f"{field.kind.size_bytes}x"
            for field in layout.fields
        )
    )


_HEAD = _struct_of(CAPTURED_FRAME)


class FrameRing:
    """The packets of one capture.  It must be the only reader."""

    def __init__(self, ring_fd: int, size_bytes: int) -> None:
        self._mask = size_bytes - 1
        page = mmap.PAGESIZE
        self._consumer_page = mmap.mmap(
            ring_fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=0
        )
        pages = mmap.mmap(
            ring_fd, page + 2 * size_bytes, mmap.MAP_SHARED, mmap.PROT_READ, offset=page
        )
        # Casts read and write a whole word at once.
        self._consumer = memoryview(self._consumer_page).cast("Q")
        self._producer = memoryview(pages)[:page].cast("Q")
        self._bytes = memoryview(pages)[page:]
        self._headers = self._bytes.cast("I")

    def drain(self, limit: int) -> list[Frame]:
        """Copy out at most *limit* packets and hand their space back."""
        at = given_back = self._consumer[0]
        end = self._producer[0]
        frames: list[Frame] = []
        while at < end and len(frames) < limit:
            start = at & self._mask
            header = self._headers[start >> 2]
            if header & _BUSY:
                break
            length = header & ~_DISCARD
            if not header & _DISCARD:
                start += _HEADER_BYTES
                frames.append(_frame(bytes(self._bytes[start : start + length])))
            at += (length + _HEADER_BYTES + 7) & ~7
            if at - given_back >= _GIVE_BACK_BYTES:
                self._consumer[0] = given_back = at
        self._consumer[0] = at
        return frames


def _frame(record: bytes) -> Frame:
    return Frame._make((*_HEAD.unpack_from(record), record[_HEAD.size :]))


@dataclass(frozen=True, slots=True)
class Counted:
    """What a capture has counted, by hook point."""

    seen: list[int]
    matched: list[int]
    lost: list[int]


class Books:
    """The books of one capture, which the kernel goes on writing."""

    def __init__(self, books_fd: int, *, slot: int, cpus: int, hook_points: int) -> None:
        dtype = dtype_from_layout(CAPTURE_BOOKS)
        count = CAPTURE_SLOTS * cpus * hook_points
        size_bytes = -(-count * dtype.itemsize // mmap.PAGESIZE) * mmap.PAGESIZE
        memory = mmap.mmap(books_fd, size_bytes, mmap.MAP_SHARED, mmap.PROT_READ)
        books = np.frombuffer(memory, dtype, count).reshape(CAPTURE_SLOTS, cpus, hook_points)
        self._books = books[slot]

    def counted(self) -> Counted:
        """What has been counted until now, all CPUs together."""
        names = ("seen_packets", "matched_packets", "lost_packets")
        return Counted(*(self._books[name].sum(axis=0).tolist() for name in names))
