# SPDX-License-Identifier: Apache-2.0
"""The filter language: what people write means what they mean, and what is wrong is named."""

import random

import pytest

from schemas.filter.grammar import parse
from schemas.filter.terms import TERMS
from schemas.filter.tree import EVERYTHING
from schemas.filter.words import FilterError
from tests.schemas.filters import a_filter, holds, mapped

NOTHING = {
    **dict.fromkeys(("src_port", "dst_port", "protocol", "ethertype", "vlan", "dscp"), 0),
    **dict.fromkeys(("icmp_type", "icmp_code", "tcp_flags"), 0),
    "src_addr": mapped("::"),
    "dst_addr": mapped("::"),
    "interface": "eth0",
    "direction": "ingress",
    "node": "alpha",
    "inner_vlan": 0,
    "tunnel": "none",
    "vni": 0,
    "outer_src_addr": mapped("::"),
    "outer_dst_addr": mapped("::"),
    "command": "",
}
HTTPS = {
    **NOTHING,
    "ethertype": 0x0800,
    "protocol": 6,
    "src_port": 51000,
    "dst_port": 443,
    "tcp_flags": 2,
    "src_addr": mapped("10.0.0.1"),
    "dst_addr": mapped("192.168.1.7"),
    "vlan": 12,
}
DNS6 = {
    **NOTHING,
    "ethertype": 0x86DD,
    "protocol": 17,
    "src_port": 53,
    "dst_port": 40000,
    "dscp": 46,
    "src_addr": mapped("2001:db8::1"),
    "dst_addr": mapped("2001:db8::2"),
    "direction": "egress",
    "interface": "veth7",
}
ECHO = {
    **NOTHING,
    "ethertype": 0x0800,
    "protocol": 1,
    "icmp_type": 8,
    "src_addr": mapped("10.0.0.1"),
    "dst_addr": mapped("10.0.0.2"),
}
ARP = {**NOTHING, "ethertype": 0x0806}
POD = {
    **ECHO,
    "inner_vlan": 7,
    "tunnel": "vxlan",
    "vni": 42,
    "outer_src_addr": mapped("192.0.2.1"),
    "outer_dst_addr": mapped("192.0.2.2"),
    "command": "curl",
}
ROWS = {"https": HTTPS, "dns6": DNS6, "echo": ECHO, "arp": ARP}


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("", "https dns6 echo arp"),
        ("host 10.0.0.1", "https echo"),
        ("10.0.0.1 and 10.0.0.2", "echo"),
        ("host 10.0.0.1 and tcp port 443", "https"),
        ("src net 10.0.0.0/8 and not dst port 443", "echo"),
        ("src and dst net 10.0.0.0/8", "echo"),
        ("src or dst net 192.168.0.0/16", "https"),
        ("dst 192.168.1.7", "https"),
        ("net ::/0", "dns6"),
        ("net 0.0.0.0/0", "https echo"),
        ("icmp or vlan 12", "https echo"),
        ("interface eth0 and ingress", "https echo arp"),
        ("interface veth*", "dns6"),
        ("port 53 or 443", "https dns6"),
        ("port (53 or 443) and ip6", "dns6"),
        ("tcp port 53 or 443", "https"),
        ("portrange 400-500", "https"),
        ("port 40000-50000", "dns6"),
        ("port 0", ""),
        ("ip proto icmp", "echo"),
        (r"ip proto \tcp", "https"),
        ("ip6 proto 17", "dns6"),
        ("ip host 10.0.0.2", "echo"),
        ("ip dst net 192.168.0.0/16", "https"),
        ("arp", "arp"),
        ("ethertype 0x0806", "arp"),
        ("ether proto arp", "arp"),
        ("vlan", "https"),
        ("dscp 0", "https echo"),
        ("icmptype 8", "echo"),
        ("icmptype 0", ""),
        ("icmpcode 0", "echo"),
        ("flag syn", "https"),
        ("flag (ack or syn)", "https"),
        ("egress", "dns6"),
        ("not not egress", "dns6"),
        ("!(tcp || udp) && ip", "echo"),
        ("NOT Arp and IP", "https echo"),
        ('interface "eth0" and arp', "arp"),
        ("node alp?a and arp", "arp"),
    ],
)
def test_a_filter_means(text: str, meant: str):
    tree = parse(text)

    assert [name for name, row in ROWS.items() if holds(tree, row)] == meant.split()


