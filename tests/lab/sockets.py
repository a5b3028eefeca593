# SPDX-License-Identifier: Apache-2.0
"""The socket programs, attached to one cgroup, without an agent and without the other programs.

`python -m tests.lab.sockets` loads them, so that LLVM stays out of the tests' process.
"""

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from agent.buffers import EventBuffer, open_buffer, take
from agent.kernel import load_source
from agent.maps import socket_totals
from agent.plan import Plan, remove_all, root_of
from agent.rows import Rows, joined
from agent.socket_hooks import SOCKETS, attach_sockets
from agent.sockets import SocketBooks
from schemas.dtype import dtype_from_layout
from schemas.socket import EVENTS, SOCKET_EVENT
from tests.lab.cgroups import Cgroup
from tests.lab.links import PREFIX
from tests.lab.waiting import wait_until

ROOT = Path(__file__).parents[2]


@dataclass(slots=True)
class SocketEvents:
    """What the programs have reported so far, and where they are pinned."""

    plan: Plan
    buffer: EventBuffer
    books: SocketBooks
    rows: Rows = field(default_factory=lambda: np.empty(0, dtype_from_layout(SOCKET_EVENT)))

    def drain(self) -> Rows:
        """All events until now."""
        self.rows = joined([self.rows, take(self.buffer)])
        return self.rows

    def forget(self) -> None:
        """Begin anew."""
        self.rows = self.drain()[:0]

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
    root = root_of(f"{PREFIX}{os.getpid()}-{secrets.token_hex(3)}")
    plan = Plan(
        pin_path=str(root),
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
    plan.pins.make()
    try:
        _load(plan)
        reader = open_buffer(plan.pins, plan.sizes, "sockets", SOCKET_EVENT)
        yield SocketEvents(plan, reader, SocketBooks(socket_totals(plan)))
    finally:
        remove_all(root)


def _load(plan: Plan) -> None:
    loaded = subprocess.run(
        [sys.executable, "-m", "tests.lab.sockets"],
        input=plan.to_json(),
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert loaded.returncode == 0, loaded.stderr


if __name__ == "__main__":
    PLAN = Plan.from_json(sys.stdin.read())
    attach_sockets(load_source(SOCKETS, PLAN), Path(PLAN.cgroup), PLAN.pins)
