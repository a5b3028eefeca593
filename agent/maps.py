# SPDX-License-Identifier: Apache-2.0
"""The pinned arrays, mapped into the agent as numpy arrays.

The kernel writes them while we look.  Nothing that leaves the module which reads an array may
be a view of it; the readers copy first.
"""

import mmap
import os
from functools import partial
from typing import Any, Protocol

import numpy as np

from agent import libbpf
from agent.plan import Pins, Plan, Sizes
from agent.rows import Rows
from schemas.control import AGENT_CLOCK
from schemas.dtype import dtype_from_layout
from schemas.flow import FLOW_CONTEXT, FLOW_ORIGIN, FLOW_SLOT
from schemas.layout import Layout
from schemas.ledger import HOOK_TOTALS
from schemas.socket import SOCKET_TOTALS


class Mapped(Protocol):
    """Opens the array of that name as (count,) rows of a layout."""

    def __call__(
        self, name: str, layout: Layout, count: int, *, is_writable: bool = ...
    ) -> Rows: ...


class SharedMaps:
    """The arrays that the kernel programs and the agent share.

    Shapes: `slots` and `origins` (cpus * slots_per_cpu,), `contexts` (cpus * contexts_per_cpu,),
    `totals` (cpus, hook_points), `clock` (1,), which alone is writable; in a replay, where nothing
    else writes, `slots` is too.
    """

    def __init__(self, sizes: Sizes, mapped: Mapped, *, is_replay: bool = False) -> None:
        """*mapped* opens an array."""
        self.slots = mapped("flow_slots", FLOW_SLOT, sizes.slots, is_writable=is_replay)
        self.origins = mapped("flow_origins", FLOW_ORIGIN, sizes.slots)
        self.contexts = mapped("contexts", FLOW_CONTEXT, sizes.cpus * sizes.contexts_per_cpu)
        totals = mapped("totals", HOOK_TOTALS, sizes.cpus * sizes.hook_points)
        self.totals = totals.reshape(sizes.cpus, sizes.hook_points)
        self.clock = mapped("agent_clock", AGENT_CLOCK, 1, is_writable=True)

    @classmethod
    def of(cls, plan: Plan) -> "SharedMaps":
        """Those that the loader has made for this plan."""
        return cls(plan.sizes, partial(mapped_array, plan.pins), is_replay=plan.is_replay)


def socket_totals(plan: Plan) -> Rows:
    """What each CPU has counted of socket events, (cpus,)."""
    return mapped_array(plan.pins, "socket_totals", SOCKET_TOTALS, plan.cpus)


def mapped_array(
    pins: Pins, name: str, layout: Layout, count: int, *, is_writable: bool = False
) -> Rows:
    """The array of that name as (count,) rows of *layout*; the mapping outlives the fd."""
    return mapped(pins.map(name), dtype_from_layout(layout), count, is_writable=is_writable)


def mapped(
    path: os.PathLike[str], dtype: np.dtype[Any], count: int, *, is_writable: bool = False
) -> Rows:
    """The array pinned at *path* as (count,) rows of *dtype*; the mapping outlives the fd."""
    protection = mmap.PROT_READ | (mmap.PROT_WRITE if is_writable else 0)
    size_bytes = -(-count * dtype.itemsize // mmap.PAGESIZE) * mmap.PAGESIZE
    with libbpf.opened(path) as fd:
        memory = mmap.mmap(fd, size_bytes, mmap.MAP_SHARED, protection)
    return np.frombuffer(memory, dtype, count)
