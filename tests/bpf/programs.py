# SPDX-License-Identifier: Apache-2.0
"""The kernel programs, loaded by the real loader and attached nowhere: packets are fed to them.

The kernel's test run presents every packet as one that came in at the loopback interface, on the
CPU that asked.
"""

import asyncio
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from agent import libbpf
from agent.buffers import EventBuffer, open_buffer
from agent.maps import SharedMaps
from agent.plan import INTERFACE_SLOTS, Plan, Report, remove_all, root_of
from agent.programs import load
from schemas.control import INTERFACE_ENTRY
from schemas.dtype import dtype_from_layout
from schemas.flow import FLOW_EVICTION
from schemas.packet import PACKET_EVENT
from tests.lab.links import PREFIX

LOOPBACK = 1
POINT = 1
_POSSIBLE_CPUS = os.cpu_count()


@dataclass(slots=True)
class Programs:
    """Loaded programs, their maps, and what this process may do with both."""

    plan: Plan
    report: Report
    maps: SharedMaps
    evictions: EventBuffer
    packets: EventBuffer
    fds: dict[str, int] = field(default_factory=dict)

    def run(self, frame: bytes, *, hook: str = "hook_ingress", repeat: int = 1) -> int:
        """Feed *frame* to a program; returns its verdict."""
        verdict, _ = libbpf.run_program(self._fd(hook), frame, repeat=repeat)
        return verdict

    def know_loopback(self, *, link_bytes: int, point: int = POINT) -> None:
        """Tell the programs of the interface that test runs come in at; it has two points."""
        entry = np.zeros(1, dtype_from_layout(INTERFACE_ENTRY))
        entry["ifindex"], entry["ingress_point"], entry["egress_point"] = LOOPBACK, point, point + 1
        entry["link_bytes"] = link_bytes
        with libbpf.opened(self.plan.pins.map("interfaces")) as fd:
            libbpf.update_element(fd, LOOPBACK & (INTERFACE_SLOTS - 1), entry.tobytes())

    def total(self, name: str, point: int = POINT) -> int:
        """One counter of one hook point, all CPUs together."""
        return int(self.maps.totals[name][:, point].sum())

    def live_slots(self) -> np.ndarray:
        """A copy of every slot that holds a flow."""
        slots = self.maps.slots[:]
        return slots[slots["packets"] > 0]

    def _fd(self, hook: str) -> int:
        if hook not in self.fds:
            self.fds[hook] = libbpf.open_pinned(self.plan.pins.program(hook))
        return self.fds[hook]


def a_plan(
    *,
    slots_per_cpu: int = 1 << 14,
    ring_bytes: int = 1 << 20,
    sample_one_in: int = 0,
    sample_first: bool = False,
    buffer: str = "ring",
    tunnels: str = "inner",
    vxlan_ports: tuple[int, ...] = (4789,),
    hook_points: int = 4,
    **others: object,
) -> Plan:
    """A plan with pins of its own."""
    return Plan(
        pin_path=str(root_of(f"{PREFIX}{os.getpid()}-{secrets.token_hex(3)}")),
        buffer=buffer,
        cpus=_POSSIBLE_CPUS,
        slots_per_cpu=slots_per_cpu,
        hook_points=hook_points,
        ring_bytes=ring_bytes,
        sample_one_in=sample_one_in,
        sample_first=sample_first,
        tunnels=tunnels,
        vxlan_ports=vxlan_ports,
        **others,
    )


@contextmanager
def loaded(**options: object) -> Iterator[Programs]:
    """Programs with maps and pins of their own; this process stays on one CPU meanwhile."""
    plan = a_plan(**options)
    cpus = os.sched_getaffinity(0)
    report = asyncio.run(load(plan))
    try:
        os.sched_setaffinity(0, {min(cpus)})
        programs = Programs(
            plan,
            report,
            SharedMaps.of(plan),
            open_buffer(plan.pins, plan.sizes, "evictions", FLOW_EVICTION),
            open_buffer(plan.pins, plan.sizes, "packets", PACKET_EVENT),
        )
        programs.know_loopback(link_bytes=14)
        yield programs
        for fd in programs.fds.values():
            os.close(fd)
    finally:
        os.sched_setaffinity(0, cpus)
        remove_all(plan.pins.root)
