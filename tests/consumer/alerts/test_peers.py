# SPDX-License-Identifier: Apache-2.0
"""New peers and beacons are found; browsers, health checks and updates are not."""

import numpy as np
import pytest

from consumer.alerts.detectors.beacon import Beacon
from consumer.alerts.detectors.beacon import Options as BeaconOptions
from consumer.alerts.detectors.new_peer import NewPeer
from consumer.alerts.detectors.new_peer import Options as PeerOptions
from consumer.alerts.ignored import Ignored
from consumer.alerts.keys import external
from service.options import ConfigError
from tests.consumer.alerts.scenes import WHOLE, batch, many, raw, show

HOUR = 3600.0
C2 = "203.0.113.66"


def connects(peer, *, time, unit="shop.service", command="python3", rows=1, **columns):
    given = {"event": 2, "role": 1, "remote_addr": peer, "remote_port": 443, **columns}
    return batch("socket", rows=rows, time=time, unit=unit, command=command, **given)


def a_learned_detector(**options):
    detector = NewPeer(PeerOptions(learning=HOUR, **options))
    show(detector, connects("198.51.100.1", time=0), now=0)
    show(detector, connects("198.51.100.2", time=10), now=10)
    return detector


def test_a_service_that_connects_to_a_network_that_is_new_for_it_is_told():
    detector = a_learned_detector()

    [found] = show(detector, connects(C2, time=HOUR), now=HOUR)

    assert found.labels == {"unit": "shop.service", "peer": "203.0.113.0/24"}
    assert not show(detector, connects("203.0.113.7", time=HOUR + 1), now=HOUR + 1)


def test_what_is_new_while_a_program_is_learned_is_not_told():
    detector = a_learned_detector()

    assert not show(detector, connects(C2, time=HOUR - 1), now=HOUR - 1)
    assert not show(detector, connects(C2, time=0, unit="new.service"), now=2 * HOUR)


def test_a_known_network_a_private_one_and_a_client_of_ours_are_nothing_new():
    detector = a_learned_detector()

    for peer in ("198.51.100.99", "10.9.9.9", "192.168.7.7", "100.64.0.1", "fe80::1", "127.0.0.9"):
        assert not show(detector, connects(peer, time=HOUR), now=HOUR), peer
    assert not show(detector, connects(C2, time=HOUR, role=2), now=HOUR)


def test_a_browser_with_many_networks_is_left_alone():
    detector = NewPeer(PeerOptions(learning=HOUR))
    sites = many(np.arange(40) * 256, "151.101.0.0")
    show(detector, connects(sites, time=0, unit="", command="firefox", rows=40), now=0)

    assert not show(detector, connects(C2, time=HOUR, unit="", command="firefox"), now=HOUR)


def test_a_network_to_be_ignored_is_nothing_new():
    detector = a_learned_detector(ignore=("203.0.113.0/24",))

    assert not show(detector, connects(C2, time=HOUR), now=HOUR)


def test_programs_without_number_do_not_grow_a_detector_of_new_peers():
    detector = a_learned_detector()
    before = detector.size_bytes
    for start in range(0, 20_000, 2000):
        names = [f"p{number}" for number in range(start, start + 2000)]
        crowd = connects(C2, time=1, unit="", command=names, rows=2000)
        show(detector, crowd, now=20)
    rng = np.random.default_rng(1)
    for _ in range(3):
        show(
            detector,
            connects(many(rng.integers(0, 1 << 32, 100_000)), time=1, rows=100_000),
            now=30,
        )

    assert detector.size_bytes == before


def calls(time, *, source="10.0.0.5", peer=C2, **columns):
    return batch(
        time=time,
        direction=2,
        src_addr=source,
        dst_addr=peer,
        dst_port=443,
        tcp_flags=WHOLE,
        **columns,
    )


