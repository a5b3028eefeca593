# SPDX-License-Identifier: Apache-2.0
"""Programs of somebody else, attached where ours would like to be.

They are assembled here by hand, two instructions each, so that no compiler is needed.
"""

import ctypes
import os
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent import libbpf
from tests.lab.links import HERE, End, unique_name

_BPF_PROG_LOAD = 5
_SYS_BPF = 321  # x86_64
_SCHED_CLS = 3
_XDP = 6
_TC_ACT_OK = 0  # ends the chain
_XDP_PASS = 2
TCX_DROP = 2


@contextmanager
def program(kind: int, verdict: int) -> Iterator[int]:
    """The descriptor of a program that returns *verdict* for every packet."""
    # r0 = verdict; exit
    code = struct.pack("<BBhi", 0xB7, 0, 0, verdict) + struct.pack("<BBhi", 0x95, 0, 0, 0)
    instructions = ctypes.create_string_buffer(code)
    license_text = ctypes.create_string_buffer(b"GPL")
    attributes = ctypes.create_string_buffer(
        struct.pack(
            "<IIQQ", kind, 2, ctypes.addressof(instructions), ctypes.addressof(license_text)
        ).ljust(128, b"\0")
    )
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.syscall(_SYS_BPF, _BPF_PROG_LOAD, attributes, 128)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "BPF_PROG_LOAD")
    try:
        yield fd
    finally:
        os.close(fd)


@dataclass(frozen=True, slots=True)
class ForeignXdp:
    end: End

    @property
    def is_attached(self) -> bool:
        return "xdp" in HERE.run("ip", "-details", "link", "show", self.end.name)


@contextmanager
def foreign_xdp_program(end: End) -> Iterator[ForeignXdp]:
    """A native XDP program that passes everything."""
    with program(_XDP, _XDP_PASS) as fd:
        link_fd = libbpf.create_link(
            fd, end.ifindex, libbpf.BPF_XDP, flags=libbpf.XDP_FLAGS_DRV_MODE
        )
        try:
            yield ForeignXdp(end)
        finally:
            os.close(link_fd)


@contextmanager
def foreign_tc_program(end: End, hook: str) -> Iterator[None]:
    """A program in both directions of *end* after which, by its verdict, no other should run."""
    with ExitStack() as stack:
        if hook == "clsact":
            HERE.run("tc", "qdisc", "add", "dev", end.name, "clsact")
            stack.callback(HERE.run, "tc", "qdisc", "del", "dev", end.name, "clsact")
        for direction in ("ingress", "egress"):
            if hook == "tcx":
                stack.enter_context(tcx_program(end, direction, _TC_ACT_OK))
            else:
                stack.enter_context(_clsact_program(end, direction))
        yield


@contextmanager
def tcx_program(end: End, direction: str, verdict: int, *, flags: int = 0) -> Iterator[None]:
    """A program in one direction of *end*, behind all others unless *flags* say else."""
    kind = {"ingress": libbpf.BPF_TCX_INGRESS, "egress": libbpf.BPF_TCX_EGRESS}[direction]
    with program(_SCHED_CLS, verdict) as fd:
        link_fd = libbpf.create_link(fd, end.ifindex, kind, flags=flags)
        try:
            yield
        finally:
            os.close(link_fd)


@contextmanager
def _clsact_program(end: End, direction: str) -> Iterator[None]:
    with program(_SCHED_CLS, _TC_ACT_OK) as fd:
        pinned = Path(f"/sys/fs/bpf/{unique_name()}")
        libbpf.pin(fd, pinned)
        try:
            HERE.run(
                *("tc", "filter", "add", "dev", end.name, direction, "prio", "1", "handle", "1"),
                *("bpf", "da", "object-pinned", str(pinned)),
            )
        finally:
            pinned.unlink()
        yield
