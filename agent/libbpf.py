# SPDX-License-Identifier: Apache-2.0
"""The calls of libbpf that the agent needs, bound with ctypes.

bcc would bring LLVM into every process that wants to open a pinned map; libbpf is 0.4 MB.
Each function raises OSError with the kernel's errno, the call and what it was given.
"""

import ctypes
import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# enum bpf_attach_type, include/uapi/linux/bpf.h (the numbers are stable kernel interface).
BPF_XDP = 37
BPF_TCX_INGRESS = 46
BPF_TCX_EGRESS = 47
BPF_F_BEFORE = 1 << 3  # without a program to be before: at the head of the chain

# enum bpf_link_type, in the same file.
LINK_CGROUP = 3
LINK_XDP = 6

# include/uapi/linux/if_link.h
XDP_FLAGS_SKB_MODE = 1 << 1
XDP_FLAGS_DRV_MODE = 1 << 2

_ENOTSUPP = 524  # include/linux/errno.h; the C library does not know it
_MOST_PROGRAMS = 64  # BPF_MPROG_MAX, include/linux/bpf_mprog.h

# enum bpf_prog_type
PROGRAM_TYPES = {
    "SCHED_CLS": 3,
    "XDP": 6,
    "CGROUP_SOCK": 9,
    "SOCK_OPS": 13,
    "CGROUP_SOCK_ADDR": 18,
}
BPF_F_XDP_HAS_FRAGS = 1 << 5

_Pointer = ctypes.c_void_p


class _LinkCreateOptions(ctypes.Structure):
    # The head of struct bpf_link_create_opts (libbpf 0.1); sz tells libbpf where it ends.
    _fields_ = (("sz", ctypes.c_size_t), ("flags", ctypes.c_uint32), ("_pad", ctypes.c_uint32))


class _ProgramLoadOptions(ctypes.Structure):
    # The head of struct bpf_prog_load_opts (libbpf 0.7).
    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("attempts", ctypes.c_int),
        ("expected_attach_type", ctypes.c_int),
        ("prog_btf_fd", ctypes.c_uint32),
        ("prog_flags", ctypes.c_uint32),
    )


class _TestRunOptions(ctypes.Structure):
    # struct bpf_test_run_opts (libbpf 0.2).
    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("data_in", _Pointer),
        ("data_out", _Pointer),
        ("data_size_in", ctypes.c_uint32),
        ("data_size_out", ctypes.c_uint32),
        ("ctx_in", _Pointer),
        ("ctx_out", _Pointer),
        ("ctx_size_in", ctypes.c_uint32),
        ("ctx_size_out", ctypes.c_uint32),
        ("retval", ctypes.c_uint32),
        ("repeat", ctypes.c_int),
        ("duration", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("cpu", ctypes.c_uint32),
        ("batch_size", ctypes.c_uint32),
    )


# The same as a row of an array, so that thousands of runs are prepared at once.
_TEST_RUN_FIELDS = {
    "sz": "<u8",
    "data_in": "<u8",
    "data_size_in": "<u4",
    "data_size_out": "<u4",
    "ctx_in": "<u8",
    "ctx_size_in": "<u4",
    "ctx_size_out": "<u4",
    "repeat": "<i4",
}
TEST_RUN = np.dtype(
    {
        "names": list(_TEST_RUN_FIELDS),
        "formats": list(_TEST_RUN_FIELDS.values()),
        "offsets": [getattr(_TestRunOptions, name).offset for name in _TEST_RUN_FIELDS],
        "itemsize": ctypes.sizeof(_TestRunOptions),
    }
)

_PROTOTYPES: dict[str, tuple[Any, ...]] = {
    "bpf_obj_get": (ctypes.c_char_p,),
    "bpf_obj_pin": (ctypes.c_int, ctypes.c_char_p),
    "bpf_link_create": (ctypes.c_int, ctypes.c_int, ctypes.c_int, _Pointer),
    "bpf_link_detach": (ctypes.c_int,),
    "bpf_obj_get_info_by_fd": (ctypes.c_int, _Pointer, _Pointer),
    "bpf_prog_query": (
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_uint32,
        _Pointer,
        _Pointer,
        _Pointer,
    ),
    "bpf_map_create": (
        ctypes.c_int,
        ctypes.c_char_p,
        ctypes.c_uint32,
        ctypes.c_uint32,
        ctypes.c_uint32,
        _Pointer,
    ),
    "bpf_prog_load": (
        ctypes.c_int,
        ctypes.c_char_p,
        ctypes.c_char_p,
        _Pointer,
        ctypes.c_size_t,
        _Pointer,
    ),
    "bpf_btf_load": (_Pointer, ctypes.c_size_t, _Pointer),
    "bpf_link_update": (ctypes.c_int, ctypes.c_int, _Pointer),
    "bpf_map_delete_elem": (ctypes.c_int, _Pointer),
    "bpf_map_lookup_elem": (ctypes.c_int, _Pointer, _Pointer),
    "bpf_map_update_elem": (ctypes.c_int, _Pointer, _Pointer, ctypes.c_uint64),
    "bpf_map_update_batch": (ctypes.c_int, _Pointer, _Pointer, _Pointer, _Pointer),
    "bpf_prog_test_run_opts": (ctypes.c_int, _Pointer),
}


