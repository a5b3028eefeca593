# SPDX-License-Identifier: Apache-2.0
"""The allow list holds what the agent and its people need, in few boxes, and knows who aims at it."""

from ipaddress import ip_address, ip_network

import pytest

from schemas.protocols import ICMPV6, PROTOCOLS
from schemas.rules.allow import MAX_BOXES, Allowed, conflicts, reasons_for
from schemas.rules.decide import holds
from schemas.rules.rule import RuleError
from tests.schemas.rules.packets import a_packet, a_rule

BROKER = (ip_address("10.0.0.5"), 9092)
DATABASE = (ip_address("2001:db8::6"), 8443)
FULL = Allowed(
    networks=(ip_network("10.9.0.0/16"), ip_network("2001:db8:9::/48")),
    brokers=(BROKER, (ip_address("10.0.0.6"), 9093)),
    databases=(DATABASE,),
    ssh_peers=((ip_address("192.0.2.7"), 22),),
)
LOCAL = Allowed(brokers=(BROKER,), local=(ip_network("10.0.0.2"),))


def test_everything_fits_into_the_boxes_that_are_kept_for_it():
    assert len(FULL.boxes) == MAX_BOXES


@pytest.mark.parametrize(
    ("packet", "reasons"),
    [
        (a_packet("10.0.0.2", "10.0.0.5", dst_port=9092), ["Kafka broker 10.0.0.5:9092"]),
        (a_packet("10.0.0.5", "10.0.0.2", src_port=9092), ["Kafka broker 10.0.0.5:9092"]),
        (a_packet("10.0.0.5", "10.0.0.2", dst_port=9092), []),
        (a_packet("192.0.2.7", "10.0.0.2", dst_port=22), ["SSH from 192.0.2.7 to port 22"]),
        (a_packet("10.0.0.2", "192.0.2.7", src_port=22), ["SSH from 192.0.2.7 to port 22"]),
        (a_packet("10.9.1.1", "10.0.0.2", dst_port=5), ["management network 10.9.0.0/16"]),
        (
            a_packet("0.0.0.0", "255.255.255.255", protocol=17, src_port=68, dst_port=67),
            ["DHCP"],
        ),
        (
            a_packet("fe80::1", "ff02::1", protocol=ICMPV6, icmp_type=135),
            ["IPv6 neighbour discovery"],
        ),
        (a_packet("fe80::1", "ff02::1", protocol=ICMPV6, icmp_type=128), []),
        (a_packet("2001:db8::6", "2001:db8::2", src_port=8443), ["ClickHouse [2001:db8::6]:8443"]),
    ],
)
def test_a_packet_is_allowed_for_these_reasons(packet, reasons):
    assert reasons_for(FULL, packet) == reasons
    # Neighbour discovery needs no box: the programs know it, and look whether it is from the link.
    in_boxes = [reason for reason in reasons if reason != "IPv6 neighbour discovery"]
    assert any(holds(box, packet) for box in FULL.boxes) is bool(in_boxes)


@pytest.mark.parametrize(
    ("match", "reasons"),
    [
        ("src net 203.0.113.0/24", []),
        ("dst net 203.0.113.0/24", []),
        ("tcp port 23", ["management network 10.9.0.0/16", "management network 2001:db8:9::/48"]),
        ("host 10.0.0.5", ["Kafka broker 10.0.0.5:9092"]),
        ("host 10.0.0.5 and not port 9092", []),
        ("src net 203.0.113.0/24 and tcp dst port 22", []),
        ("dst host 192.0.2.7", ["SSH from 192.0.2.7 to port 22"]),
        ("udp port 67 and not net 10.9.0.0/16 and ip", ["DHCP"]),
        ("icmptype 135 and not net 2001:db8:9::/48 and ip6", ["IPv6 neighbour discovery"]),
    ],
)
def test_a_rule_that_means_what_is_allowed_is_told_why(match, reasons):
    assert conflicts(a_rule(match=match), FULL) == reasons


def test_a_rule_about_everything_conflicts_with_all_that_has_addresses():
    assert conflicts(a_rule(match=""), FULL) == list(FULL.reasons[2:])


def test_an_observed_rule_conflicts_as_well_and_one_that_passes_never():
    assert conflicts(a_rule(match="host 10.0.0.5", is_observed=False), FULL)
    assert conflicts(a_rule(match="host 10.0.0.5", is_observed=True), FULL)
    assert not conflicts(a_rule(match="", action="pass"), FULL)


def test_who_knows_its_own_addresses_knows_what_is_aimed_at_them():
    assert conflicts(a_rule(match="src net 10.0.0.0/30"), LOCAL) == ["Kafka broker 10.0.0.5:9092"]
    assert conflicts(a_rule(match="src net 10.0.0.4/32"), LOCAL) == []
    assert conflicts(a_rule(match="net 10.0.0.5/32 and net 10.0.0.77/32"), LOCAL) == []


def test_a_long_list_of_addresses_conflicts_where_it_holds_one_that_is_allowed():
    networks = tuple(ip_network((0xC6120000 + n, 32)) for n in range(20_000))

    assert conflicts(a_rule(match="", src=networks), FULL) == []
    assert conflicts(a_rule(match="", src=(*networks, ip_network("10.0.0.0/29"))), FULL) == [
        "Kafka broker 10.0.0.5:9092",
        "Kafka broker 10.0.0.6:9093",
    ]


def test_the_list_comes_out_of_its_message_as_it_went_in():
    assert Allowed.from_message(FULL.to_message()) == FULL
    assert Allowed.from_message({}) == Allowed()


@pytest.mark.parametrize(
    "message",
    [
        None,
        {"networks": "10.0.0.0/8"},
        {"networks": ["x"]},
        {"brokers": [["10.0.0.1"]]},
        {"brokers": [["10.0.0.1", 70000]]},
        {"brokers": [7]},
        {"x": []},
    ],
)
def test_what_is_no_allow_list_is_refused(message):
    with pytest.raises(RuleError):
        Allowed.from_message(message)


def test_udp_beside_dhcp_is_nobodys_conflict():
    assert conflicts(a_rule(match=f"proto {PROTOCOLS['udp']}"), Allowed()) == []
