# SPDX-License-Identifier: Apache-2.0
"""Drain a BPF ring buffer from its mapping: one numpy copy for all records.

A callback per record costs Python hundreds of nanoseconds, the copy costs about ten.  All records
of our buffers have one size, so record *i* is at a fixed stride, and since the kernel maps the data
twice in a row, no record is ever split.

The layout is that of kernel/bpf/ringbuf.c (Linux v5.8 and later): a page with the consumer's
position, a page with the producer's, the data.  Each record has a header of 8 bytes: its length,
with a busy bit until it is committed and a discard bit where it was abandoned.
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


class RingError(Exception):
    """The ring buffer holds records of a size that nobody put there."""


class RingBuffer:
    """The records of one ring buffer as rows of *dtype*.  It must be the only consumer.

    What was drained stays in the buffer until it is released, so that it is drained again by
    whoever comes after a reader that was killed in between.
    """

    def __init__(self, path: PathLike[str], size_bytes: int, dtype: np.dtype[Any]) -> None:
        self._dtype = dtype
        self._size_bytes = size_bytes
        self._mask = size_bytes - 1
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
        self._views: dict[int, tuple[NDArray[np.uint32], NDArray[Any]]] = {}
        # Much of a drain is numpy's own, so none makes an array that could be here already.
        self._finished_header = np.array(dtype.itemsize, np.uint32)
        # The same bytes twice: numpy writes them, and a bytearray finds one with less ado.
        self._flags = bytearray(size_bytes // self._stride)
        self._are_finished = np.frombuffer(self._flags, np.bool_)
        self._nothing = np.empty(0, dtype)
        self._consumed = self._consumer_position[0]

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
        if until <= self._consumer_position[0]:
            return
        self._consumer_position[0] = until
        self._consumed = max(self._consumed, until)

    def drain(self, limit: int = 1 << 20) -> NDArray[Any]:
        """Copy out at most *limit* finished records.

        The order of loads and stores is what makes this safe beside a writing kernel.  x86 keeps
        loads in order, and loads before later stores; numpy calls are not reordered.  On arm64 a
        barrier would be needed after steps 1 and 2, and before a release.
        """
        # 1. One aligned load of the producer's position.
        consumed = self._consumed
        count = min((self._producer_position[0] - consumed) // self._stride, limit)
        if not count:
            return self._nothing
        headers, records = self._from(consumed & self._mask, count)
        # 2. The headers, by themselves, before any data.
        np.equal(headers, self._finished_header, self._are_finished[:count])
        if self._flags.find(0, 0, count) >= 0:
            return self._drain_kept(headers, records)
        # 3. The data of finished records.
        self._consumed = consumed + count * self._stride
        return records.copy().getfield(self._dtype)

    def _drain_kept(self, headers: NDArray[np.uint32], records: NDArray[Any]) -> NDArray[Any]:
        """The same where a record is not finished, was abandoned, or has a wrong size."""
        count, is_kept = _finished(headers.copy(), self._dtype.itemsize)
        self._consumed += count * self._stride
        # A copy, as of rows by a mask.
        return records[:count][is_kept].view(self._dtype)

    def _from(self, at: int, count: int) -> tuple[NDArray[np.uint32], NDArray[Any]]:
        """The headers and the data of *count* records, where they lie.

        A stride does not divide the buffer, so there are as many ways to lay records over it as a
        stride has words; each is made once.  A record's data is one opaque value, which numpy
        copies as a whole, where words would be copied one by one.
        """
        number, phase = divmod(at, self._stride)
        if phase not in self._views:
            start = mmap.PAGESIZE + phase
            most = (2 * self._size_bytes - phase) // self._stride
            pages, strides = self._producer_pages, (self._stride,)
            data = np.dtype(f"V{self._dtype.itemsize}")
            self._views[phase] = (
                np.ndarray(most, np.uint32, pages, start, strides),
                np.ndarray(most, data, pages, start + _HEADER_BYTES, strides),
            )
        headers, records = self._views[phase]
        return headers[number : number + count], records[number : number + count]


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
