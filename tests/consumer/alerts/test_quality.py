# SPDX-License-Identifier: Apache-2.0
"""What gets worse than it was is told; what varies, or ends as usual, is not."""

import numpy as np
import pytest

from consumer.alerts.detectors.drop_off import DropOff
from consumer.alerts.detectors.drop_off import Options as DropOptions
from consumer.alerts.detectors.quality import (
    RetransmitOptions,
    Retransmits,
    RoundTrip,
    RoundTripOptions,
)
from tests.consumer.alerts.scenes import batch, look, many, show


def sockets(time, *, retransmits=0, segments=1000, rtt_us=10_000, count=5, first=0, **columns):
    """Connections that end now, each with these counts."""
    given = {"remote_addr": "203.0.113.5", "remote_port": 443, "role": 1, **columns}
    return batch(
        "socket",
        rows=count,
        time=time,
        start=0,
        event=5,
        cookie=first + np.arange(count),
        retransmits=retransmits,
        segments_sent=segments,
        min_rtt_us=rtt_us,
        srtt_us=rtt_us,
        **given,
    )


def over_time(detector, made, *, until=700, step=5, begin=0):
    found = []
    for second in range(begin, until, step):
        rows = made(second)
        found += [(second, one) for one in show(detector, rows, now=second + 1.0)]
    return found


def recent(second, **changes):
    rows = sockets(second, first=second * 100, **changes)
    rows.columns["start"] = rows.columns["time"] - 10**9
    return rows


def noisy(second, base):
    return base * (1 + 0.3 * np.sin(second * 1.7))


def test_more_retransmits_than_before_are_told():
    def made(second):
        return recent(second, retransmits=round(noisy(second, 3)) if second < 600 else 80)

    found = over_time(Retransmits(RetransmitOptions()), made)

    second, first = found[0]
    assert 600 < second <= 630
    assert first.labels == {"node": "web-1", "port": "443", "peer": "203.0.113.0/24"}
    assert first.value == pytest.approx(0.08, rel=0.1)


def test_retransmits_that_are_few_or_were_always_many_are_not_told():
    assert not over_time(
        Retransmits(RetransmitOptions()), lambda at: recent(at, retransmits=1 if at < 600 else 20)
    )
    assert not over_time(
        Retransmits(RetransmitOptions()), lambda at: recent(at, retransmits=round(noisy(at, 80)))
    )


def test_a_path_with_few_segments_is_not_judged():
    def made(second):
        return recent(second, segments=20, retransmits=0 if second < 600 else 10)

    assert not over_time(Retransmits(RetransmitOptions()), made)


def test_counts_of_a_connection_that_lasts_are_taken_from_one_update_to_the_next():
    detector = Retransmits(RetransmitOptions())

    def made(second):
        sent = 400 * second
        again = sent // 500 + (40 * (second - 600) if second > 600 else 0)
        row = sockets(second, count=1, retransmits=again, segments=sent, first=7)
        row.columns["event"] = np.full(1, 4, "|u1")
        row.columns["start"] = row.columns["time"] - int(second * 1e9)
        return row

    assert {second >= 610 for second, _ in over_time(detector, made)} == {True}


def test_longer_round_trips_than_before_are_told():
    def made(second):
        return recent(second, rtt_us=round(noisy(second, 10_000)) if second < 600 else 60_000)

    found = over_time(RoundTrip(RoundTripOptions()), made)

    assert 600 < found[0][0] <= 630
    assert found[0][1].value == pytest.approx(60, rel=0.1)


def test_round_trips_that_vary_or_grow_by_little_are_not_told():
    def lan(second):
        return recent(second, rtt_us=100 if second < 600 else 900)

    def wild(second):
        return recent(second, rtt_us=[5_000, 60_000, 20_000, 40_000][second // 5 % 4])

    assert not over_time(RoundTrip(RoundTripOptions()), lan)
    assert not over_time(RoundTrip(RoundTripOptions()), wild)


def test_a_queue_that_own_traffic_fills_is_not_told():
    def made(second):
        rows = recent(second)
        rows.columns["srtt_us"] = np.full(5, 10_000 if second < 600 else 300_000, "<u4")
        return rows

    assert not over_time(RoundTrip(RoundTripOptions()), made)


@pytest.mark.parametrize("kind", [Retransmits, RoundTrip])
def test_paths_without_number_do_not_grow_a_detector_of_quality(kind):
    options = {Retransmits: RetransmitOptions, RoundTrip: RoundTripOptions}[kind]
    detector = kind(options())
    before = detector.size_bytes
    rng = np.random.default_rng(1)
    for second in range(3):
        crowd = recent(second, count=100_000, remote_addr=many(rng.integers(0, 1 << 32, 100_000)))
        assert not show(detector, crowd, now=second + 1.0)

    assert detector.size_bytes == before


def books(second, packets, *, interface="eth0", node="web-1"):
    both = packets // 2
    return batch(
        "ledger",
        rows=2,
        node=node,
        time=float(second),
        end=second + 1.0,
        interface=interface,
        direction=[1, 2],
        hook=3,
        seen_packets=both,
        flow_packets=both,
    )


def test_steady_traffic_that_drops_to_a_fraction_is_told_and_over_when_it_is_back():
    detector = DropOff(DropOptions(history=300))

    def made(second):
        return books(second, round(noisy(second, 2000)) if not 600 <= second < 660 else 50)

    found = over_time(detector, made, step=1)

    assert 605 <= found[0][0] <= 615
    assert found[-1][0] <= 670
    assert found[0][1].labels == {"node": "web-1", "interface": "eth0"}


@pytest.mark.parametrize(
    "packets",
    [
        lambda second: 50_000 if 200 < second < 560 else 400,
        lambda second: 2000 if second < 600 else 500,
        lambda second: max(40, 2000 - 4 * second),
        lambda second: 60 if second < 600 else 1,
        lambda second: 4000 if second % 120 < 30 else 10,
    ],
    ids=[
        "a backup ends",
        "a quarter is left",
        "an evening comes",
        "too little",
        "it comes in bursts",
    ],
)
def test_ordinary_ends_of_traffic_are_no_drop(packets):
    detector = DropOff(DropOptions(history=300))

    assert not over_time(detector, lambda second: books(second, packets(second)), step=1)


def test_interfaces_without_number_do_not_grow_a_detector_of_drops():
    detector = DropOff(DropOptions())
    before = detector.size_bytes
    for number in range(10):
        names = [f"n{number}-{one}" for one in range(5000) for _ in range(2)]
        crowd = batch("ledger", rows=10_000, end=1.0, direction=[1, 2] * 5000, interface=names)
        assert not show(detector, crowd, now=2.0)

    assert detector.size_bytes == before
    assert not look(detector, now=100.0)
