# SPDX-License-Identifier: Apache-2.0
"""A packet to explain is said in words, given as digits, or found in a capture."""

from pathlib import Path

import pytest
from hypothesis import assume, given
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet as Frame
from scapy.utils import PcapNgWriter, wrpcap

from hookline.drop.frames import Found, frame_in, frame_of_file, packet_of
from hookline.drop.packets import packet_in, told
from schemas.protocols import WITH_PORTS
from schemas.rules.decide import Packet
from schemas.rules.rule import RuleError
from tests.schemas.rules.packets import a_packet, packets

NEIGHBOUR = "02:00:00:00:00:02"
SYN = (
    Ether(dst=NEIGHBOUR) / IP(src="10.0.0.1", dst="10.0.0.2") / TCP(sport=1234, dport=80, flags="S")
)


def _packet(frame: Frame) -> Packet:
    return packet_of(Found(bytes(frame), interface="eth0"))


@pytest.mark.parametrize(
    ("text", "packet"),
    [
        (
            "tcp 10.0.0.1:1234 > 10.0.0.2:80 flags syn,ack vlan 12 dscp 46 on eth0 egress",
            a_packet(
                src_port=1234,
                dst_port=80,
                tcp_flags=18,
                vlan=12,
                dscp=46,
                interface="eth0",
                direction="egress",
            ),
        ),
        (
            "udp [2001:db8::1]:53 > [2001:db8::2]:4000 on eth1 ingress",
            a_packet(
                *("2001:db8::1", "2001:db8::2"),
                protocol=17,
                src_port=53,
                dst_port=4000,
                interface="eth1",
            ),
        ),
        (
            "icmp 10.0.0.1 > 10.0.0.2 type 8 code 0 on eth0 ingress",
            a_packet(protocol=1, icmp_type=8, interface="eth0"),
        ),
        ("esp fe80::1 > fe80::2 on eth0 ingress", a_packet("fe80::1", "fe80::2", protocol=50)),
    ],
)
def test_a_packet_is_read_as_it_is_told(text, packet):
    assert packet_in(text) == packet
    assert told(packet) == text


@given(packets())
def test_whatever_is_told_is_read_again(packet):
    mapped = any(addr >> 32 == 0xFFFF for addr in (packet.src_addr, packet.dst_addr))
    # A protocol 0 has no name, and an IPv6 packet with a mapped address reads as IPv4.
    assume(packet.protocol and not (packet.version == 6 and mapped))
    said = told(packet)

    assert told(packet_in(said)) == said
    if packet.protocol in WITH_PORTS:
        assert packet_in(said).src_port == packet.src_port


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tcp 10.0.0.1:1 10.0.0.2:2", "is no packet; write tcp 10.0.0.1:1234 >"),
        ("foo 10.0.0.1 > 10.0.0.2", "'foo' is no protocol"),
        ("tcp 10.0.0.1 > 10.0.0.2:2", "'10.0.0.1' lacks a port; write one, as 10.0.0.1:80"),
        ("icmp 10.0.0.1:1 > 10.0.0.2", "'10.0.0.1:1' has a port; write the address alone"),
        ("tcp 10.0.0.1:99999 > 10.0.0.2:2", "has no such port; write 0 to 65535"),
        ("tcp 10.0.0.999:1 > 10.0.0.2:2", "holds no address"),
        ("tcp host:1 > 10.0.0.2:2", "is no end of a packet"),
        ("tcp 10.0.0.1:1 > [::1]:2", "are of two IP versions"),
        ("tcp 10.0.0.1:1 > 10.0.0.2:2 flags xyz", "'xyz' is no TCP flag"),
        ("udp 10.0.0.1:1 > 10.0.0.2:2 flags syn", "'flags' is nothing that protocol 17 has"),
        ("udp 10.0.0.1:1 > 10.0.0.2:2 vlan 4096", "'4096' is no number in its limits"),
        ("udp 10.0.0.1:1 > 10.0.0.2:2 vlan", "'vlan' lacks a value"),
        ("udp 10.0.0.1:1 > 10.0.0.2:2 ttl 3", "'ttl' is nothing that a packet has"),
    ],
)
def test_what_is_no_packet_is_refused(text, said):
    with pytest.raises(RuleError, match=said):
        packet_in(text)


