# SPDX-License-Identifier: Apache-2.0
"""A capture that is replayed gives the rows that its packets would have given, at their times."""

import struct

import pytest
from scapy.layers.dns import DNS, DNSQR
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether

from schemas.fields import DIRECTIONS
from tests.lab.capture import five_tuples, total, tshark_fields
from tests.lab.capture_files import START_S, pcap
from tests.lab.compilers import without_compiler
from tests.lab.replays import SECOND_NS, Played, played

pytestmark = pytest.mark.kernel

START_NS = START_S * SECOND_NS
ETHERNET, NULL, RAW, LOOP, PPP, HDLC, COOKED, COOKED_2 = 1, 0, 101, 108, 9, 104, 113, 276
# 8.0.0.1: in a bare packet it stands where Ethernet has an ethertype, and says IPv4.
UDP4 = bytes(IP(src="8.0.0.1", dst="198.18.0.1") / UDP(sport=1024, dport=53) / b"hello")
TCP6 = bytes(IPv6(src="fd00::1", dst="fd00::2") / TCP(sport=1024, dport=80, flags="S"))
ECHO = bytes(IP(src="8.0.0.1", dst="198.18.0.1") / ICMP())
HOSTS = bytes.fromhex("020000000001020000000002")


def udp(flow: int = 0, payload_bytes: int = 10) -> bytes:
    return bytes(
        Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
        / IP(src="198.18.0.1", dst="198.18.0.2")
        / UDP(sport=1024 + flow, dport=4000)
        / bytes(payload_bytes)
    )


def cooked(kind: int, protocol: int, data: bytes) -> bytes:
    return struct.pack(">HHH8sH", kind, 1, 6, HOSTS[:6], protocol) + data


def cooked_2(kind: int, protocol: int, ifindex: int, data: bytes) -> bytes:
    return struct.pack(">HHIHBB8s", protocol, 0, ifindex, 1, kind, 6, HOSTS[:6]) + data


def identified(played: Played, interface: str = "") -> dict[object, tuple[int, int]]:
    """What has addresses, as tshark tells it."""
    tuples = played.published.five_tuples(interface=interface)
    return {key: counts for key, counts in tuples.items() if key[0] != "::"}


LINKS: dict[str, tuple[int, list[bytes]]] = {
    "ethernet": (ETHERNET, [HOSTS + b"\x08\0" + UDP4, HOSTS + b"\x86\xdd" + TCP6]),
    "vlan": (ETHERNET, [HOSTS + b"\x81\0\0\x05\x08\0" + UDP4]),
    "raw": (RAW, [UDP4, ECHO, TCP6]),
    "bsd raw": (12, [UDP4, ECHO, TCP6]),
    "raw 4": (228, [UDP4, ECHO]),
    "raw 6": (229, [TCP6]),
    "null": (NULL, [b"\2\0\0\0" + UDP4, b"\0\0\0\x1e" + TCP6, b"\x1c\0\0\0" + TCP6]),
    "loop": (LOOP, [b"\0\0\0\2" + UDP4, b"\0\0\0\x18" + TCP6]),
    "ppp": (PPP, [b"\xff\3\0\x21" + UDP4, b"\0\x57" + TCP6, b"\x21" + ECHO]),
    "hdlc": (HDLC, [b"\x0f\0\x08\0" + UDP4, b"\x0f\0\x86\xdd" + TCP6]),
    "cooked": (COOKED, [cooked(0, 0x0800, UDP4), cooked(4, 0x86DD, TCP6)]),
    "cooked 2": (COOKED_2, [cooked_2(0, 0x0800, 3, UDP4), cooked_2(4, 0x86DD, 3, TCP6)]),
}


def test_every_link_type_gives_the_flows_that_tshark_sees(lab, tmp_path):
    paths = {
        name: pcap(tmp_path / f"{name}.pcap", frames, link_type=link_type)
        for name, (link_type, frames) in LINKS.items()
    }

    replayed = played(*paths.values())

    assert not replayed.refused
    for name, path in paths.items():
        # The second kind of cooked capture names interfaces itself.
        assert identified(replayed, "if3" if name == "cooked 2" else name) == five_tuples(path)


def test_cooked_packets_tell_interface_and_direction(lab, tmp_path):
    arp = bytes(ARP(psrc="198.18.0.1", pdst="198.18.0.2"))
    frames = [
        cooked_2(0, 0x0800, 3, UDP4),
        cooked_2(4, 0x0806, 4, arp),
        cooked_2(0, 0x8100, 3, b"\0\x05\x08\0" + UDP4),
    ]

    replayed = played(pcap(tmp_path / "a.pcap", frames, link_type=COOKED_2))

    flow = replayed.published.column
    rows = zip(
        flow("flow", "interface"),
        flow("flow", "direction"),
        flow("flow", "ethertype"),
        flow("flow", "vlan"),
        strict=True,
    )
    assert sorted((name, *map(int, numbers)) for name, *numbers in rows) == [
        ("if3", DIRECTIONS["ingress"], 0x0800, 0),
        ("if3", DIRECTIONS["ingress"], 0x0800, 5),
        ("if4", DIRECTIONS["egress"], 0x0806, 0),
    ]


