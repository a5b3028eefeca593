# SPDX-License-Identifier: Apache-2.0
"""The boxes of a rule hold the packets that its filter means, and there are few of them."""

import time
from contextlib import suppress
from ipaddress import IPv4Network, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.filter.grammar import parse
from schemas.protocols import ICMP, ICMPV6, PROTOCOLS, WITH_PORTS
from schemas.rules.boxes import ALL_FLAGS, ALL_ICMP, ALL_PORTS, Box, boxes_from, boxes_of
from schemas.rules.decide import holds, is_meant, means
from schemas.rules.intervals import (
    ADDRESS_BITS,
    ANYWHERE,
    complement,
    intersection,
    last_of,
    overlap,
    prefixes_of,
    united,
)
from schemas.rules.meaning import spaces_of
from schemas.rules.rule import RuleError
from schemas.rules.spaces import MeaningError
from tests.schemas.rules.packets import a_packet, a_rule, filters, mapped, packets


def _boxes(match: str) -> tuple[Box, ...]:
    return boxes_of(a_rule(match=match))


def _boxes_if_few(text: str) -> tuple[Box, ...] | None:
    with suppress(MeaningError):
        return boxes_from(spaces_of(parse(text, for_packets=True)))
    return None


@settings(max_examples=150, deadline=None)
@given(filters(), st.lists(packets(), min_size=10, max_size=10))
def test_boxes_hold_what_the_filter_means(text, some):
    tree = parse(text, for_packets=True)
    boxes = _boxes_if_few(text)

    for packet in some if boxes is not None else ():
        assert any(holds(box, packet) for box in boxes) == means(tree, packet), (text, packet)


@settings(max_examples=60, deadline=None)
@given(filters())
def test_a_box_with_a_condition_on_a_header_holds_only_protocols_that_have_it(text):
    for box in _boxes_if_few(text) or ():
        protocols = {number for number in range(256) if box.protocols >> number & 1}
        if (box.src_ports, box.dst_ports) != (ALL_PORTS, ALL_PORTS):
            assert protocols <= set(WITH_PORTS)
        if box.icmp != ALL_ICMP:
            assert protocols <= {ICMP, ICMPV6}
        if box.flags != ALL_FLAGS:
            assert protocols == {PROTOCOLS["tcp"]}
        assert all((box.versions, box.protocols, box.vlans, box.dscps, box.directions))
        assert () not in (box.src, box.dst)


@pytest.mark.parametrize(
    ("match", "count"),
    [
        ("", 1),
        ("port 53 or port 80", 2),
        ("not port 53", 2),
        ("tcp port 22 or udp port 22", 2),
        ("host 10.0.0.1 or host 10.0.0.2", 2),
        ("src net 10.0.0.0/8 or src net 192.168.0.0/16", 1),
        ("not src net 10.0.0.0/8", 2),
        ("ip and not src net 10.0.0.0/8", 1),
        ("flag syn and not flag ack", 1),
        ("tcp or udp or icmp", 1),
        ("tcp or not tcp", 1),
        ("vlan 12 or vlan 13", 1),
        ("ingress or egress", 1),
        ("icmp or icmp6 or udp port 53", 3),
    ],
)
def test_boxes_that_differ_in_one_dimension_are_one(match, count):
    assert len(_boxes(match)) == count


def test_what_is_not_asked_of_a_protocol_is_not_asked_by_its_negation():
    echo = a_packet(protocol=ICMP, icmp_type=8)
    dns = a_packet(protocol=PROTOCOLS["udp"], dst_port=53)

    assert any(holds(box, echo) for box in _boxes("not port 53"))
    assert not any(holds(box, dns) for box in _boxes("not port 53"))


def test_an_ipv4_network_is_mapped_and_ipv4_alone():
    (box,) = _boxes("src net 10.1.2.0/24")

    assert box == Box(src=((mapped("10.1.2.0"), 120),), versions=1)


def test_packets_that_are_not_ip_are_in_no_box():
    (box,) = _boxes("not arp")

    assert box == Box()
    with pytest.raises(RuleError, match="'arp' means no IP packet, and rules are about those"):
        _boxes("arp")
    with pytest.raises(RuleError, match="means no IP packet"):
        _boxes("tcp and icmp")