@pytest.mark.parametrize(
    ("frame", "text"),
    [
        (SYN, "tcp 10.0.0.1:1234 > 10.0.0.2:80 flags syn on eth0 ingress"),
        (
            Ether(dst=NEIGHBOUR)
            / Dot1Q(vlan=12)
            / Dot1Q(vlan=3)
            / IP(tos=184, options=[])
            / UDP(sport=1, dport=2),
            "udp 127.0.0.1:1 > 127.0.0.1:2 vlan 12 dscp 46 on eth0 ingress",
        ),
        (
            Ether(dst=NEIGHBOUR) / IP(src="10.0.0.1", dst="10.0.0.2") / ICMP(type=3, code=1),
            "icmp 10.0.0.1 > 10.0.0.2 type 3 code 1 on eth0 ingress",
        ),
        (
            Ether(dst=NEIGHBOUR)
            / IPv6(src="2001:db8::1", dst="2001:db8::2", tc=184)
            / IPv6ExtHdrDestOpt()
            / UDP(sport=53, dport=4000),
            "udp [2001:db8::1]:53 > [2001:db8::2]:4000 dscp 46 on eth0 ingress",
        ),
        (
            Ether(dst=NEIGHBOUR)
            / IPv6(src="2001:db8::1", dst="2001:db8::2")
            / IPv6ExtHdrFragment(offset=100, nh=17)
            / b"later",
            "udp [2001:db8::1]:0 > [2001:db8::2]:0 on eth0 ingress",
        ),
        (
            Ether(dst=NEIGHBOUR) / IP(src="10.0.0.1", dst="10.0.0.2", frag=100, proto=6) / b"later",
            "tcp 10.0.0.1:0 > 10.0.0.2:0 on eth0 ingress",
        ),
    ],
)
def test_a_frame_is_read_as_far_as_rules_ask(frame, text):
    assert told(_packet(frame)) == text


def test_what_is_not_ip_is_never_touched():
    with pytest.raises(RuleError, match="ethertype 0x0806 is not IP, and rules never touch"):
        _packet(Ether(dst=NEIGHBOUR) / ARP())


@pytest.mark.parametrize("count", range(len(bytes(SYN))))
def test_a_frame_that_ends_early_is_refused_or_read(count):
    try:
        packet_of(Found(bytes(SYN)[:count]))
    except RuleError as error:
        told_so = str(error)
    else:
        told_so = ""

    # The flags are the last that is read.
    assert (f"ends after {count} bytes" in told_so) is (count < 14 + 20 + 14)


@pytest.mark.parametrize(
    "dump",
    [
        "0x0000:  4500 0028 0001\n\t0x0006:  4006\n",
        "0000: 45 00 00 28 00 01  E..(..\n0006: 40 06  @.\n",
        "45:00:00:28:00:01:40:06",
        "0x45 0x00 0x00 0x28 0x00 0x01 0x40 0x06",
        "4500002800014006",
    ],
)
def test_a_dump_is_read_in_the_ways_that_tools_print_it(dump):
    assert frame_in(dump) == bytes.fromhex("4500002800014006")


@pytest.mark.parametrize("dump", ["", "xyz", "450"])
def test_what_is_no_dump_is_refused(dump):
    with pytest.raises(RuleError, match="the hex dump is"):
        frame_in(dump)


def test_a_packet_of_a_capture_is_found_by_its_number(tmp_path: Path):
    path = tmp_path / "a.pcap"
    wrpcap(str(path), [Ether(dst=NEIGHBOUR) / ARP(), SYN])

    assert frame_of_file(path, 2).frame == bytes(SYN)
    with pytest.raises(RuleError, match="has 2 packets; write --number 1 to 2"):
        frame_of_file(path, 3)


def test_a_capture_tells_link_type_and_interface(tmp_path: Path):
    path = tmp_path / "a.pcapng"
    with PcapNgWriter(str(path)) as writer:
        SYN.sniffed_on = "eth7"
        writer.write(SYN)

    found = frame_of_file(path, 1)
    assert (found.link_type, found.interface) == (1, "eth7")


def test_another_file_is_no_capture(tmp_path: Path):
    (tmp_path / "x").write_text("hello")

    with pytest.raises(RuleError, match="is neither pcap nor pcapng"):
        frame_of_file(tmp_path / "x", 1)
