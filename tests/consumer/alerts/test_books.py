# SPDX-License-Identifier: Apache-2.0
"""Silent agents and books that do not balance are told, and edges of intervals are not."""

from dataclasses import replace

import numpy as np

from consumer.alerts.detectors.agent_silent import AgentSilent
from consumer.alerts.detectors.agent_silent import Options as SilentOptions
from consumer.alerts.detectors.books import Books, Options
from tests.consumer.alerts.scenes import BEGIN_S, batch, look, show


def a_row(second, seen, in_flows, *, lost=0, node="web-1", interval=1.0, **parts):
    return batch(
        "ledger",
        node=node,
        time=float(second),
        end=second + interval,
        hook=3,
        seen_packets=seen,
        flow_packets=in_flows,
        lost_packets=lost,
        **parts,
    )


def edges(second, rng):
    """What is seen in an interval, and what of it and the one before is in rows."""
    return 1000 + rng.integers(0, 500), rng.integers(0, 300)


def test_packets_that_come_with_the_next_interval_are_balanced():
    detector, rng, pending = Books(Options()), np.random.default_rng(1), 0
    for second in range(300):
        seen, late = edges(second, rng)
        in_flows = seen + pending - late
        pending = late
        assert not show(detector, a_row(second, seen, in_flows), now=second + 1.0)


def test_rows_that_are_missing_are_told_once_they_are_more_than_an_edge():
    detector = Books(Options())
    found = [
        second
        for second in range(60)
        if show(detector, a_row(second, 1000, 1000 if second < 30 else 700), now=second + 1.0)
    ]

    assert 40 <= found[0] <= 45
    assert found[-1] == 59


def test_packets_that_are_counted_twice_are_told():
    detector = Books(Options())
    found = [
        one
        for second in range(60)
        for one in show(detector, a_row(second, 1000, 1500), now=second + 1.0)
    ]

    assert "were not seen" in found[0].summary


def test_another_run_of_the_agent_begins_another_account():
    detector = Books(Options())

    for second in range(60):
        row = a_row(second, 1000, 700, run=f"r{second // 5}")
        assert not show(detector, row, now=second + 1.0)


def test_rows_that_were_given_up_are_told_at_once():
    [found] = show(Books(Options()), a_row(0, 1000, 1000, lost=77), now=1.0)

    assert found.severity == "critical"
    assert found.value == 77
    assert "77 packets' rows were given up" in found.summary


def test_rows_of_what_was_lost_do_not_touch_the_balance():
    detector = Books(Options(packets=1))
    for second in range(60):
        row = a_row(second, 100 if second % 4 else 1000, 100 if second % 4 != 1 else 1000)
        lost = [a_row(second, 0, 0, interval=0.0, lost=1) for _ in range(5)]
        found = show(detector, row, *lost, now=second + 1.0)
        assert {one.labels["what"] for one in found} == {"lost"}


def test_a_hundred_thousand_books_do_not_grow_a_detector():
    detector = Books(Options())
    before = detector.size_bytes
    for number in range(10):
        names = [f"n{number}-{one}" for one in range(10_000)]
        crowd = a_row(1, 10, 10, rows=10_000, interface=names)
        assert not show(detector, crowd, now=2.0)

    assert detector.size_bytes == before


def test_an_agent_that_is_not_heard_for_its_intervals_is_silent_until_it_is_heard_again():
    detector = AgentSilent(SilentOptions())
    show(detector, a_row(0, 1, 1), a_row(0, 1, 1, node="web-2"), now=0.0)
    show(detector, a_row(8, 1, 1, node="web-2"), now=8.0)

    assert not look(detector, now=10.0)
    [found] = look(detector, now=11.0)
    assert found.labels == {"node": "web-1"}
    assert not show(detector, a_row(12, 1, 1), now=12.0)


def test_an_agent_with_long_intervals_may_be_silent_for_longer():
    detector = AgentSilent(SilentOptions(intervals=5))
    for second in range(0, 900, 30):
        assert not show(detector, a_row(second, 1, 1, interval=30.0), now=second)

    assert not look(detector, now=870 + 140.0)
    assert look(detector, now=870 + 160.0)


def ends(second, *, of_run="r", is_last=1):
    return batch("delivery", time=second, of_run=of_run, of_kind="flow", is_last=is_last)


def test_an_agent_that_was_stopped_may_be_away_for_longer():
    detector = AgentSilent(SilentOptions())
    show(detector, a_row(0, 1, 1), now=0.0)
    show(detector, ends(1), now=1.0)

    assert not look(detector, now=100.0)
    [found] = look(detector, now=302.0)
    assert found.severity == "warning"
    assert "stopped in order" in found.summary


def test_a_capture_that_was_replayed_is_no_agent_that_is_silent():
    detector = AgentSilent(SilentOptions())
    replayed = a_row(0, 1, 1)
    replayed.columns["hook"][:] = 5
    show(detector, replayed, now=0.0)

    assert not look(detector, now=1000.0)


def test_an_agent_that_closes_the_books_of_the_run_before_it_is_not_stopped():
    detector = AgentSilent(SilentOptions())
    show(detector, ends(1, of_run="before"), now=1.0)

    assert look(detector, now=20.0)


def test_while_kafka_is_away_no_agent_is_silent():
    detector = AgentSilent(SilentOptions())
    show(detector, a_row(0, 1, 1), now=0.0)
    look(detector, now=2.0)
    for second in range(3, 300):
        detector.pause(int((BEGIN_S + second) * 1e9))
    assert not look(detector, now=302.0)

    assert look(detector, now=320.0)


def test_a_node_that_stays_away_for_a_day_is_forgotten():
    detector = AgentSilent(SilentOptions())
    show(detector, a_row(0, 1, 1), now=0.0)

    assert not look(detector, now=90_000.0)
    assert detector.size_bytes == 0


def test_nodes_without_number_do_not_grow_a_detector_of_silence():
    detector = AgentSilent(SilentOptions())
    one = batch("flow")
    for start in range(0, 20_000, 1000):
        crowd = [replace(one, node=f"n{number}") for number in range(start, start + 1000)]
        show(detector, *crowd, now=1.0)

    assert detector.size_bytes <= 512 * (1 << 14)