@pytest.mark.parametrize(
    ("match", "said"),
    [
        ("innervlan 5", "'innervlan' cannot be asked in rules: .* use vlan"),
        ("tunnel vxlan", "'tunnel' cannot be asked in rules: .* use host, net or port"),
        ("vni 7", "'vni' cannot be asked in rules"),
        ("outer src host 192.0.2.1", "'outer' cannot be asked in rules: .* use host, net or port"),
        ("pid 33", "'pid' at character 1 can be asked of flows only"),
    ],
)
def test_a_term_that_rules_do_not_have_is_named_with_what_to_use(match, said):
    with pytest.raises(RuleError, match=said):
        a_rule(match=match)


def test_a_rule_has_sixteen_boxes_at_most():
    pairs = [f"(src host 10.0.0.{n} and dst port {n})" for n in range(1, 18)]

    assert len(_boxes(" or ".join(pairs[:16]))) == 16
    with pytest.raises(RuleError, match="takes 17 boxes, and a rule has 16; split it"):
        _boxes(" or ".join(pairs))


def test_a_filter_that_would_take_long_is_refused_soon():
    parts = [
        f"not (src port {n} and dst port {n} and vlan {n} and host 10.0.0.{n})"
        for n in range(1, 40)
    ]
    started = time.monotonic()

    with pytest.raises(RuleError, match="too involved|boxes"):
        a_rule(match=" and ".join(parts))
    assert time.monotonic() - started < 3


def test_a_list_narrows_the_match():
    listed = a_rule(
        match="tcp port 22", src=(ip_network("10.0.0.0/24"), ip_network("2001:db8::/64"))
    )

    assert {box.src for box in boxes_of(listed)} == {
        ((mapped("10.0.0.0"), 120), (mapped("2001:db8::"), 64))
    }
    assert boxes_of(a_rule(match="src net 192.168.0.0/16", src=listed.src)) == ()


def test_a_list_of_all_ipv6_addresses_does_not_hold_those_of_ipv4():
    everything = a_rule(match="", src=(ip_network("::/0"),))
    four, six = a_packet(), a_packet("2001:db8::1", "2001:db8::2")

    for packet, is_in in ((four, False), (six, True)):
        assert is_meant(everything, packet) is is_in
        assert any(holds(box, packet) for box in boxes_of(everything)) is is_in


def test_a_list_of_100000_networks_takes_a_moment():
    networks = tuple(IPv4Network((number << 9, 24)) for number in range(100_000))
    listed = a_rule(match="port 53 or port 80", src=networks)
    started = time.monotonic()

    boxes = boxes_of(listed)

    assert time.monotonic() - started < 3  # on a busy machine
    assert [len(box.src or ()) for box in boxes] == [100_000, 100_000]


ranges = st.lists(
    st.tuples(st.integers(0, 400), st.integers(0, 60)).map(lambda pair: (pair[0], sum(pair))),
    max_size=8,
)


def _numbers(intervals):
    return {number for first, last in intervals for number in range(first, last + 1)}


@given(ranges, ranges)
def test_sets_of_addresses_are_sets(one, other):
    mine, its = united(one), united(other)

    assert _numbers(mine) == _numbers(one)
    assert _numbers(intersection(mine, its)) == _numbers(one) & _numbers(other)
    assert complement(complement(mine)) == mine
    assert intersection(mine, complement(mine)) == ()
    assert united([*mine, *complement(mine)]) == ANYWHERE
    assert overlap(prefixes_of(mine), prefixes_of(its)) == bool(_numbers(one) & _numbers(other))


@given(ranges)
def test_prefixes_hold_what_intervals_do_and_are_disjoint(some):
    prefixes = prefixes_of(united(some))
    ends = [(prefix[0], last_of(prefix)) for prefix in prefixes]

    assert _numbers(ends) == _numbers(some)
    assert ends == sorted(ends)
    assert sum(last - first + 1 for first, last in ends) == len(_numbers(some))
    assert all(first % (1 << (ADDRESS_BITS - length)) == 0 for first, length in prefixes)