def a_beacon(every=60.0, jitter=0.1, count=20, options=None, **columns):
    """What is seen of calls that begin when the learning is over."""
    rng = np.random.default_rng(1)
    detector = Beacon(options or BeaconOptions(learning=HOUR))
    show(detector, calls(0, peer="198.51.100.9"), now=0)
    at, found = HOUR + 1, []
    for number in range(count):
        new = show(detector, calls(at, **columns), now=at + 1)
        found += [(number + 1, one) for one in new]
        at += every * (1 + rng.uniform(-jitter, jitter))
    return found


def test_a_host_that_calls_a_new_peer_regularly_is_told_after_twelve_calls():
    found = a_beacon(command="update")

    number, first = found[0]
    assert number == 12
    assert first.labels == {"source": "10.0.0.5", "peer": C2, "port": "443"}
    assert "update on 10.0.0.5 connects to 203.0.113.66 port 443 every" in first.summary


def test_a_jitter_of_a_fifth_hides_no_beacon_and_a_person_is_none():
    assert a_beacon(jitter=0.2)
    assert not a_beacon(jitter=0.9, count=200)


def test_eleven_calls_are_not_enough():
    assert not a_beacon(count=11)


def test_calls_within_seconds_are_no_beacon():
    assert not a_beacon(every=2.0, jitter=0.0, count=100)


def test_a_health_check_of_a_private_peer_is_no_beacon():
    assert not a_beacon(peer="10.0.0.80", jitter=0.0, count=100)


def test_a_poll_that_was_there_before_is_known():
    detector = Beacon(BeaconOptions(learning=HOUR))

    for at in np.arange(0, 2 * HOUR, 30.0):
        assert not show(detector, calls(at), now=at + 1)


def test_a_peer_that_several_hosts_ask_is_no_beacon_of_any():
    detector = Beacon(BeaconOptions(learning=HOUR, hosts=2))
    show(detector, calls(0, peer="198.51.100.9"), now=0)
    for at in HOUR + np.arange(0, HOUR, 30.0):
        for host in ("10.0.0.5", "10.0.0.6", "10.0.0.7"):
            assert not show(detector, calls(at, source=host), now=at + 1)


def test_a_call_that_two_interfaces_report_is_one_call():
    detector = Beacon(BeaconOptions(learning=HOUR))
    show(detector, calls(0, peer="198.51.100.9"), now=0)
    found = []
    for at in HOUR + 1 + np.arange(0, 1200, 60.0):
        found += show(detector, calls(at), calls(at + 0.001, interface="br0"), now=at + 1)

    assert found


def test_peers_without_number_do_not_grow_a_detector_of_beacons():
    detector = Beacon(BeaconOptions(learning=1.0))
    show(detector, calls(0), now=0)
    before = detector.size_bytes
    rng = np.random.default_rng(1)
    for second in range(5, 8):
        peers = many(rng.integers(1 << 24, 9 << 24, 100_000))
        assert not show(detector, calls(second, peer=peers, rows=100_000), now=second)

    assert detector.size_bytes == before


@pytest.mark.parametrize(
    ("address", "is_external"),
    [
        ("8.8.8.8", True),
        ("172.15.0.1", True),
        ("172.16.0.1", False),
        ("172.31.255.255", False),
        ("100.63.0.1", True),
        ("100.127.0.1", False),
        ("169.254.1.1", False),
        ("224.0.0.251", False),
        ("255.255.255.255", False),
        ("2001:4860:4860::8888", True),
        ("fd00::1", False),
        ("ff02::fb", False),
        ("::1", False),
    ],
)
def test_an_address_is_external_or_not(address, is_external):
    assert external(np.frombuffer(raw(address), "|V16"))[0] == is_external


def test_networks_to_ignore_are_of_both_families_and_checked():
    ignored = Ignored(("10.0.0.0/8", "2001:db8::/32"))
    addresses = np.frombuffer(
        b"".join(map(raw, ("10.1.1.1", "11.1.1.1", "2001:db8::1", "2001:db9::1"))), "|V16"
    )

    assert ignored(addresses).tolist() == [True, False, True, False]
    with pytest.raises(ConfigError, match="ignore has '10.0.0.1/8', which is no network"):
        Ignored(("10.0.0.1/8",))
