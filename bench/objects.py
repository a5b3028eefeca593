# SPDX-License-Identifier: Apache-2.0
"""Programs of others, as their projects compile them: one out of an object file, by libbpf.

Their maps are as the file has them, but pinned nowhere, and those of flows have room for as many as
are to be measured, which their loaders choose too.  Their constants are as in the file, which is what their loaders leave where no option is given.
"""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent import libbpf, newmaps

KINDS = {libbpf.PROGRAM_TYPES["XDP"]: "xdp", libbpf.PROGRAM_TYPES["SCHED_CLS"]: "tc"}
_HASHES = (1, 5, 9, 10)  # BPF_MAP_TYPE_HASH, _PERCPU_HASH, _LRU_HASH, _LRU_PERCPU_HASH
_RING_BYTES = 1 << 24

_Pointer = ctypes.c_void_p
_PROTOTYPES: dict[str, tuple[Any, ...]] = {
    "bpf_object__open_file": (_Pointer, ctypes.c_char_p, _Pointer),
    "bpf_object__load": (ctypes.c_int, _Pointer),
    "bpf_object__close": (None, _Pointer),
    "bpf_object__next_program": (_Pointer, _Pointer, _Pointer),
    "bpf_object__next_map": (_Pointer, _Pointer, _Pointer),
    "bpf_program__name": (ctypes.c_char_p, _Pointer),
    "bpf_program__section_name": (ctypes.c_char_p, _Pointer),
    "bpf_program__set_autoload": (ctypes.c_int, _Pointer, ctypes.c_bool),
    "bpf_program__type": (ctypes.c_int, _Pointer),
    "bpf_program__set_type": (ctypes.c_int, _Pointer, ctypes.c_int),
    "bpf_program__set_expected_attach_type": (ctypes.c_int, _Pointer, ctypes.c_int),
    "bpf_program__fd": (ctypes.c_int, _Pointer),
    "bpf_map__set_pin_path": (ctypes.c_int, _Pointer, ctypes.c_char_p),
    "bpf_map__type": (ctypes.c_int, _Pointer),
    "bpf_map__max_entries": (ctypes.c_uint32, _Pointer),
    "bpf_map__set_max_entries": (ctypes.c_int, _Pointer, ctypes.c_uint32),
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """A program to stand beside ours: `NAME=FILE:PROGRAM`, by its name or its section's."""

    name: str
    path: Path
    program: str

    @classmethod
    def from_text(cls, text: str) -> "Wanted":
        name, equals, rest = text.partition("=")
        path, colon, program = rest.rpartition(":")
        if not (name and equals and path and colon and program):
            sys.exit(f"bench: --peer {text} is not of the form NAME=FILE:PROGRAM")
        if not Path(path).is_file():
            sys.exit(f"bench: --peer {text}: there is no file {path}")
        return cls(name, Path(path), program)


@dataclass(frozen=True, slots=True)
class Program:
    """One that is loaded: what the tables call it, its type and its descriptor."""

    name: str
    kind: str  # xdp, tc
    fd: int


def _library() -> ctypes.CDLL:
    library = ctypes.CDLL("libbpf.so.1", use_errno=True)
    for name, (result, *arguments) in _PROTOTYPES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


@contextmanager
def program_of(wanted: Wanted, *, flows: int = 1 << 17) -> Iterator[Program]:
    """That program alone, loaded, with room for *flows*; it and its maps are gone at the end."""
    libbpf_1 = _library()
    opened = libbpf_1.bpf_object__open_file(os.fsencode(wanted.path), None)
    if not opened:
        sys.exit(f"bench: {wanted.path}: {os.strerror(ctypes.get_errno())}")
    try:
        chosen = _choose(libbpf_1, opened, wanted)
        _unpin(libbpf_1, opened, flows)
        if (failed := libbpf_1.bpf_object__load(opened)) < 0:
            sys.exit(f"bench: {wanted.path}: the kernel refuses it: {os.strerror(-failed)}")
        fd = libbpf_1.bpf_program__fd(chosen)
        kind = KINDS.get(libbpf.information(fd)[0])
        if kind is None:
            sys.exit(f"bench: {wanted.path}: {wanted.program} is neither of XDP nor of tc")
        yield Program(wanted.name, kind, fd)
    finally:
        libbpf_1.bpf_object__close(opened)


def _choose(libbpf_1: ctypes.CDLL, opened: int, wanted: Wanted) -> int:
    """The program of that name, and no other is to be loaded."""
    chosen, found, one = 0, [], None
    while one := libbpf_1.bpf_object__next_program(opened, one):
        names = {libbpf_1.bpf_program__name(one), libbpf_1.bpf_program__section_name(one)}
        is_it = not chosen and wanted.program.encode() in names
        libbpf_1.bpf_program__set_autoload(one, is_it)
        if is_it:
            # Sections like `tc_ingress` say nothing to libbpf 1; whoever has them has a loader that knows.
            if not libbpf_1.bpf_program__type(one):
                libbpf_1.bpf_program__set_type(one, libbpf.PROGRAM_TYPES["SCHED_CLS"])
            # Where it would be attached is nothing to a test run, and a tail call asks for equals.
            libbpf_1.bpf_program__set_expected_attach_type(one, 0)
            chosen = one
        found.append(libbpf_1.bpf_program__name(one).decode())
    if not chosen:
        sys.exit(f"bench: {wanted.path} has no {wanted.program}; it has {', '.join(found)}")
    return chosen


def _unpin(libbpf_1: ctypes.CDLL, opened: int, flows: int) -> None:
    one = None
    while one := libbpf_1.bpf_object__next_map(opened, one):
        libbpf_1.bpf_map__set_pin_path(one, None)
        kind, count = libbpf_1.bpf_map__type(one), libbpf_1.bpf_map__max_entries(one)
        if kind in _HASHES and (not count or count > flows):
            libbpf_1.bpf_map__set_max_entries(one, flows)
        elif kind == newmaps.RINGBUF and not count:
            libbpf_1.bpf_map__set_max_entries(one, _RING_BYTES)
