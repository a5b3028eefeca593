# SPDX-License-Identifier: Apache-2.0
"""Floods are found, busy servers are not, and a million sources make nothing grow."""

import numpy as np

from consumer.alerts.detectors.syn_flood import Options, SynFlood
from consumer.alerts.detectors.volume_flood import IcmpFlood, IcmpOptions, UdpFlood, UdpOptions
from consumer.alerts.origins import Origins
from tests.consumer.alerts.scenes import SYN, WHOLE, batch, many, raw, show

WEB = "192.0.2.10"


def syns(count, *, time=0.0, sources=None, flags=SYN, node="web-1", **columns):
    numbers = np.arange(count) if sources is None else np.arange(count) % sources
    return batch(
        rows=count,
        node=node,
        time=time + np.arange(count) % 100 / 100,
        src_addr=many(numbers, "10.0.0.0"),
        dst_addr=WEB,
        src_port=1024 + np.arange(count) % 60_000,
        dst_port=443,
        tcp_flags=flags,
        **columns,
    )


def test_syns_of_many_sources_without_handshakes_are_a_flood():
    [found] = show(SynFlood(Options()), syns(2000), now=1.0)

    assert found.labels == {"destination": WEB, "port": "443", "protocol": "tcp"}
    assert 1900 <= found.value <= 2000
    assert found.proposal.action == "limit"
    assert (
        found.proposal.match == f"dst host {WEB} and tcp dst port 443 and flag syn and not flag ack"
    )


def test_a_flood_of_one_source_is_proposed_to_be_dropped_by_its_address():
    [found] = show(SynFlood(Options()), syns(2000, sources=1), now=1.0)

    assert found.proposal.match == (
        f"src host 10.0.0.0 and dst host {WEB} and tcp dst port 443 and flag syn and not flag ack"
    )
    assert found.proposal.action == "drop"


def test_a_flood_of_one_network_is_proposed_to_be_dropped_by_it():
    [found] = show(SynFlood(Options()), syns(2000, sources=200), now=1.0)

    assert found.proposal.action == "drop"
    assert found.proposal.match.startswith(f"src net 10.0.0.0/24 and dst host {WEB} and tcp")
    assert "from about " in found.summary
    assert "100 % from 10.0.0.0/24" in found.summary


def test_the_sources_of_more_victims_than_there_is_room_for_are_forgotten():
    origins = Origins()
    for victim in range(1000):
        origin = origins.add(victim, many([1, 2, 256], "2.0.0.0"), np.array([5.0, 1.0, 2.0]))

    assert (origin.sources, origin.network, origin.share) == (3, "2.0.0.0/24", 0.75)
    assert origins.size_bytes <= 64 * 2048
    ipv6 = np.frombuffer(raw("2001:db8::1") * 2, "|V16")
    assert origins.add(0, ipv6, np.ones(2)).network == "2001:db8::/64"


def test_a_busy_server_some_of_whose_handshakes_lie_across_an_interval_is_not_flooded():
    busy = [syns(4000, flags=WHOLE), syns(900)]

    assert not show(SynFlood(Options()), *busy, now=1.0)


def test_a_rate_just_below_the_threshold_is_no_flood():
    detector = SynFlood(Options(packets_per_second=500))

    assert not show(detector, syns(499), now=1.0)


def test_a_flood_that_two_nodes_on_its_way_report_is_one_and_counted_once():
    found = show(SynFlood(Options()), syns(600, node="router"), syns(600), now=1.0)

    assert {one.fingerprint for one in found} == {found[0].fingerprint}
    assert all(one.value <= 600 for one in found)


def test_what_an_interface_sends_is_not_counted():
    assert not show(SynFlood(Options()), syns(5000, direction=2), now=1.0)


def test_rows_that_come_late_from_a_spool_raise_no_alert():
    assert not show(SynFlood(Options()), syns(5000), now=200.0)


def test_a_flood_told_in_parts_adds_up_to_its_second():
    detector = SynFlood(Options(packets_per_second=1000))

    assert not show(detector, syns(600), now=1.0)
    assert show(detector, syns(600, sources=600), now=1.1)


def test_one_flow_of_many_syns_over_ten_seconds_counts_by_the_second():
    detector = SynFlood(Options())
    row = {"src_addr": "10.0.0.1", "dst_addr": WEB, "dst_port": 443, "tcp_flags": SYN, "end": 10.0}

    assert not show(detector, batch(packets=4000, **row), now=10.0)
    assert show(detector, batch(packets=6000, **row), now=10.0)


