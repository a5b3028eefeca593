# SPDX-License-Identifier: Apache-2.0
"""Whatever the kernel does between two readings, the reports add up to what it counted."""

from collections import Counter

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agent.flowcache import Counted, FlowCache
from tests.agent.kernel_model import POINTS, KernelModel

FLOWS = st.integers(1, 7)


def test_reports_the_growth_of_a_flow_that_stays():
    kernel = KernelModel()
    cache = FlowCache(kernel.slots, kernel.origins, kernel.contexts)
    kernel.packet(1, in_bytes=100)
    cache.snapshot()
    kernel.packet(1, in_bytes=60)

    counted = cache.snapshot()
    assert counted.packets.tolist() == [1]
    assert counted.bytes.tolist() == [60]


def test_reports_nothing_of_a_flow_that_rests():
    kernel = KernelModel()
    cache = FlowCache(kernel.slots, kernel.origins, kernel.contexts)
    kernel.packet(1)
    cache.snapshot()

    assert len(cache.snapshot()) == 0


def test_a_snapshot_of_the_usual_cache_breathes_and_counts_once_what_comes_meanwhile():
    kernel = KernelModel(ways=1 << 18)
    cache = FlowCache(kernel.slots, kernel.origins, kernel.contexts)
    kernel.packet(1)

    first = cache.snapshot(breathe=lambda: kernel.packet(1))
    then = cache.snapshot()

    assert kernel.truth["packets"] == 4
    assert first.packets.sum() + then.packets.sum() == 4


def test_leaves_a_slot_that_is_being_replaced_for_the_next_snapshot():
    kernel = KernelModel(ways=1)
    cache = FlowCache(kernel.slots, kernel.origins, kernel.contexts)
    kernel.packet(1)
    kernel.slots["generation"] += 1

    assert len(cache.snapshot()) == 0
    kernel.slots["generation"] += 1
    assert cache.snapshot().packets.tolist() == [1]


def test_an_evicted_flow_is_reported_without_what_was_reported_before():
    kernel = KernelModel(ways=1)
    cache = FlowCache(kernel.slots, kernel.origins, kernel.contexts)
    kernel.packet(1)
    cache.snapshot()
    kernel.packet(1)
    kernel.packet(2)

    settled = cache.settle(kernel.drain())
    assert settled.packets.tolist() == [1]
    assert cache.snapshot().packets.tolist() == [1]
    assert cache.take_lost(POINTS)[0].sum() == 0


def test_an_evicted_flow_of_which_all_was_reported_gives_no_row():
    kernel = KernelModel(ways=1)
    cache = FlowCache(kernel.slots, kernel.origins, kernel.contexts)
    kernel.packet(1)
    cache.snapshot()
    kernel.packet(2)

    assert len(cache.settle(kernel.drain())) == 0


def test_what_was_reported_of_a_flow_that_was_lost_is_taken_back():
    kernel = KernelModel(ways=1, room=0)
    cache = FlowCache(kernel.slots, kernel.origins, kernel.contexts)
    for _ in range(5):
        kernel.packet(1)
    cache.snapshot()
    kernel.packet(2)
    cache.snapshot()

    packets, in_bytes = cache.take_lost(POINTS)
    assert packets.tolist() == [0, 0, 5]
    assert in_bytes.tolist() == [0, 0, 500]
    assert cache.take_lost(POINTS)[0].sum() == 0


def test_counters_that_wrap_give_the_right_difference():
    kernel = KernelModel()
    cache = FlowCache(kernel.slots, kernel.origins, kernel.contexts)
    kernel.packet(1)
    kernel.slots["packets"][0] = 0xFFFFFFFF
    cache.snapshot()
    kernel.packet(1)
    kernel.packet(1)

    assert cache.snapshot().packets.tolist() == [2]


def test_a_generation_that_came_round_is_no_flow_of_four_billion_packets():
    kernel = KernelModel(ways=1)
    cache = FlowCache(kernel.slots, kernel.origins, kernel.contexts)
    for _ in range(9):
        kernel.packet(1)
    cache.snapshot()
    generation = kernel.slots["generation"][0]
    kernel.packet(2)
    kernel.slots["generation"] = generation

    counted = cache.snapshot()
    assert counted.packets.tolist() == [1]
    assert counted.bytes.tolist() == [100]


class Accounting(RuleBasedStateMachine):
    """Packets, evictions that find room or not, and readings, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = KernelModel(ways=2, room=2)
        self.cache = FlowCache(self.kernel.slots, self.kernel.origins, self.kernel.contexts)
        self.reported: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()

    @rule(flow=FLOWS, in_bytes=st.integers(14, 65549), times=st.integers(1, 3))
    def packets(self, flow: int, in_bytes: int, times: int) -> None:
        for _ in range(times):
            self.kernel.packet(flow, in_bytes)

    @rule()
    def settle(self) -> None:
        self._report(self.cache.settle(self.kernel.drain()))

    @rule(flows=st.lists(FLOWS, max_size=4))
    def snapshot(self, flows: list[int]) -> None:
        self._report(self.cache.snapshot())
        # Packets between the snapshot and the draining that follows it.
        for flow in flows:
            self.kernel.packet(flow)
        self._report(self.cache.settle(self.kernel.drain()))
        packets, in_bytes = self.cache.take_lost(POINTS)
        self.lost["packets"] += int(packets.sum())
        self.lost["bytes"] += int(in_bytes.sum())

    @invariant()
    def adds_up_once_everything_is_read(self) -> None:
        reported, lost = Counter(self.reported), Counter(self.lost)
        self.snapshot([])
        for unit in ("packets", "bytes"):
            overflowed = int(self.kernel.totals[f"overflow_{unit}"].sum())
            assert self.reported[unit] + overflowed - self.lost[unit] == self.kernel.truth[unit], (
                reported,
                lost,
            )

    def _report(self, counted: Counted) -> None:
        assert (counted.packets > 0).all()
        self.reported["packets"] += int(counted.packets.sum())
        self.reported["bytes"] += int(counted.bytes.sum())


class LazyAccounting(Accounting):
    """The same, but read to the end only at the end, so that more is under way between."""

    @invariant()
    def adds_up_once_everything_is_read(self) -> None:
        pass

    def teardown(self) -> None:
        Accounting.adds_up_once_everything_is_read(self)


quick = settings(
    max_examples=40,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
)
TestAccounting = Accounting.TestCase
TestAccounting.settings = quick
TestLazyAccounting = LazyAccounting.TestCase
TestLazyAccounting.settings = quick