def test_packets_that_end_anywhere_are_counted_by_what_is_there(lab, tmp_path):
    whole = HOSTS + b"\x08\0" + UDP4
    frames = [(whole[:length], 200) for length in range(len(whole))]

    replayed = played(pcap(tmp_path / "a.pcap", frames))

    assert replayed.refused == 0
    counted = dict.fromkeys((0, 0x0800), 0)
    for ethertype, protocol, packets in replayed.rows("flow", "ethertype", "protocol", "packets"):
        counted[ethertype, protocol] = counted.get((ethertype, protocol), 0) + packets
    # Within Ethernet; within the IP header; with addresses, and with ports or without.
    assert counted[0, 0] == 14
    assert counted[0x0800, 0] == 20
    assert counted[0x0800, 17] == len(whole) - 34
    assert sum(bytes_ for (bytes_,) in replayed.rows("flow", "bytes")) == 200 * len(whole)
    # Whoever reads the ledger finds them; those behind the UDP header lack only payload.
    assert sum(one for (one,) in replayed.rows("ledger", "truncated_packets")) == 42


def test_of_other_links_packets_that_end_anywhere_are_counted_too(lab, tmp_path):
    paths, frames = [], []
    for name in ("raw", "null", "ppp", "cooked", "cooked 2"):
        link_type, (whole, *_) = LINKS[name]
        cut = [whole[:length] for length in range(len(whole) + 1)]
        paths.append(pcap(tmp_path / f"{name}.pcap", cut, link_type=link_type))
        frames += cut

    replayed = played(*paths)

    assert replayed.refused == 0
    assert sum(packets for (packets,) in replayed.rows("flow", "packets")) == len(frames)
    # With all of the UDP header: five bytes of payload more or less.
    assert identified(replayed)["8.0.0.1", "198.18.0.1", 1024, 53, 17][0] == 5 * 6


def test_lengths_are_those_of_the_wire_however_long(lab, tmp_path):
    frames = [(udp()[:60], 9000), (udp(), 300_000), udp(payload_bytes=40_000)]

    replayed = played(pcap(tmp_path / "a.pcap", frames), interval_ns=60 * SECOND_NS)

    expected = 9000 + 300_000 + len(frames[2])
    assert replayed.rows("flow", "packets", "bytes", "min_bytes", "max_bytes") == [
        (3, expected, 9000, 65535)
    ]


def test_first_and_last_times_are_those_of_the_packets(lab, tmp_path):
    moments = [(START_S, 17), (START_S, 999_999), (START_S + 1, 0), (START_S + 3, 141_593)]
    path = pcap(tmp_path / "a.pcap", [udp()] * 4, times=moments)

    replayed = played(path)

    assert replayed.rows("flow", "time", "end", "packets") == [
        (START_NS + 17_000, START_NS + 999_999_000, 2),
        (START_NS + SECOND_NS, START_NS + SECOND_NS, 1),
        (START_NS + 3_141_593_000, START_NS + 3_141_593_000, 1),
    ]


def test_intervals_are_those_of_the_capture_and_their_books_balance(lab, tmp_path):
    moments = [(START_S + second, 0) for second in (0, 0, 1, 100_000)]
    replayed = played(pcap(tmp_path / "a.pcap", [udp()] * 4, times=moments))

    sides = ("seen_packets", "flow_packets", "link_packets", "link_bytes")
    ingress = [row for row in replayed.rows("ledger", "time", "end", *sides) if row[2]]
    assert ingress == [
        (START_NS, START_NS + SECOND_NS, 2, 2, 2, 104),
        (START_NS + SECOND_NS, START_NS + 2 * SECOND_NS, 1, 1, 1, 52),
        (START_NS + 100_000 * SECOND_NS, START_NS + 100_001 * SECOND_NS, 1, 1, 1, 52),
    ]


def test_a_flow_that_comes_back_after_days_begins_anew(lab, tmp_path):
    # 2^32 microseconds are 72 minutes, after which the clock of the cache looks the same.
    silences = [0, 600, 1200, 4000, 4294, 5000, 90_000, 3_000_000]
    moments = [(START_S + silence, 5) for silence in silences]
    replayed = played(pcap(tmp_path / "a.pcap", [udp()] * len(silences), times=moments))

    at = [START_NS + silence * SECOND_NS + 5000 for silence in silences]
    assert replayed.rows("flow", "time", "end", "packets") == [(one, one, 1) for one in at]