def test_a_million_sources_do_not_grow_a_syn_flood_detector_nor_hide_the_victim():
    detector = SynFlood(Options())
    show(detector, syns(10), now=0.0)
    before = detector.size_bytes
    rng = np.random.default_rng(1)
    found = []
    for second in range(10):
        flood = batch(
            rows=100_000,
            time=second + rng.random(100_000),
            src_addr=many(rng.integers(0, 1 << 32, 100_000)),
            dst_addr=many(rng.integers(0, 1 << 16, 100_000), "198.18.0.0"),
            dst_port=rng.integers(1, 65_536, 100_000),
            tcp_flags=SYN,
        )
        found += show(detector, flood, syns(1000, time=second), now=second + 1.0)

    assert {one.labels["destination"] for one in found} == {WEB}
    assert detector.size_bytes <= before + 64 * 2048


def udp(count, *, time=0.0, packets=1, back=0, sources=1000, **columns):
    incoming = batch(
        rows=count,
        protocol=17,
        time=time + np.arange(count) % 100 / 100,
        src_addr=many(np.arange(count) % sources, "203.0.0.0"),
        dst_addr=WEB,
        src_port=53,
        dst_port=4444,
        packets=packets,
        **columns,
    )
    if not back:
        return [incoming]
    reply = batch(
        protocol=17, direction=2, time=time, src_addr=WEB, dst_addr="203.0.0.1", packets=back
    )
    return [incoming, reply]


def after_a_quiet_minute(detector, **columns):
    for second in range(60):
        assert not show(detector, *udp(20, time=second, **columns), now=second + 1.0)
    return detector


def test_far_more_udp_than_an_address_is_used_to_is_a_flood():
    detector = after_a_quiet_minute(UdpFlood(UdpOptions()))

    [found] = show(detector, *udp(3000, time=60, packets=10), now=61.0)

    assert found.labels == {"destination": WEB, "protocol": "udp"}
    assert found.proposal.match == f"dst host {WEB} and udp"
    assert found.proposal.action == "limit"


def test_a_download_over_udp_that_is_acknowledged_is_no_flood():
    detector = after_a_quiet_minute(UdpFlood(UdpOptions()))

    assert not show(detector, *udp(1, time=60, packets=80_000, back=8000), now=61.0)


def test_a_stream_of_one_source_that_nobody_answers_is_a_flood():
    detector = after_a_quiet_minute(UdpFlood(UdpOptions()))

    [found] = show(detector, *udp(1, time=60, packets=80_000), now=61.0)

    assert found.proposal.action == "drop"


def test_a_resolver_that_is_always_busy_is_not_flooded():
    detector = UdpFlood(UdpOptions())

    for second in range(60):
        assert not show(detector, *udp(500, time=second, packets=60), now=second + 1.0)
    assert show(detector, *udp(500, time=60, packets=400), now=61.0)


def test_a_flood_goes_on_while_it_lasts():
    detector = after_a_quiet_minute(UdpFlood(UdpOptions()))

    for second in range(60, 180):
        assert show(detector, *udp(500, time=second, packets=100), now=second + 1.0)


def test_many_pings_are_a_flood_and_those_of_a_monitor_are_not():
    detector = IcmpFlood(IcmpOptions())
    for second in range(60):
        pings = batch(rows=50, protocol=1, icmp_type=8, dst_addr=WEB, time=second, packets=2)
        assert not show(detector, pings, now=second + 1.0)
    flood = batch(protocol=1, icmp_type=8, src_addr="10.0.0.9", dst_addr=WEB, time=60, packets=5000)

    [found] = show(detector, flood, now=61.0)

    assert found.proposal.match == f"src host 10.0.0.9 and dst host {WEB} and (icmp or icmpv6)"


def test_destinations_without_number_do_not_grow_a_volume_detector():
    detector = after_a_quiet_minute(UdpFlood(UdpOptions()))
    before = detector.size_bytes
    rng = np.random.default_rng(2)
    for second in range(60, 63):
        spread = batch(
            rows=100_000, protocol=17, time=second, dst_addr=many(rng.integers(0, 1 << 32, 100_000))
        )
        found = show(detector, spread, *udp(3000, time=second, packets=10), now=second + 1.0)
        assert {one.labels["destination"] for one in found} == {WEB}

    assert detector.size_bytes <= before + 64 * 2048