def _load_library() -> ctypes.CDLL:
    library = ctypes.CDLL("libbpf.so.1", use_errno=True)
    for name, argument_types in _PROTOTYPES.items():
        function = getattr(library, name)
        function.argtypes = argument_types
        function.restype = ctypes.c_int
    return library


_libbpf = _load_library()


def call(name: str, subject: str, *arguments: object) -> int:
    """Call a function of libbpf's by its *name*; an error says what its *subject* was."""
    result: int = getattr(_libbpf, name)(*arguments)
    if result < 0:
        # libbpf 1 returns -errno; older ones set errno and return -1.
        number = -result if result != -1 else ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}", subject)
    return result


def open_pinned(path: os.PathLike[str]) -> int:
    """A new descriptor of the object pinned at *path*; the caller closes it."""
    return call("bpf_obj_get", str(path), os.fsencode(path))


def pin(fd: int, path: Path) -> None:
    """Keep the object of *fd* alive under *path* until that is unlinked."""
    call("bpf_obj_pin", str(path), fd, os.fsencode(path))


def create_link(program_fd: int, ifindex: int, attach_type: int, *, flags: int = 0) -> int:
    """Attach a program to an interface; it stays while the link's descriptor or pin does.

    EBUSY: an XDP program of somebody else's is there already.
    EINVAL: the kernel has no such attach type (tcx came with Linux v6.6).
    """
    options = _LinkCreateOptions(ctypes.sizeof(_LinkCreateOptions), flags, 0)
    return call(
        "bpf_link_create",
        f"ifindex {ifindex}",
        program_fd,
        ifindex,
        attach_type,
        ctypes.byref(options),
    )


def create_cgroup_link(program_fd: int, cgroup_fd: int, attach_type: int) -> int:
    """Attach a program to a cgroup, beside those of others; else as `create_link`."""
    subject = f"attach type {attach_type}"
    return call("bpf_link_create", subject, program_fd, cgroup_fd, attach_type, None)


def update_link(link_fd: int, program_fd: int) -> None:
    """Put another program of the same type in the place of a link's, without a packet between."""
    call("bpf_link_update", "link", link_fd, program_fd, None)


def link_type(link_fd: int) -> int:
    """Which kind of link it is."""
    return information(link_fd)[0]


def array_bytes(map_fd: int) -> int:
    """How many bytes all values of an array take: value_size and max_entries of bpf_map_info."""
    _, _, _, value_bytes, count, *_ = information(map_fd)
    return value_bytes * count


def link_target(link_fd: int) -> int:
    """What a link is attached to: a cgroup's number, or an interface's index; 0 once that is gone.

    Both stand at the head of the union in struct bpf_link_info, include/uapi/linux/bpf.h.
    """
    kind, _, _, _, low, high, *_ = information(link_fd)
    return low | high << 32 if kind == LINK_CGROUP else low


def information(fd: int) -> list[int]:
    """The first words of the kernel's struct about it: bpf_prog_info, _map_info, _link_info."""
    words = (ctypes.c_uint32 * 16)()
    size = ctypes.c_uint32(ctypes.sizeof(words))
    call("bpf_obj_get_info_by_fd", f"fd {fd}", fd, ctypes.byref(words), ctypes.byref(size))
    return list(words)


def detach_link(path: Path) -> None:
    """Detach the link pinned at *path* now, not when its last holder lets go, and unpin it.

    A link whose interface has gone has detached itself; that is no error.
    """
    with opened(path) as fd, suppress(OSError):
        call("bpf_link_detach", str(path), fd)
    path.unlink()


def kernel_name(name: str) -> bytes:
    """As the kernel takes it: 15 bytes (BPF_OBJ_NAME_LEN) of letters, digits, dots, underscores."""
    return name.replace("-", "_").encode()[:15]


def load_btf(types: bytes) -> int:
    """Give the kernel a description of types; its descriptor."""
    return call("bpf_btf_load", "types", types, len(types), None)


def load_program(
    kind: str,
    instructions: bytes,
    *,
    name: str = "hookline",
    flags: int = 0,
    attach_type: int = 0,
) -> int:
    """Load a program of *kind*, a type of the kernel's without its BPF_PROG_TYPE; its descriptor."""
    options = _ProgramLoadOptions(
        sz=ctypes.sizeof(_ProgramLoadOptions), expected_attach_type=attach_type, prog_flags=flags
    )
    return call(
        "bpf_prog_load",
        kind,
        PROGRAM_TYPES[kind],
        kernel_name(name),
        b"GPL",
        ctypes.create_string_buffer(instructions, len(instructions)),
        len(instructions) // 8,
        ctypes.byref(options),
    )


