# SPDX-License-Identifier: Apache-2.0
"""Drain a BPF ring buffer from its mapping: one numpy copy for all records.

A callback per record costs Python hundreds of nanoseconds, the copy costs about ten.  All records
of our buffers have one size, so record *i* is at a fixed stride, and since the kernel maps the data
twice in a row, no record is ever split.  Records of another size are those of other programs, so
all of them are, and the first of a drain tells.

The layout is that of kernel/bpf/ringbuf.c (Linux v5.8 and later): a page with the consumer's
position, a page with the producer's, the data.  Each record has a header of 8 bytes: its length,
with a busy bit until it is committed and a discard bit where it was abandoned.  Both bits are in
the length's last byte, which is zero in every other record of ours.
"""

import mmap
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent import libbpf

_BUSY = np.uint32(1 << 31)
_DISCARD = np.uint32(1 << 30)
_HEADER_BYTES = 8
_MARKS_AT = 3  # of four bytes; the machines that we run on are little-endian


class RingError(Exception):
    """The ring buffer holds records of a size that nobody put there."""


class RingBuffer:
    """The records of one ring buffer as rows of *dtype*.  It must be the only consumer.

    What was drained stays in the buffer until it is released, so that it is drained again by
    whoever comes after a reader that was killed in between.
    """

    def __init__(self, path: PathLike[str], size_bytes: int, dtype: np.dtype[Any]) -> None:
        self._dtype = dtype
        self._row_bytes = dtype.itemsize
        self._size_bytes = size_bytes
        self._stride = dtype.itemsize + _HEADER_BYTES
        page = mmap.PAGESIZE
        with libbpf.opened(path) as fd:
            consumer_page = mmap.mmap(
                fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=0
            )
            self._producer_pages = mmap.mmap(
                fd, page + 2 * size_bytes, mmap.MAP_SHARED, mmap.PROT_READ, offset=page
            )
        # As machine words of 8 bytes, which are loaded and stored at once.
        self._consumer_position = memoryview(consumer_page)[:8].cast("Q")
        self._producer_position = memoryview(self._producer_pages)[:8].cast("Q")
        self._nothing = np.empty(0, dtype)
        self._number = self._in_lap = 0  # of the next record in this lap, and how many begin in it
        self._seek(self._consumer_position[0])

    @property
    def outlives_reader(self) -> bool:
        return True

    def position(self) -> tuple[int, ...]:
        """How far the kernel has written; `has_passed` tells when all of it was drained."""
        return (self._producer_position[0],)

    def has_passed(self, position: tuple[int, ...]) -> bool:
        return (self._consumed,) >= position

    def drained(self) -> tuple[int, ...]:
        """How far it was drained, which is how far it may be released."""
        return (self._consumed,)

    @property
    def held_share(self) -> float:
        """Which part of the buffer holds what was drained and not released."""
        return (self._consumed - self._consumer_position[0]) / self._size_bytes

    def release(self, position: tuple[int, ...]) -> None:
        """Give the space up to *position* back to the kernel, and never drain it again.

        One aligned store, and after every copy: so nothing is written over that is still read.
        """
        (until,) = position
        self._consumer_position[0] = max(self._consumer_position[0], until)
        if until > self._consumed:
            self._seek(until)

    def drain(self, limit: int = 1 << 20) -> NDArray[Any]:
        """Copy out at most *limit* finished records.

        The order of loads and stores is what makes this safe beside a writing kernel.  x86 keeps
        loads in order, and loads before later stores; numpy calls are not reordered.  On arm64 a
        barrier would be needed after steps 1 and 2, and before a release.
        """
        # 1. One aligned load of the producer's position.
        waits_bytes = self._producer_position[0] - self._consumed
        waiting, rest = divmod(waits_bytes, self._stride)
        if not waiting:
            return self._nothing
        number = self._number
        end = number + min(waiting, limit)
        # 2. The headers, by themselves, before any data.
        is_usual = self._lengths[number] == self._row_bytes and not rest
        if not is_usual or np.count_nonzero(self._marks[number:end]):
            return self._drain_kept(end - number)
        # 3. The data of finished records.
        rows = self._records[number:end].copy().getfield(self._dtype)
        self._pass(end)
        return rows

    def _drain_kept(self, count: int) -> NDArray[Any]:
        """The same where some are not finished, abandoned or of another size."""
        number = self._number
        headers = np.array(self._lengths[number : number + count], np.uint32)
        count, is_kept = _finished(headers, self._row_bytes)
        # By a mask, which copies.
        rows = self._records[number : number + count][is_kept].view(self._dtype)
        self._pass(number + count)
        return rows

    def _pass(self, number: int) -> None:
        self._consumed += (number - self._number) * self._stride
        self._number = number
        if number >= self._in_lap:
            self._seek(self._consumed)

    def _seek(self, position: int) -> None:
        """Go on at *position*, which lies in another lap of the buffer than the last one did.

        A stride does not divide the buffer, so records lie elsewhere in each lap.  The views of
        one are made here, so that a drain only cuts them.  A record's data is one opaque value,
        which numpy copies as a whole, where words would be copied one by one.
        """
        stride, pages = self._stride, self._producer_pages
        self._consumed = position
        self._number, phase = divmod(position % self._size_bytes, stride)
        # Those that begin before the end, and all that can be laid over both mappings.
        self._in_lap = -(-(self._size_bytes - phase) // stride)
        most = (2 * self._size_bytes - phase) // stride
        start = mmap.PAGESIZE + phase
        row = np.dtype(f"V{self._row_bytes}")
        self._lengths = memoryview(pages)[start:].cast("I")[:: stride // 4]
        self._marks = np.ndarray(most, np.uint8, pages, start + _MARKS_AT, (stride,))
        self._records = np.ndarray(most, row, pages, start + _HEADER_BYTES, (stride,))


def _finished(headers: NDArray[np.uint32], size_bytes: int) -> tuple[int, NDArray[np.bool_]]:
    """How many records come before the first busy one, and which of them to keep."""
    is_busy = (headers & _BUSY) != 0
    if is_busy.any():
        headers = headers[: int(is_busy.argmax())]
    lengths = headers & ~_DISCARD
    if (lengths != size_bytes).any():
        wrong = int(lengths[lengths != size_bytes][0])
        raise RingError(f"a record has {wrong} bytes, not {size_bytes}; restart the agent")
    return len(headers), (headers & _DISCARD) == 0
