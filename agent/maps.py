# SPDX-License-Identifier: Apache-2.0
"""The pinned arrays, mapped into the agent as numpy arrays.

The kernel writes them while we look.  Nothing that leaves the module which reads an array may
be a view of it; the readers copy first.
"""

import mmap
import os

import numpy as np

from agent import libbpf
from agent.plan import Plan
from agent.rows import Rows
from schemas.control import AGENT_CLOCK
from schemas.dtype import dtype_from_layout
from schemas.flow import FLOW_CONTEXT, FLOW_ORIGIN, FLOW_SLOT
from schemas.layout import Layout
from schemas.ledger import HOOK_TOTALS
from schemas.socket import SOCKET_TOTALS


class SharedMaps:
    """The arrays that the kernel programs and the agent share.

    Shapes: `slots` and `origins` (cpus * slots_per_cpu,), `contexts` (cpus * contexts_per_cpu,),
    `totals` (cpus, hook_points), `clock` (1,), which alone is writable; in a replay, where nothing
    else writes, `slots` is too.
    """

    def __init__(self, plan: Plan) -> None:
        pins = plan.pins
        count = plan.cpus * plan.slots_per_cpu
        self.slots = mapped(pins.map("flow_slots"), FLOW_SLOT, count, is_writable=plan.is_replay)
        self.origins = mapped(pins.map("flow_origins"), FLOW_ORIGIN, count)
        contexts = plan.cpus * plan.contexts_per_cpu
        self.contexts = mapped(pins.map("contexts"), FLOW_CONTEXT, contexts)
        totals = mapped(pins.map("totals"), HOOK_TOTALS, plan.cpus * plan.hook_points)
        self.totals = totals.reshape(plan.cpus, plan.hook_points)
        self.clock = mapped(pins.map("agent_clock"), AGENT_CLOCK, 1, is_writable=True)


def socket_totals(plan: Plan) -> Rows:
    """What each CPU has counted of socket events, (cpus,)."""
    return mapped(plan.pins.map("socket_totals"), SOCKET_TOTALS, plan.cpus)


def mapped(
    path: os.PathLike[str], layout: Layout, count: int, *, is_writable: bool = False
) -> Rows:
    """The array pinned at *path* as (count,) rows of *layout*; the mapping outlives the fd."""
    protection = mmap.PROT_READ | (mmap.PROT_WRITE if is_writable else 0)
    size_bytes = -(-count * layout.size_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
    with libbpf.opened(path) as fd:
        memory = mmap.mmap(fd, size_bytes, mmap.MAP_SHARED, protection)
    return np.frombuffer(memory, dtype_from_layout(layout), count)