def program_id(program_fd: int) -> int:
    """The number by which the kernel knows a program."""
    return information(program_fd)[1]


def attached_programs(ifindex: int, attach_type: int) -> list[int]:
    """The ids of the tcx programs of an interface, in the order in which they run.

    ENODEV: there is no such interface in this network namespace.
    """
    ids = (ctypes.c_uint32 * _MOST_PROGRAMS)()
    count = ctypes.c_uint32(_MOST_PROGRAMS)
    call(
        "bpf_prog_query",
        f"ifindex {ifindex}",
        ifindex,
        attach_type,
        0,
        None,
        ctypes.byref(ids),
        ctypes.byref(count),
    )
    return list(ids[: count.value])


@contextmanager
def opened(path: os.PathLike[str]) -> Iterator[int]:
    """The descriptor of the object pinned at *path*, closed at the end."""
    fd = open_pinned(path)
    try:
        yield fd
    finally:
        os.close(fd)


def update_element(map_fd: int, key: int, value: bytes) -> None:
    """Set one element of an array; the key is its index."""
    index = ctypes.c_uint32(key)
    call("bpf_map_update_elem", f"key {key}", map_fd, ctypes.byref(index), value, 0)


def update_elements(map_fd: int, keys: NDArray[Any], values: NDArray[Any]) -> None:
    """Set many elements of a map at once: rows of *keys* and *values* are as the kernel has them.

    One by one where the kernel cannot do it for this type of map (tries before Linux v5.14).
    """
    keys, values = np.ascontiguousarray(keys), np.ascontiguousarray(values)
    if not len(keys):
        return
    count = ctypes.c_uint32(len(keys))
    try:
        call(
            *("bpf_map_update_batch", f"{len(keys)} keys", map_fd),
            *(keys.ctypes.data, values.ctypes.data, ctypes.byref(count), None),
        )
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, _ENOTSUPP):
            raise
        _update_one_by_one(map_fd, keys, values)


def _update_one_by_one(map_fd: int, keys: NDArray[Any], values: NDArray[Any]) -> None:
    update = _libbpf.bpf_map_update_elem
    key, value = keys.ctypes.data, values.ctypes.data
    for number in range(len(keys)):
        at = number * keys.itemsize, number * values.itemsize
        if (result := update(map_fd, key + at[0], value + at[1], 0)) < 0:
            raise OSError(-result, f"bpf_map_update_elem: {os.strerror(-result)}", f"key {number}")


def has_element(map_fd: int, key: int) -> bool:
    """Whether there is a map in one element of an array of maps."""
    index, number = ctypes.c_uint32(key), ctypes.c_uint32()
    try:
        call(
            *("bpf_map_lookup_elem", f"key {key}", map_fd),
            *(ctypes.byref(index), ctypes.byref(number)),
        )
    except FileNotFoundError:
        return False
    return True


def delete_element(map_fd: int, key: int) -> None:
    """Empty one element of an array of maps; programs that had looked it up are done then."""
    index = ctypes.c_uint32(key)
    call("bpf_map_delete_elem", f"key {key}", map_fd, ctypes.byref(index))


def run_program(program_fd: int, packet: bytes, *, repeat: int = 1) -> tuple[int, int]:
    """Run a program on *packet*; returns its return value and the nanoseconds of one run."""
    buffer = ctypes.create_string_buffer(packet, len(packet))
    options = _TestRunOptions(
        sz=ctypes.sizeof(_TestRunOptions),
        data_in=ctypes.cast(buffer, _Pointer),
        data_size_in=len(packet),
        repeat=repeat,
    )
    call("bpf_prog_test_run_opts", "test run", program_fd, ctypes.byref(options))
    return options.retval, options.duration


def run_program_on_each(
    program_fd: int, runs: NDArray[Any], before: Callable[[int], None] | None = None
) -> list[int]:
    """Run a program once for each of *runs*, rows of TEST_RUN; returns those that were refused.

    *before* is called with the number of each run, ahead of it.
    """
    test_run = _libbpf.bpf_prog_test_run_opts
    # A run says there what it would have returned, which for the next one is a limit.
    runs["data_size_out"] = runs["ctx_size_out"] = 0
    refused = []
    first, step = runs.ctypes.data, runs.dtype.itemsize
    for number, address in enumerate(range(first, first + len(runs) * step, step)):
        if before is not None:
            before(number)
        if (result := test_run(program_fd, address)) < 0:
            if -result != errno.EINVAL:
                raise OSError(-result, f"bpf_prog_test_run_opts: {os.strerror(-result)}", "replay")
            refused.append(number)
    return refused