@pytest.mark.parametrize(
    "text",
    [
        *("tunnel", "tunnel vxlan", "vni 42", "innervlan", "innervlan 7", "outer host 192.0.2.1"),
        *("outer dst net 192.0.2.2/31", "process cu*", "process (sshd or curl)"),
    ],
)
def test_what_surrounds_a_packet_and_who_sent_it_can_be_asked(text: str):
    tree = parse(text)

    assert holds(tree, POD)
    assert not any(holds(tree, row) for row in ROWS.values())


@pytest.mark.parametrize(
    "text",
    ["tunnel gre", "vni 41", "outer src host 192.0.2.2", "outer net ::/0", "outer net 10.0.0.0/8"],
)
def test_what_surrounds_a_packet_is_told_apart(text: str):
    assert not holds(parse(text), POD)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hots 10.0.0.1", "'hots' at character 1 is no word of filters; write not, (, host, net,"),
        ("tcp and prot 80", "'prot' at character 9 is no word of filters; write not, (, host,"),
        ("tcp port http", "'http' at character 10 is no port; write 443 or 8000-8100"),
        ("host 10.0.0", "'10.0.0' at character 6 is no address; write 10.0.0.7,"),
        ("host 10.0.0.0/8", "'10.0.0.0/8' at character 6 is no single address; write net 10."),
        ("tcp host 10.0.0.1", "'host' at character 5 cannot stand here; write port, portrange"),
        ("tcp src 80", "'80' at character 9 cannot stand here; write port, portrange"),
        ("gre port 7", "'port' at character 5 cannot follow gre; write gre and port"),
        ("tcp udp", "'udp' at character 5 stands where a filter goes on or ends; write and, or"),
        ("tcp)", "')' at character 4 stands where a filter goes on or ends; write and, or"),
        ("(tcp", "the filter's end leaves a parenthesis open; write and, or, or )"),
        ("port (80 443)", "'443' at character 10 ends no list of values; write or, or )"),
        ("tcp or", "the filter's end is where a term must stand; write not, (, host,"),
        ("src", "the filter's end cannot stand here; write host, net, port, portrange"),
        ("port", "the filter's end lacks a value; write 443 or 8000-8100"),
        ("interface ()", "')' at character 12 lacks a value; write a name, with * and ?"),
        ("flag foo", "'foo' at character 6 is no TCP flag; write fin, syn, rst,"),
        ("proto 256", "'256' at character 7 is no protocol; write icmp,"),
        ("ethertype 0x10000", "'0x10000' at character 11 is no ethertype; write ip, arp,"),
        ("vlan 4096", "'4096' at character 6 is no number in its limits; write 0 to 4095"),
        ('node "a', "the quote at character 6 is not closed"),
        ("a or b and c", "'a' at character 1 is no word of filters"),
        ("tcp or udp and arp", "'and' at character 12 follows 'or'; write parentheses around one"),
        ("(" * 60 + "tcp" + ")" * 60, "lies too deep; write at most 50 levels"),
        ("not " * 60 + "tcp", "lies too deep; write at most 50 levels"),
        ("tcp or " * 600 + "tcp", "1201 words are too many; write at most 1000"),
    ],
)
def test_what_is_wrong_is_named_with_its_place_and_what_may_stand_there(text: str, said: str):
    with pytest.raises(FilterError) as raised:
        parse(text)

    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_capture_refuses_what_no_packet_tells():
    with pytest.raises(FilterError, match="^'node' at character 9 can be asked of flows only"):
        parse("tcp and node web", for_packets=True)


@pytest.mark.parametrize("term", TERMS, ids=lambda term: term.key)
def test_every_example_of_the_reference_is_a_filter(term):
    assert parse(term.example) != EVERYTHING
    assert parse(f"not ({term.example}) or tcp")


def test_any_text_is_a_filter_or_an_error_of_one_line():
    draw = random.Random(7)
    words = [*" ".join(a_filter(draw) for _ in range(20)).split(), "(", ")", "not", '"', "&&", "-"]

    for _ in range(2000):
        said = _said_of(" ".join(draw.choices(words, k=draw.randrange(1, 8))))

        assert "\n" not in said


def _said_of(text: str) -> str:
    try:
        parse(text)
    except FilterError as error:
        return str(error)
    return ""