def test_more_flows_than_the_cache_has_room_for_are_all_told(lab, tmp_path):
    frames = [udp(flow % 3000) for flow in range(9000)]
    moments = [(START_S + number // 4500, number % 4500) for number in range(9000)]
    path = pcap(tmp_path / "a.pcap", frames, times=moments)

    replayed = played(path, flow_slots=256)

    assert identified(replayed) == five_tuples(path)
    assert sum(one for (one,) in replayed.rows("ledger", "evictions")) > 0
    assert sum(one for (one,) in replayed.rows("ledger", "overflows")) == 0


def test_packets_without_any_length_are_counted(lab, tmp_path):
    frames = [(b"", 0)] * 3 + [(udp(), 0)] * 2

    replayed = played(pcap(tmp_path / "a.pcap", frames), interval_ns=60 * SECOND_NS)

    assert replayed.rows("flow", "ethertype", "packets", "bytes") == [(0, 3, 0), (0x0800, 2, 0)]


def test_samples_carry_the_time_of_their_packet(lab, tmp_path):
    replayed = played(pcap(tmp_path / "a.pcap", [udp()] * 3), sample=1)

    times = [START_NS + number * (SECOND_NS + 1000) for number in range(3)]
    assert replayed.rows("packet", "time", "bytes") == [(time, 52) for time in times]


def test_dns_messages_of_a_capture_become_rows(lab, tmp_path):
    question = DNS(id=7, qd=DNSQR(qname="example.org"))
    frame = bytes(
        Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
        / IP(src="198.18.0.1", dst="198.18.0.2")
        / UDP(sport=1024, dport=53)
        / question
    )

    replayed = played(pcap(tmp_path / "a.pcap", [frame]), dns="yes")

    assert replayed.rows("dns", "time") == [(START_NS,)]


def test_a_mixed_capture_agrees_with_tshark_packet_for_packet(lab, tmp_path):
    ethernet = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    shapes = [
        ethernet / IP(src="198.18.0.1", dst="198.18.0.2") / UDP(sport=1, dport=2) / b"x",
        ethernet / IP(src="198.18.0.2", dst="198.18.0.1") / TCP(sport=80, dport=3, flags="SA"),
        ethernet / Dot1Q(vlan=9) / IPv6(src="fd00::1", dst="fd00::2") / UDP(sport=5, dport=6),
        ethernet / IP(src="198.18.0.1", dst="198.18.0.2") / ICMP(),
        ethernet / ARP(psrc="198.18.0.1", pdst="198.18.0.2"),
    ]
    frames = [bytes(shapes[number % len(shapes)]) for number in range(2000)]
    moments = [(START_S + number // 700, number * 37 % 1_000_000) for number in range(2000)]
    path = pcap(tmp_path / "a.pcap", frames, times=moments)

    replayed = played(path)

    assert identified(replayed) == {
        key: counts for key, counts in five_tuples(path).items() if key[0]
    }
    rows = replayed.rows("flow", "packets", "bytes")
    assert (sum(row[0] for row in rows), sum(row[1] for row in rows)) == total(path)
    stamps = [_ns(text) for (text,) in tshark_fields(path, "frame.time_epoch")]
    assert min(replayed.rows("flow", "time"))[0] == min(stamps)
    assert max(replayed.rows("flow", "end"))[0] == max(stamps)


def _ns(text: str) -> int:
    seconds, _, fraction = text.partition(".")
    return int(seconds) * SECOND_NS + int(fraction.ljust(9, "0"))


def test_files_of_several_interfaces_keep_them_apart(lab, tmp_path):
    first = pcap(tmp_path / "lan.pcap", [udp()] * 3)
    second = pcap(tmp_path / "wan.pcap", [UDP4] * 2, link_type=RAW)

    replayed = played(first, second)

    names = replayed.published.column("flow", "interface").tolist()
    packets = replayed.published.column("flow", "packets").tolist()
    counted = dict.fromkeys(names, 0)
    for name, count in zip(names, packets, strict=True):
        counted[name] += count
    assert counted == {"lan": 3, "wan": 2}


def test_a_second_replay_needs_no_compiler(lab, tmp_path):
    path = pcap(tmp_path / "some.pcap", [udp(1), udp(2), udp(1)])
    first = played(path)
    with without_compiler(tmp_path):
        second = played(path)

    columns = ("src_port", "packets", "bytes", "time")
    assert second.rows("flow", *columns) == first.rows("flow", *columns)
    assert len(first.rows("flow", *columns)) == 3
