# SPDX-License-Identifier: Apache-2.0
"""Rows and ledger of an interval add up, wherever packets fall among the readings."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.batch import Batcher
from agent.clock import Anchor
from agent.interfaces import Interface
from agent.ledger import Ledger
from agent.observer import Observer
from agent.plan import Pins
from agent.points import number_points
from tests.agent.kernel_model import KernelModel, Reader

Packets = list[int]  # the flow of each
WAYS = 2


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


class Evictions(Reader):
    """The event buffer; some packets pass by just after somebody asked how far it is written."""

    def __init__(self, kernel: KernelModel, pass_by: dict[str, Packets]) -> None:
        super().__init__(kernel)
        self._pass_by = pass_by
        self.is_stuck = False

    def position(self) -> tuple[int, ...]:
        for flow in self._pass_by["after the totals"]:
            self._kernel.packet(flow)
        return super().position()

    def has_passed(self, position: tuple[int, ...]) -> bool:
        return not self.is_stuck and super().has_passed(position)


class Perf(Evictions):
    """One that goes with its reader, with all that was not drained."""

    outlives_reader = False

    def __init__(self, kernel: KernelModel, pass_by: dict[str, Packets]) -> None:
        kernel.released = len(kernel.log)
        super().__init__(kernel, pass_by)

    def drained(self) -> tuple[int, ...]:
        return ()

    def drain(self, limit: int = 1 << 20) -> np.ndarray:
        rows = super().drain(limit)
        self._kernel.released = self._drained
        return rows

    def release(self, position: tuple[int, ...]) -> None:
        """As it was drained."""


class Nothing(Reader):
    """A buffer that nobody writes to."""

    def __init__(self) -> None:
        super().__init__(KernelModel())


@dataclass
class Books:
    """An observer of a modelled kernel, and what its batches add up to once they are told.

    `die` lets another one go on from what was told last.
    """

    kernel: KernelModel
    buffer: type[Evictions] = Evictions
    pass_by: dict[str, Packets] = field(
        default_factory=lambda: {"after the snapshot": [], "after the totals": []}
    )
    packets: int = 0
    bytes: int = 0
    ledger_packets: int = 0
    flow_packets: int = 0
    told: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._begin()
        self.tell()

    def _begin(self) -> None:
        points = number_points(
            [Interface("veth0", 7, is_up=True, link_bytes=14, is_hardware=False)]
        )
        self.evictions = self.buffer(self.kernel, self.pass_by)
        buffers = {"evictions": self.evictions, "packets": Nothing()}
        self.observer = Observer(
            Pins(Path("/nonexistent"), ""),
            points,
            batcher=Batcher("node", "boot", "run"),
            ledger=Ledger(points, 0),
            maps=self.kernel,
            clock=Clock(self.pass_by, self.kernel),
            open_buffer=lambda name, _: buffers[name],
        )

    def drain(self) -> None:
        """What the agent does between two intervals; nothing is told by it."""
        assert not list(self.observer.drain())

    def close(self, *, after_snapshot: Packets = (), after_totals: Packets = ()) -> None:
        self.made(after_snapshot=after_snapshot, after_totals=after_totals)
        self.tell()

    def made(self, *, after_snapshot: Packets = (), after_totals: Packets = ()) -> None:
        """Make batches, without telling them yet."""
        self.pass_by["after the snapshot"] = list(after_snapshot)
        self.pass_by["after the totals"] = list(after_totals)
        for batch in self.observer.close_interval():
            if batch.kind == "flow":
                self.told["packets"] += int(batch.columns["packets"].sum())
                self.told["bytes"] += int(batch.columns["bytes"].sum())
            elif batch.kind == "ledger":
                self.told["ledger_packets"] += int(batch.columns["seen_packets"].sum())
                self.told["flow_packets"] += int(batch.columns["flow_packets"].sum())
        self.pass_by |= {"after the snapshot": [], "after the totals": []}

    def tell(self, *, is_released: bool = True) -> None:
        """Make valid what was made; *is_released* is false where it ends just before that."""
        self.saved = (
            self.observer.state(),
            self.observer.cache.reported(np.arange(len(self.kernel.slots))),
        )
        for name, count in self.told.items():
            setattr(self, name, getattr(self, name) + count)
        self.told.clear()
        if is_released:
            self.observer.release(self.saved[0]["buffers"])

    def die(self) -> None:
        """Be killed, and succeeded."""
        self.told.clear()
        self._begin()
        self.observer.restore(*self.saved)

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
    books.evictions.is_stuck = True
    books.close()
    books.evictions.is_stuck = False
    books.close()

    assert books.sums == books.truth == (6, 600)


def test_a_flow_that_overflowed_is_not_told_twice_where_its_slot_changes_hands_under_the_snapshot():
    books = Books(KernelModel(ways=1, room=0))
    for _ in range(5):
        books.kernel.packet(1)
    books.close()
    books.kernel.packet(2)
    books.kernel.halt_amid(3, steps=2)
    books.close()
    books.kernel.go_on()
    # Nothing is lost from here on, which would make up for what was counted too much.
    books.close()

    assert books.sums == books.truth == (7, 700)


FLOWS = st.lists(st.integers(1, 5), max_size=6)


@settings(max_examples=150, deadline=None, database=None)
@given(st.lists(st.tuples(FLOWS, FLOWS, FLOWS), max_size=6), st.integers(0, 3))
def test_rows_add_up_in_the_end_wherever_packets_fall(intervals, room):
    books = Books(KernelModel(ways=WAYS, room=room))
    for before, after_snapshot, after_totals in intervals:
        for flow in before:
            books.kernel.packet(flow)
        books.close(after_snapshot=after_snapshot, after_totals=after_totals)
    books.close()
    books.close()

    assert books.sums == books.truth
    assert books.ledger_packets == books.truth[0]


EVENT = st.one_of(
    st.tuples(st.just("packets"), FLOWS),
    st.tuples(st.just("close"), FLOWS),
    st.sampled_from([("drain",), ("made",), ("tell, unreleased",), ("die",)]),
)


@pytest.mark.parametrize("buffer", [Evictions, Perf])
@settings(max_examples=400, deadline=None, database=None)
@given(events=st.lists(EVENT, max_size=25), room=st.integers(0, 4))
def test_rows_add_up_in_the_end_whenever_agents_are_killed(buffer, events, room):
    books = Books(KernelModel(ways=WAYS, room=room), buffer)
    for name, *flows in events:
        match name:
            case "packets":
                for flow in flows[0]:
                    books.kernel.packet(flow)
            case "close":
                books.close(after_snapshot=flows[0])
            case "drain":
                books.drain()
            case "made":
                # Batches that are made and not told go with the agent.
                books.made()
                books.die()
            case "tell, unreleased":
                books.made()
                books.tell(is_released=False)
                books.die()
            case "die":
                books.die()
    for _ in range(3):
        books.close()

    assert books.sums == books.truth
    assert books.ledger_packets == books.flow_packets == books.truth[0]


class Awaited(Evictions):
    """One in which a CPU that stands still amid an eviction goes on as soon as that is waited for."""

    def has_passed(self, position: tuple[int, ...]) -> bool:
        if not super().has_passed(position):
            self._kernel.go_on()
        return super().has_passed(position)


# Flows of which the first was told, the second took its slot, and so on.
@pytest.mark.parametrize("after_close", [[], [2], [2, 3]], ids=str)
@pytest.mark.parametrize("is_drained", [False, True], ids=["", "drained"])
@pytest.mark.parametrize("room", range(4))
@pytest.mark.parametrize("steps", range(7))
def test_rows_add_up_wherever_a_cpu_stands_still_meanwhile(steps, room, is_drained, after_close):
    books = Books(KernelModel(ways=1, room=room), Awaited)
    books.kernel.packet(1)
    books.close()
    for flow in [1, *after_close]:
        books.kernel.packet(flow)
    books.kernel.halt_amid(9, steps)
    if is_drained:
        books.drain()
    books.close()
    books.kernel.go_on()
    # An agent that detaches has but this one interval to put all right.
    books.close()

    assert books.sums == books.truth
    assert books.ledger_packets == books.flow_packets == books.truth[0]


class Held(Evictions):
    """A buffer with room for so many events, which holds them until they are told."""

    room = 640

    @property
    def held_share(self) -> float:
        return (self._drained - self._kernel.released) / self.room


@pytest.mark.parametrize(("evictions", "is_quiet"), [(0, True), (9, True), (10, False)])
def test_a_drain_is_quiet_if_it_finds_less_than_a_sixty_fourth_of_a_buffer(evictions, is_quiet):
    books = Books(KernelModel(ways=WAYS), Held)
    books.drain()

    for flow in range(WAYS + evictions):
        books.kernel.packet(2 * flow + 1)
    books.drain()

    assert len(books.kernel.log) == evictions
    assert books.observer.is_quiet == is_quiet


def test_no_drain_of_a_buffer_that_holds_nothing_is_quiet():
    books = Books(KernelModel(ways=WAYS), Perf)
    books.drain()
    books.drain()

    assert not books.observer.is_quiet
