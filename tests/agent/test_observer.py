# SPDX-License-Identifier: Apache-2.0
"""Rows and ledger of an interval add up, wherever packets fall among the readings."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.batch import Batcher
from agent.clock import Anchor
from agent.flowcache import FlowCache
from agent.interfaces import Interface
from agent.ledger import Ledger
from agent.names import TlsReader
from agent.observer import Observer
from agent.points import number_points
from tests.agent.kernel_model import KernelModel

Packets = list[int]  # the flow of each


@dataclass
class Clock:
    """Where the real one asks the kernel, this lets some packets pass by."""

    pass_by: dict[str, Packets]
    kernel: KernelModel
    begun: int = 0

    def anchor(self) -> Anchor:
        return Anchor(jiffies=0, monotonic_ns=0, wall_ns=10**18, tick_ns=4_000_000)

    def begin_interval(self) -> None:
        """The observer calls it right after the snapshot."""
        for flow in self.pass_by["after the snapshot"]:
            self.kernel.packet(flow)


@dataclass
class Evictions:
    pass_by: dict[str, Packets]
    kernel: KernelModel
    is_stuck: bool = False

    def position(self):
        for flow in self.pass_by["after the totals"]:
            self.kernel.packet(flow)
        return self.kernel.position()

    def drain(self):
        return self.kernel.drain()

    def has_passed(self, position):
        return not self.is_stuck and self.kernel.has_passed(position)


@dataclass
class Books:
    """An observer of a modelled kernel, and what its batches add up to."""

    kernel: KernelModel
    pass_by: dict[str, Packets] = field(default_factory=dict)
    packets: int = 0
    bytes: int = 0
    ledger_packets: int = 0

    def __post_init__(self) -> None:
        points = number_points(
            [Interface("veth0", 7, is_up=True, link_bytes=14, is_hardware=False)]
        )
        self.ledger = Ledger(points, 0)
        observer = Observer.__new__(Observer)
        observer._points = points
        observer._batcher = Batcher("node", "boot", "run")
        observer._ledger = self.ledger
        observer._owners = observer._socket_owners = None
        observer._totals = self.kernel.totals
        observer._contexts = self.kernel.contexts
        observer._cache = FlowCache(self.kernel.slots, self.kernel.origins, self.kernel.contexts)
        observer._clock = Clock(self.pass_by, self.kernel)
        observer._evictions = Evictions(self.pass_by, self.kernel)
        observer._hellos = TlsReader(lambda _: None)
        observer._counted, observer._events = [], []
        observer._socket_books = None
        self.observer = observer

    def close(self, *, after_snapshot: Packets = (), after_totals: Packets = ()) -> None:
        self.pass_by["after the snapshot"] = list(after_snapshot)
        self.pass_by["after the totals"] = list(after_totals)
        for batch in self.observer.close_interval():
            if batch.kind == "flow":
                self.packets += int(batch.columns["packets"].sum())
                self.bytes += int(batch.columns["bytes"].sum())
            elif batch.kind == "ledger":
                self.ledger_packets += int(batch.columns["seen_packets"].sum())

    @property
    def sums(self) -> tuple[int, int]:
        return self.packets, self.bytes

    @property
    def truth(self) -> tuple[int, int]:
        return self.kernel.truth["packets"], self.kernel.truth["bytes"]


@pytest.mark.parametrize("moment", ["after_snapshot", "after_totals"])
def test_a_flow_lost_between_two_readings_is_not_counted_twice(moment):
    books = Books(KernelModel(ways=1, room=0))
    for _ in range(5):
        books.kernel.packet(1)
    books.close(**{moment: [2]})
    # Nothing is lost from here on, which would make up for what was counted too much.
    books.close()

    assert books.sums == books.truth == (6, 600)


def test_a_buffer_that_is_held_up_delays_what_overflowed_and_does_not_double_it():
    books = Books(KernelModel(ways=1, room=0))
    for _ in range(5):
        books.kernel.packet(1)
    books.close()
    books.kernel.packet(2)
    books.observer._evictions.is_stuck = True
    books.close()
    books.observer._evictions.is_stuck = False
    books.close()

    assert books.sums == books.truth == (6, 600)


FLOWS = st.lists(st.integers(1, 5), max_size=6)


@settings(max_examples=150, deadline=None, database=None)
@given(st.lists(st.tuples(FLOWS, FLOWS, FLOWS), max_size=6), st.integers(0, 3))
def test_rows_add_up_in_the_end_wherever_packets_fall(intervals, room):
    books = Books(KernelModel(ways=2, room=room))
    for before, after_snapshot, after_totals in intervals:
        for flow in before:
            books.kernel.packet(flow)
        books.close(after_snapshot=after_snapshot, after_totals=after_totals)
    books.close()
    books.close()

    assert books.sums == books.truth
    assert books.ledger_packets == books.truth[0]
