# SPDX-License-Identifier: Apache-2.0
"""The socket programs, loaded by the real loader and attached to one cgroup, without an agent."""

import asyncio
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from agent.maps import socket_totals
from agent.perf import PerfBuffer
from agent.plan import Plan, pins_of
from agent.programs import load
from agent.ring import RingBuffer
from agent.rows import Rows, joined
from agent.sockets import SocketBooks
from schemas.dtype import dtype_from_layout
from schemas.socket import EVENTS, SOCKET_EVENT
from tests.lab.cgroups import Cgroup
from tests.lab.links import PREFIX
from tests.lab.waiting import wait_until


@dataclass(slots=True)
class SocketEvents:
    """What the programs have reported so far, and where they are pinned."""

    plan: Plan
    buffer: RingBuffer | PerfBuffer
    books: SocketBooks
    rows: Rows = field(default_factory=lambda: np.empty(0, dtype_from_layout(SOCKET_EVENT)))

    def drain(self) -> Rows:
        """All events until now."""
        self.rows = joined([self.rows, self.buffer.drain()])
        return self.rows

    def of(self, event: str, **wanted: int) -> Rows:
        """The events of one kind whose columns have the values that are given."""
        rows = self.drain()
        chosen = rows["event"] == EVENTS[event]
        for name, value in wanted.items():
            chosen &= rows[name] == value
        return rows[chosen]

    def until(self, event: str, count: int = 1, **wanted: int) -> Rows:
        """The same, once there are *count* of them."""
        what = f"{count} events {event} with {wanted}"
        wait_until(lambda: len(self.of(event, **wanted)) >= count, what)
        return self.of(event, **wanted)


@contextmanager
def socket_events(
    cgroup: Cgroup, *, buffer: str = "ring", ring_bytes: int = 1 << 22, ticks: int = 250
) -> Iterator[SocketEvents]:
    """The events of the sockets of *cgroup*'s processes."""
    pins = pins_of(f"{PREFIX}{os.getpid()}-{secrets.token_hex(3)}")
    plan = Plan(
        pin_path=str(pins.root),
        targets=(),
        hook="auto",
        tc="auto",
        buffer=buffer,
        cpus=os.cpu_count(),
        slots_per_cpu=4,
        hook_points=4,
        ring_bytes=ring_bytes,
        sample_one_in=0,
        sample_first=False,
        tunnels="inner",
        vxlan_ports=(),
        cgroup=str(cgroup.directory),
        socket_ticks=ticks,
    )
    report = asyncio.run(load(plan))
    try:
        assert report.has_sockets, report.warnings
        kind = RingBuffer if buffer == "ring" else PerfBuffer
        reader = kind(pins.map("sockets"), ring_bytes, dtype_from_layout(SOCKET_EVENT))
        yield SocketEvents(plan, reader, SocketBooks(socket_totals(plan)))
    finally:
        pins.remove()
