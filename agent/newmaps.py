# SPDX-License-Identifier: Apache-2.0
"""New maps, by their descriptors: of any kind, and those that the agent makes itself.

A map lives as long as a descriptor, a pin or a program holds it.
"""

import ctypes
import errno
import os
from collections.abc import Sequence
from pathlib import Path

from agent.libbpf import call, kernel_name, open_pinned, pin

# enum bpf_map_type, include/uapi/linux/bpf.h (the numbers are stable kernel interface).
_ARRAY = 2
_PROGRAM_ARRAY = 3
LPM_TRIE = 11
ARRAY_OF_MAPS = 12
SK_STORAGE = 24
RINGBUF = 27

BPF_F_NO_PREALLOC = 1 << 0
_BPF_F_MMAPABLE = 1 << 10


class _MapCreateOptions(ctypes.Structure):
    # The head of struct bpf_map_create_opts (libbpf 0.7).
    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("btf", ctypes.c_uint32 * 4),
        ("inner_map_fd", ctypes.c_uint32),
        ("map_flags", ctypes.c_uint32),
    )


def create_map(
    name: str,
    kind: int,
    *,
    key_bytes: int,
    value_bytes: int,
    count: int,
    flags: int = 0,
    types: Sequence[int] = (),
) -> int:
    """A map of any kind, by its descriptor.

    *types* are a descriptor of BTF, and the numbers of the key's and the value's type in it.
    """
    options = _MapCreateOptions(sz=ctypes.sizeof(_MapCreateOptions), map_flags=flags)
    options.btf[: len(types)] = types
    return call(
        "bpf_map_create",
        name,
        kind,
        kernel_name(name),
        key_bytes,
        value_bytes,
        count,
        ctypes.byref(options),
    )


def create_array(name: str, *, value_bytes: int, count: int) -> int:
    """An array that can be mapped into memory, by its descriptor."""
    return create_map(
        name, _ARRAY, key_bytes=4, value_bytes=value_bytes, count=count, flags=_BPF_F_MMAPABLE
    )


def open_or_create_array(path: Path, *, value_bytes: int, count: int) -> int:
    """The array pinned at *path*, or a new one that is pinned there, by its descriptor."""
    try:
        return open_pinned(path)
    except FileNotFoundError:
        fd = create_array(path.name, value_bytes=value_bytes, count=count)
        pin(fd, path)
        return fd


def create_program_array(name: str, count: int) -> int:
    """An array of programs in which others go on; emptied when its descriptor is closed."""
    return create_map(name, _PROGRAM_ARRAY, key_bytes=4, value_bytes=4, count=count)


def create_ring(size_bytes: int) -> int:
    """A new ring buffer; it lives as long as a descriptor, pin or program holds it."""
    return call("bpf_map_create", "ring", RINGBUF, b"hookline_ring", 0, 0, size_bytes, None)


def has_ring_buffers() -> bool:
    """Whether the kernel knows them (since Linux v5.8)."""
    try:
        os.close(create_ring(os.sysconf("SC_PAGE_SIZE")))
    except OSError as error:
        # For want of rights or memory it refuses those that it knows.
        return error.errno != errno.EINVAL
    return True


def create_array_of_maps(pattern_fd: int, count: int) -> int:
    """A new array whose elements are maps like that of the descriptor, or nothing."""
    options = _MapCreateOptions(sz=ctypes.sizeof(_MapCreateOptions), inner_map_fd=pattern_fd)
    return call(
        *("bpf_map_create", "array of maps", ARRAY_OF_MAPS, b"hookline_maps"),
        *(4, 4, count, ctypes.byref(options)),
    )


def pin_array_of_maps(path: Path, pattern_fd: int, count: int) -> None:
    """Pin a new one at *path*; the descriptor of its pattern is closed."""
    try:
        fd = create_array_of_maps(pattern_fd, count)
    finally:
        os.close(pattern_fd)
    try:
        pin(fd, path)
    finally:
        os.close(fd)


def create_array_of_rings(count: int) -> int:
    """A new array whose elements are ring buffers, or nothing."""
    pattern = create_ring(os.sysconf("SC_PAGE_SIZE"))
    try:
        return create_array_of_maps(pattern, count)
    finally:
        os.close(pattern)
