# SPDX-License-Identifier: Apache-2.0
"""Compile and load the kernel programs with bcc: the one module that imports it.

Configuration is compiled in, so what is off costs nothing.  The hash key is drawn anew at each
load, so that nobody outside can aim flows at one set of the cache.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.plan import INTERFACE_SLOTS, LoadError, Plan

SOURCE_PATH = Path(__file__).resolve().parent.parent / "bpf"
MAPS = ("flow_slots", "flow_origins", "totals", "interfaces", "agent_clock", "evictions", "packets")
PROGRAMS = {
    "hook_xdp": "XDP",
    "hook_ingress": "SCHED_CLS",
    "hook_egress": "SCHED_CLS",
    "hook_clock": "SCHED_CLS",
}
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Loaded:
    """Descriptors of everything loaded; they live as long as *module*."""

    maps: dict[str, int]
    programs: dict[str, int]
    buffer: str
    module: Any


def load(plan: Plan) -> Loaded:
    """Compile for the ring buffer, or for the perf buffer where the kernel lacks the former.

    Raises:
        LoadError: the compiler or the verifier refuses.
    """
    if plan.buffer != "auto":
        return _load(plan, plan.buffer)
    try:
        return _load(plan, "ring")
    except LoadError:
        # A kernel without the ring buffer refuses the map itself (before Linux v5.8).
        return _load(plan, "perf")


def _load(plan: Plan, buffer: str) -> Loaded:
    # bcc reads it at import and at compile time, and else looks for the kernel's headers.
    os.environ["BCC_KERNEL_SOURCE"] = str(SOURCE_PATH / "headers")
    try:
        from bcc import BPF  # noqa: PLC0415 - only the loader process should map LLVM
    except ImportError as error:
        raise LoadError(f"bcc is missing ({error}); install python3-bpfcc") from None
    with _quiet_stderr() as complaints:
        try:
            module = BPF(
                src_file=str(SOURCE_PATH / "flow.bpf.c"), cflags=_definitions(plan, buffer)
            )
            programs = {
                name: module.load_func(name, getattr(BPF, kind)).fd
                for name, kind in PROGRAMS.items()
            }
        except Exception as error:  # noqa: BLE001 - bcc raises nothing narrower
            raise LoadError(_last_line(complaints) or str(error)) from None
    maps = {name: module[name].map_fd for name in MAPS}
    return Loaded(maps, programs, buffer, module)


def _definitions(plan: Plan, buffer: str) -> list[str]:
    numbers = {
        "CPUS": plan.cpus,
        "SLOTS_PER_CPU": plan.slots_per_cpu,
        "HOOK_POINTS": plan.hook_points,
        "INTERFACE_SLOTS": INTERFACE_SLOTS,
        "RING_PAGES": plan.ring_bytes // _PAGE_BYTES,
        "SAMPLE_ONE_IN": plan.sample_one_in,
        "SAMPLE_FIRST": int(plan.sample_first),
        "PERF_BUFFER": int(buffer == "perf"),
    }
    seeds = [f"-DSEED_{number}={secrets.randbits(64) | 1}ULL" for number in range(5)]
    return [
        f"-I{SOURCE_PATH}",
        *(f"-D{name}={value}" for name, value in numbers.items()),
        *seeds,
    ]


@contextmanager
def _quiet_stderr() -> Iterator[Path]:
    """Send what bcc and LLVM write to file descriptor 2 into memory, and say where.

    No file: LLVM may end the process, and in a container the next one has the same number.
    """
    saved = os.dup(2)
    log = os.memfd_create("compile.log")
    os.dup2(log, 2)
    try:
        yield Path(f"/proc/self/fd/{log}")
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(log)


def _last_line(log: Path) -> str:
    """The verifier's or compiler's last telling line."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    telling = [line for line in lines if line and not line.startswith("processed ")]
    return telling[-1] if telling else ""
