# SPDX-License-Identifier: Apache-2.0
"""Scans are found however slow, conversations are not, and a million sources hide nothing."""

import numpy as np

from consumer.alerts.detectors.port_scan import Options, PortScan
from tests.consumer.alerts.scenes import ACK, RST, SYN, SYN_ACK, WHOLE, batch, many, show

SCANNER, VICTIM = "10.0.0.9", "10.0.0.20"
PORTS = np.arange(1, 151)


def probes(ports=PORTS, *, time=0.0, flags=SYN, **columns):
    given = {"src_addr": SCANNER, "dst_addr": VICTIM, "src_port": 40_000, **columns}
    return batch(rows=len(ports), time=time, dst_port=ports, tcp_flags=flags, **given)


def replies(ports=PORTS, *, time=0.0, flags=SYN_ACK, **columns):
    given = {"src_addr": VICTIM, "dst_addr": SCANNER, "dst_port": 40_000, **columns}
    return batch(rows=len(ports), time=time, src_port=ports, tcp_flags=flags, direction=2, **given)


def test_one_source_that_asks_many_ports_of_a_host_scans_it():
    [found] = show(PortScan(Options()), probes(), replies(flags=RST | ACK), now=1.0)

    assert found.labels == {"source": SCANNER, "destination": VICTIM, "pattern": "ports"}
    assert found.value == 150
    assert found.proposal.match == f"src host {SCANNER} and tcp"


def test_ports_that_answer_were_not_asked_in_vain():
    assert not show(PortScan(Options()), probes(), replies(), now=1.0)


def test_an_answer_in_the_next_interval_takes_the_probe_back():
    detector = PortScan(Options())

    assert not show(detector, probes(PORTS[:90]), now=1.0)
    assert not show(detector, replies(PORTS[:90], time=1), now=2.0)
    assert not show(detector, probes(PORTS[90:], time=2), now=3.0)


def test_fewer_ports_than_the_threshold_are_no_scan():
    assert not show(PortScan(Options(ports=100)), probes(PORTS[:99]), now=1.0)


def test_the_same_port_again_and_again_is_no_scan():
    detector = PortScan(Options())

    for second in range(120):
        assert not show(detector, probes(PORTS[:1], time=second), now=second + 1.0)


def test_a_slow_scan_is_found_when_it_has_asked_enough():
    detector = PortScan(Options())
    found_at = [
        port
        for port in range(1, 121)
        if show(detector, probes(np.array([port]), time=20.0 * port), now=20.0 * port + 1)
    ]

    assert found_at[0] == 100


def test_one_source_that_asks_many_hosts_on_one_port_scans_them():
    sweep = probes(np.full(150, 22), dst_addr=many(np.arange(150), "10.1.0.0"))

    [found] = show(PortScan(Options()), sweep, now=1.0)

    assert found.labels == {
        "source": SCANNER,
        "protocol": "tcp",
        "port": "22",
        "pattern": "hosts",
    }


def test_a_monitor_whose_hosts_answer_does_not_scan_them():
    hosts = many(np.arange(500), "10.1.0.0")
    polls = probes(np.full(500, 9100), flags=WHOLE, dst_addr=hosts)
    late = probes(np.full(500, 9100), dst_addr=hosts)
    answers = replies(np.full(500, 9100), src_addr=hosts)

    assert not show(PortScan(Options()), polls, late, answers, now=1.0)


def test_a_resolver_that_asks_many_servers_does_not_scan_them():
    hosts = many(np.arange(800), "198.51.0.0")
    asks = probes(np.full(800, 53), protocol=17, flags=0, dst_addr=hosts)
    answers = replies(np.full(800, 53), protocol=17, flags=0, src_addr=hosts)

    assert not show(PortScan(Options()), asks, answers, now=1.0)


def test_a_server_that_answers_many_ports_of_one_address_does_not_scan_it():
    clients = 1024 + np.arange(5000)
    asks = batch(
        rows=5000, src_addr=VICTIM, dst_addr="10.0.0.53", protocol=17, src_port=clients, dst_port=53
    )
    answers = batch(
        rows=5000, src_addr="10.0.0.53", dst_addr=VICTIM, protocol=17, dst_port=clients, src_port=53
    )
    web = batch(
        rows=5000,
        src_addr="10.0.0.53",
        dst_addr=VICTIM,
        src_port=443,
        dst_port=clients,
        tcp_flags=WHOLE,
    )

    assert not show(PortScan(Options()), asks, answers, web, now=1.0)


def test_echo_requests_to_many_silent_hosts_are_a_sweep():
    hosts = many(np.arange(150), "10.1.0.0")
    sweep = batch(rows=150, protocol=1, icmp_type=8, src_addr=SCANNER, dst_addr=hosts, dst_port=7)
    back = batch(rows=150, protocol=1, icmp_type=0, dst_addr=SCANNER, src_addr=hosts, direction=2)

    [found] = show(PortScan(Options()), sweep, now=1.0)

    assert found.proposal.match == f"src host {SCANNER} and icmp"
    assert not show(PortScan(Options()), sweep, back, now=1.0)


def test_the_same_packets_seen_by_two_nodes_are_the_same_probes():
    twice = [probes(PORTS[:60]), probes(PORTS[:60], node="router", direction=2)]

    assert not show(PortScan(Options()), *twice, now=1.0)


def test_a_million_sources_do_not_grow_a_scan_detector_nor_raise_alerts():
    detector = PortScan(Options())
    before = detector.size_bytes
    rng = np.random.default_rng(3)
    for second in range(10):
        flood = batch(
            rows=100_000,
            time=second,
            src_addr=many(rng.integers(0, 1 << 32, 100_000)),
            dst_addr=VICTIM,
            dst_port=443,
            tcp_flags=SYN,
        )
        assert not show(detector, flood, now=second + 1.0)

    found = show(detector, probes(np.arange(1, 1001), time=10), now=11.0)
    assert [one.labels["source"] for one in found] == [SCANNER]
    assert detector.size_bytes == before
