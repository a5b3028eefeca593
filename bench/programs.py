# SPDX-License-Identifier: Apache-2.0
"""The kernel programs under test, loaded by the real loader, and what they are measured beside.

They are attached nowhere: the kernel's test run feeds them packets, as if those came in at the
loopback interface, and says how long a run took.
"""

import asyncio
import os
import secrets
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from socket import htons
from typing import Any, TypeVar

import numpy as np

from agent import libbpf
from agent.maps import SharedMaps
from agent.plan import INTERFACE_SLOTS, Pins, Plan, Report, remove_all, root_of
from agent.programs import load
from agent.sources import SOURCE_PATH
from schemas.control import INTERFACE_ENTRY
from schemas.dtype import dtype_from_layout

LOOPBACK = 1
INGRESS_POINT, EGRESS_POINT = 1, 2
CPUS = os.cpu_count() or 1
_HERE = Path(__file__).parent

Name = TypeVar("Name")
T = TypeVar("T")


@dataclass(slots=True)
class Hooks:
    """One load of bpf/flow.bpf.c."""

    plan: Plan
    maps: SharedMaps
    report: Report
    fds: dict[str, int] = field(default_factory=dict)

    def fd(self, name: str) -> int:
        if name not in self.fds:
            self.fds[name] = libbpf.open_pinned(self.plan.pins.program(name))
        return self.fds[name]


def a_plan(
    *,
    slots_per_cpu: int = 1 << 17,
    ring_bytes: int = 1 << 24,
    sample_one_in: int = 0,
    sample_first: bool = False,
    buffer: str = "ring",
    tunnels: str = "inner",
    dns_ports: tuple[int, ...] = (),
    tls: bool = False,
    cgroup: str = "",
) -> Plan:
    """A plan with a name of its own that attaches nothing."""
    return Plan(
        pin_path=str(root_of(f"hlb{os.getpid()}-{secrets.token_hex(3)}")),
        buffer=buffer,
        cpus=CPUS,
        slots_per_cpu=slots_per_cpu,
        hook_points=4,
        ring_bytes=ring_bytes,
        sample_one_in=sample_one_in,
        sample_first=sample_first,
        tunnels=tunnels,
        vxlan_ports=(4789,),
        dns_ports=dns_ports,
        tls=tls,
        cgroup=cgroup,
    )


@contextmanager
def hooks(**options: Any) -> Iterator[Hooks]:
    """Programs and maps of their own, which know the loopback interface; unpinned at the end."""
    plan = a_plan(**options)
    report = asyncio.run(load(plan))
    try:
        know(plan, LOOPBACK)
        yield (one := Hooks(plan, SharedMaps.of(plan), report))
        for fd in one.fds.values():
            os.close(fd)
    finally:
        remove_all(plan.pins.root)


def at_once(stack: ExitStack, contexts: Mapping[Name, AbstractContextManager[T]]) -> dict[Name, T]:
    """What each of *contexts* gives; they are entered on all CPUs, wherever this thread is kept.

    To load the programs is to compile them, mostly, which keeps one CPU busy.
    """
    on_all = partial(os.sched_setaffinity, 0, range(CPUS))
    threads = ThreadPoolExecutor(CPUS, initializer=on_all)
    try:
        begun = {name: threads.submit(stack.enter_context, one) for name, one in contexts.items()}
        return {name: one.result() for name, one in begun.items()}
    finally:
        # Where one fails, or we are interrupted, those that have begun are *stack's* to end.
        threads.shutdown(cancel_futures=True)


def know(plan: Plan, ifindex: int) -> None:
    """Tell the programs of an Ethernet interface."""
    know_at(plan.pins, ifindex)


def know_at(pins: Pins, ifindex: int) -> None:
    """Likewise, of programs that somebody else may have loaded."""
    entry = np.zeros(1, dtype_from_layout(INTERFACE_ENTRY))
    entry["ifindex"], entry["link_bytes"] = ifindex, 14
    entry["ingress_point"], entry["egress_point"] = INGRESS_POINT, EGRESS_POINT
    with libbpf.opened(pins.map("interfaces")) as fd:
        libbpf.update_element(fd, ifindex & (INTERFACE_SLOTS - 1), entry.tobytes())


class Peers:
    """The programs of peers.bpf.c, compiled by bcc in this process."""

    def __init__(self, *, flows: int = 1 << 17, prefixes: int = 1) -> None:
        os.environ["BCC_KERNEL_SOURCE"] = str(SOURCE_PATH / "headers")
        from bcc import BPF  # noqa: PLC0415 - the environment is read at import

        source = _HERE / "peers.bpf.c"
        flags = [
            f"-I{SOURCE_PATH}",
            f"-DCPUS={CPUS}",
            f"-DFLOWS={flows}",
            f"-DPREFIXES={prefixes}",
            "-DTUNNELS=1",
            f"-DIS_VXLAN_PORT(port_be)=((port_be)=={htons(4789)})",
        ]
        self._kinds = {"xdp": BPF.XDP, "tc": BPF.SCHED_CLS}
        self.module = BPF(src_file=str(source), cflags=flags)

    def fd(self, name: str) -> int:
        """The program called *name*, whose end says its type."""
        return int(self.module.load_func(name, self._kinds[name.rpartition("_")[2]]).fd)

    def map_fd(self, name: str) -> int:
        return int(self.module[name].map_fd)


def instructions_verified(program_fd: int) -> int:
    """How many instructions the verifier walked through (Linux v5.16 says so)."""
    text = Path(f"/proc/self/fdinfo/{program_fd}").read_text()
    lines = dict(line.split(":\t") for line in text.splitlines())
    return int(lines.get("verified_insns", 0))
