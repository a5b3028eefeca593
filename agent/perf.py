# SPDX-License-Identifier: Apache-2.0
"""Drain a BPF perf buffer, for kernels that have no ring buffer (before Linux v5.8).

One ring per CPU, written by the kernel and read by us through shared memory, as in
kernel/events/ring_buffer.c.  Samples have one size; the only other record is the kernel's
count of what it had no room for, which our programs count themselves.
"""

import ctypes
import mmap
import os
import platform
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent import libbpf
from agent.rows import joined

# include/uapi/linux/perf_event.h
_PERF_TYPE_SOFTWARE = 1
_PERF_COUNT_SW_BPF_OUTPUT = 10
_PERF_SAMPLE_RAW = 1 << 10
_PERF_RECORD_SAMPLE = 9
_PERF_FLAG_FD_CLOEXEC = 8
_ATTR_BYTES = 112  # PERF_ATTR_SIZE_VER5
_DATA_HEAD_AT = 1024
_NEVER = 0x7FFFFFFF
_SAMPLE_HEADER_BYTES = 12  # struct perf_event_header, then the u32 size of the raw data

_SYSCALL_NUMBERS = {"x86_64": 298, "aarch64": 241}

_ONLINE_CPUS = Path("/sys/devices/system/cpu/online")


class PerfBuffer:
    """The samples of one perf event array as rows of *dtype*, all CPUs together.

    *size_bytes*, a power of two, is shared by the CPUs.  It goes with this process, so nobody can
    drain it again; `release` is there since a ring buffer has it.
    """

    def __init__(self, path: PathLike[str], size_bytes: int, dtype: np.dtype[Any]) -> None:
        cpus = online_cpus()
        each = max(mmap.PAGESIZE, 1 << ((size_bytes // len(cpus)).bit_length() - 1))
        self._dtype = dtype
        # The map lets go of the events when the descriptor that set them is closed.
        self._map_fd = libbpf.open_pinned(path)
        self._rings = [_CpuRing(self._map_fd, cpu, each, dtype) for cpu in cpus]

    @property
    def outlives_reader(self) -> bool:
        return False

    def position(self) -> tuple[int, ...]:
        """How far the kernel has written; `has_passed` tells when all of it was drained."""
        return tuple(ring.head() for ring in self._rings)

    def has_passed(self, position: tuple[int, ...]) -> bool:
        return all(ring.tail >= head for ring, head in zip(self._rings, position, strict=True))

    def drained(self) -> tuple[int, ...]:
        """Nothing that a successor could make use of."""
        return ()

    @property
    def held_share(self) -> float:
        return 0.0

    def release(self, position: tuple[int, ...]) -> None:
        """The space of samples goes back to the kernel as they are drained."""

    def drain(self, limit: int = 1 << 20) -> NDArray[Any]:
        """Copy out the samples of every CPU, about *limit* at most."""
        rows = [ring.drain(limit) for ring in self._rings]
        return joined(rows)


class _CpuRing:
    """One CPU's ring: a control page and the data, which wraps."""

    def __init__(self, map_fd: int, cpu: int, size_bytes: int, dtype: np.dtype[Any]) -> None:
        self._dtype = dtype
        self._size_bytes = size_bytes
        raw_bytes = 4 + dtype.itemsize
        self._stride = 8 + -(-raw_bytes // 8) * 8
        self._fd = _open_event(cpu)
        self._memory = _locked_memory(self._fd, mmap.PAGESIZE + size_bytes)
        self._positions = np.frombuffer(self._memory, np.uint64, 2, _DATA_HEAD_AT)
        self._data = np.frombuffer(self._memory, np.uint8, size_bytes, mmap.PAGESIZE)
        self.tail = int(self._positions[1])
        libbpf.update_element(map_fd, cpu, self._fd.to_bytes(4, "little"))

    def head(self) -> int:
        return int(self._positions[0])

    def drain(self, limit: int) -> NDArray[Any]:
        length = min(self.head() - self.tail, limit * self._stride)
        if not length:
            return np.empty(0, self._dtype)
        copied = self._copy(length)
        rows, used = self._samples(copied)
        # The space goes back after the copy.
        self.tail += used
        self._positions[1] = self.tail
        return rows

    def _copy(self, length: int) -> NDArray[np.uint8]:
        at = self.tail % self._size_bytes
        until_end = min(length, self._size_bytes - at)
        return np.concatenate([self._data[at : at + until_end], self._data[: length - until_end]])

    def _samples(self, copied: NDArray[np.uint8]) -> tuple[NDArray[Any], int]:
        """The samples in *copied*, and how many bytes hold whole records."""
        runs: list[NDArray[Any]] = []
        at = 0
        while at + 8 <= len(copied):
            run, at = self._run(copied, at)
            if run is None:
                break
            runs.append(run)
        return (joined(runs) if runs else np.empty(0, self._dtype)), at

    def _run(self, copied: NDArray[np.uint8], at: int) -> tuple[NDArray[Any] | None, int]:
        """The samples that follow one another from *at*; None when the next record is cut off."""
        count = (len(copied) - at) // self._stride
        records = copied[at : at + count * self._stride].reshape(count, self._stride)
        headers = records[:, :8].view(np.uint64)[:, 0]
        expected = _PERF_RECORD_SAMPLE | self._stride << 48
        # The 16 bits between type and size are flags, of no interest here.
        is_sample = (headers & np.uint64(0xFFFF0000FFFFFFFF)) == np.uint64(expected)
        run = count if is_sample.all() else int(np.argmin(is_sample))
        if run:
            start = _SAMPLE_HEADER_BYTES
            samples = records[:run, start : start + self._dtype.itemsize]
            # As one opaque value a sample is copied at once; as bytes, byte by byte.
            rows = samples.view(f"V{self._dtype.itemsize}")[:, 0].copy()
            return rows.view(self._dtype), at + run * self._stride
        size_bytes = int(copied[at + 6 : at + 8].view(np.uint16)[0])
        if at + size_bytes > len(copied):
            return None, at
        return np.empty(0, self._dtype), at + size_bytes


def _locked_memory(fd: int, size_bytes: int) -> mmap.mmap:
    try:
        return mmap.mmap(fd, size_bytes)
    except PermissionError as error:
        reason = "too little memory may be locked for perf buffers; raise ulimit -l, or lower"
        raise OSError(error.errno, f"{reason} --ring-bytes") from None


def _open_event(cpu: int) -> int:
    """A perf event that receives what BPF programs put out on *cpu*, and never wakes anybody."""
    attributes = np.zeros(_ATTR_BYTES // 4, np.uint32)
    attributes[0] = _PERF_TYPE_SOFTWARE
    attributes[1] = _ATTR_BYTES
    attributes[2] = _PERF_COUNT_SW_BPF_OUTPUT
    attributes[4] = 1  # sample_period
    attributes[6] = _PERF_SAMPLE_RAW
    attributes[12] = _NEVER  # wakeup_events
    libc = ctypes.CDLL(None, use_errno=True)
    number = _SYSCALL_NUMBERS[platform.machine()]
    pointer = ctypes.c_void_p(attributes.ctypes.data)
    fd: int = libc.syscall(number, pointer, -1, cpu, -1, _PERF_FLAG_FD_CLOEXEC)
    if fd < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"perf_event_open: {os.strerror(error)}", f"cpu {cpu}")
    return fd


def online_cpus() -> list[int]:
    """The numbers of the CPUs that are online."""
    cpus: list[int] = []
    for part in _ONLINE_CPUS.read_text().strip().split(","):
        first, _, last = part.partition("-")
        cpus += range(int(first), int(last or first) + 1)
    return cpus
