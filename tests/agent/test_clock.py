# SPDX-License-Identifier: Apache-2.0
"""Kernel clocks become wall time, without ever pointing ahead."""

import time
from dataclasses import replace

import numpy as np
import pytest

from agent.clock import Anchor, KernelClock
from tests.bpf.programs import loaded

TICK_NS = 4_000_000
WALL_NS = 1_800_000_000_000_000_000


def an_anchor(jiffies: int = 1000) -> Anchor:
    return Anchor(jiffies=jiffies, monotonic_ns=5_000_000_000, wall_ns=WALL_NS, tick_ns=TICK_NS)


def from_jiffies(anchor: Anchor, *jiffies: int) -> list[int]:
    ages = WALL_NS - anchor.wall_from_jiffies(np.array(jiffies, np.uint32))
    return ages.tolist()


def test_monotonic_time_is_moved_by_the_anchor():
    times = an_anchor().wall_from_monotonic(np.array([5_000_000_000, 4_999_999_999], np.uint64))

    assert times.tolist() == [WALL_NS, WALL_NS - 1]


def test_a_tick_stands_for_its_end_but_never_for_the_future():
    assert from_jiffies(an_anchor(1000), 1000, 999, 998, 990) == [0, 0, TICK_NS, 9 * TICK_NS]


def test_a_packet_that_came_after_the_anchor_is_of_now():
    assert from_jiffies(an_anchor(1000), 1001, 1005) == [0, 0]


def test_jiffies_wrap():
    anchor = an_anchor((7 << 32) + 1)

    assert from_jiffies(anchor, 0xFFFFFFFF, 1) == [TICK_NS, 0]


def test_an_end_is_told_to_the_millisecond_as_no_tick_is_shorter():
    ends = np.array([WALL_NS, WALL_NS + 1, WALL_NS + 1_000_000], np.int64)

    assert (an_anchor().known_end(ends) - WALL_NS).tolist() == [0, 1_000_000, 1_000_000]


def test_an_end_stays_as_it_is_where_ticks_are_shorter_as_in_a_capture():
    ends = np.array([WALL_NS + 1], np.int64)

    assert replace(an_anchor(), tick_ns=1000).known_end(ends).tolist() == [WALL_NS + 1]


@pytest.mark.kernel
def test_the_kernel_tells_its_clocks(lab):
    with loaded() as programs:
        clock = KernelClock(programs.plan.pins, programs.maps.clock)
        first = clock.anchor()
        time.sleep(0.1)  # what is measured: time that passes
        second = clock.anchor()

    passed_ns = second.monotonic_ns - first.monotonic_ns
    assert abs((second.jiffies - first.jiffies) * first.tick_ns - passed_ns) <= 2 * first.tick_ns
    assert abs(second.wall_ns - time.time_ns()) < 2_000_000_000
    assert abs((second.wall_ns - first.wall_ns) - passed_ns) < 5_000_000
