# SPDX-License-Identifier: Apache-2.0
"""What an agent publishes is what the link carried: packet by packet, byte by byte.

The oracles are the interface's own counters and tcpdump with tshark; nothing of ours counts.
"""

import socket
from functools import partial

import numpy as np
import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether

from agent import libbpf
from schemas.fields import DIRECTIONS
from tests.chaos.cast import Talker
from tests.lab.agents import agent
from tests.lab.capture import capturing, five_tuples, total
from tests.lab.foreign import TCX_DROP, foreign_tc_program, tcx_program
from tests.lab.links import Link, link
from tests.lab.published import read_published
from tests.lab.traffic import iperf3, ping, udp_burst, udp_five_tuples, udp_gso
from tests.lab.tun import tun
from tests.lab.tunnels import vxlan

pytestmark = [pytest.mark.kernel, pytest.mark.services]

UDP_PROTOCOL = 17


def test_rows_add_up_to_the_interface_counters(kafka, dual_wire, tmp_path):
    before = dual_wire.quiet()
    with agent("--interface", dual_wire.near.name, kafka=kafka) as observed:
        with capturing(dual_wire.far, tmp_path / "far.pcap") as capture:
            ping(dual_wire)
            ping(dual_wire, ipv6=True)
            iperf3(dual_wire, "-n", "2M")
            iperf3(dual_wire, "-n", "2M", "-u", "-b", "400M")
            iperf3(dual_wire, "-n", "2M", "-R", ipv6=True)
            iperf3(dual_wire, "-n", "2M", "-u", "-b", "400M", ipv6=True)
            grown = dual_wire.quiet() - before
        assert observed.stop() == 0
    published = read_published(kafka, observed.name)

    assert published.sums("ingress") == grown.ingress
    assert published.sums("egress") == grown.egress
    assert published.five_tuples() == five_tuples(capture)
    assert published.sums("ingress", kind="ledger") == grown.ingress


@pytest.mark.parametrize("tc", ["tcx", "clsact"])
def test_the_books_begin_and_end_with_the_same_packets_as_the_interface(kafka, wire, tc):
    # While programs come and go, packets are under way.
    talker = Talker("steady", wire.near, wire.far, packets_per_s=2000)
    try:
        with agent("--interface", wire.near.name, "--tc", tc, kafka=kafka) as observed:
            assert observed.stop() == 0
        talker.stop()
    finally:
        talker.leave()
    published = read_published(kafka, observed.name)
    counted = {
        name: int(published.column("ledger", f"{name}_packets").sum()) for name in ("link", "seen")
    }
    told = published.batches["delivery"][-1]
    is_of_deliveries = published.column("delivery", "of_kind")[-told.rows :] == "delivery"
    made_rows = published.column("delivery", "made_rows")[-told.rows :][is_of_deliveries]

    assert counted["seen"] > 0
    # Two counters are read one after the other, at both ends: a moment apart, not a quarter second.
    assert abs(counted["link"] - counted["seen"]) <= 40
    assert made_rows.tolist() == [sum(one.rows for one in published.batches["delivery"])]


@pytest.mark.parametrize(
    "flags",
    [
        ("--hook", "tc"),
        ("--tc", "clsact"),
        ("--hook", "xdp-generic"),
        ("--hook", "xdp"),
        ("--hook", "xdp", "--buffer", "perf"),
        ("--buffer", "perf"),
    ],
    ids=" ".join,
)
def test_every_hook_and_buffer_counts_what_the_far_end_sent_and_got(kafka, wire, tmp_path, flags):
    # Once XDP runs on one end, both ends' counters leave out Ethernet headers, so ask tcpdump.
    with agent("--interface", wire.near.name, *flags, kafka=kafka) as observed:
        with (
            capturing(wire.far, tmp_path / "sent.pcap", direction="out") as sent,
            capturing(wire.far, tmp_path / "received.pcap", direction="in") as received,
        ):
            ping(wire)
            udp_burst(wire, flows=50, packets=500)
            iperf3(wire, "-n", "1M", "-R")
            wire.quiet()
        assert observed.stop() == 0
    published = read_published(kafka, observed.name)

    assert published.sums("ingress") == total(sent)
    assert published.sums("egress") == total(received)


@pytest.mark.parametrize(
    ("flags", "keeps_detail"),
    [
        (("--flow-slots", "64"), True),
        (("--flow-slots", "64", "--ring-bytes", "4096"), False),
        (("--flow-slots", "64", "--ring-bytes", "8192", "--buffer", "perf"), False),
    ],
    ids=["evicted", "ring full", "perf buffer full"],
)
def test_a_flood_of_flows_loses_detail_before_it_loses_a_packet(kafka, wire, flags, keeps_detail):
    before = wire.quiet()
    with agent(
        "--interface", wire.near.name, "--interval", "0.05", *flags, kafka=kafka
    ) as observed:
        udp_burst(wire, flows=5_000, packets=30_000)
        # Among the flood, one flow that snapshots see grow again and again.
        ping(wire, count=50)
        grown = wire.quiet() - before
        assert observed.stop() == 0
    published = read_published(kafka, observed.name)
    overflowed = int(published.column("ledger", "overflow_packets").sum())

    assert published.sums("ingress") == grown.ingress
    assert published.sums("egress") == grown.egress
    assert published.sums("egress", kind="ledger") == grown.egress
    assert (overflowed == 0) == keeps_detail


def test_a_million_flows_in_a_burst_are_told_or_their_packets_are(kafka, wire):
    before = wire.quiet()
    with agent(
        *("--interface", wire.near.name, "--flow-slots", "1024", "--ring-bytes", "65536"),
        *("--interval", "0.2", "--sample", "0"),
        kafka=kafka,
    ) as observed:
        udp_five_tuples(wire, sources=20, destinations=50_000)
        grown = wire.quiet() - before
        assert observed.stop() == 0
    published = read_published(kafka, observed.name)
    overflowed = published.column("ledger", "overflow_packets")
    of_egress = published.column("ledger", "direction") == DIRECTIONS["egress"]
    without_flow = int(overflowed[of_egress].sum())
    of_flows = published.column("flow", "protocol") == UDP_PROTOCOL
    ports = [published.column("flow", name).astype(int) for name in ("src_port", "dst_port")]

    assert grown.egress[0] >= 1_000_000
    for direction in ("ingress", "egress"):
        seen, told = published.sums(direction, kind="ledger"), published.sums(direction)
        assert (seen, told) == (getattr(grown, direction),) * 2, (direction, without_flow)
    # Each flow had one packet: the ledger says how many flows have no row of their own.
    assert without_flow > 0
    assert len(np.unique((ports[0] << 16 | ports[1])[of_flows])) == 1_000_000 - without_flow


@pytest.mark.parametrize("hook", ["tcx", "clsact"])
def test_super_packets_count_as_what_a_wire_carries(kafka, dual_wire, tmp_path, hook):
    # The kernel cuts packets up between our hook and the counters, which thereby see the wire,
    # and joins those that the far end sent one by one.
    dual_wire.near.namespace.run("ethtool", "-K", dual_wire.near.name, "gso", "on", "gro", "on")
    before = dual_wire.quiet()
    with agent("--interface", dual_wire.near.name, "--tc", hook, kafka=kafka) as observed:
        with capturing(dual_wire.far, tmp_path / "sent.pcap", direction="out") as sent:
            for ipv6 in (False, True):
                iperf3(dual_wire, "-n", "4M", ipv6=ipv6)
                iperf3(dual_wire, "-n", "4M", "-R", ipv6=ipv6)
                udp_gso(dual_wire, segment_bytes=1200, payload_bytes=60_001, ipv6=ipv6)
            grown = dual_wire.quiet() - before
        assert observed.stop() == 0
    dual_wire.set_offloads(on=False)
    published = read_published(kafka, observed.name)

    assert published.sums("egress") == grown.egress
    assert published.sums("ingress") == total(sent)
    assert published.column("flow", "max_bytes").max() == 1514


@pytest.mark.parametrize("hook", ["tcx", "clsact"])
def test_the_ledger_knows_how_an_interface_counts_super_packets(kafka, lab, hook):
    # They pass whole from one end to the other, and each end counts them as one.
    with link(offloads=True) as wire:
        before = wire.quiet()
        with agent("--interface", wire.near.name, "--tc", hook, kafka=kafka) as observed:
            iperf3(wire, "-n", "4M")
            iperf3(wire, "-n", "4M", "-R")
            udp_gso(wire, segment_bytes=1200, payload_bytes=60_001)
            grown = wire.quiet() - before
            assert observed.stop() == 0
    ledger = partial(read_published(kafka, observed.name).column, "ledger")

    for direction, counted in (("ingress", grown.ingress), ("egress", grown.egress)):
        of_direction = ledger("direction") == DIRECTIONS[direction]
        extra = [int(ledger(f"extra_{what}")[of_direction].sum()) for what in ("packets", "bytes")]
        seen = [int(ledger(f"seen_{what}")[of_direction].sum()) for what in ("packets", "bytes")]
        assert all(extra)
        assert (seen[0] - extra[0], seen[1] - extra[1]) == counted


def test_tagged_and_odd_frames_are_counted_under_what_they_are(kafka, wire):
    ipv4 = Ether(src=wire.far.mac, dst=wire.near.mac)
    packet = IP(src=wire.far.ipv4, dst="198.18.255.9") / UDP(sport=7, dport=9) / (b"x" * 30)
    frames = [
        bytes(ipv4 / Dot1Q(vlan=7) / packet),
        bytes(ipv4 / Dot1AD(vlan=8) / Dot1Q(vlan=9) / packet),
        bytes(Ether(src=wire.far.mac, dst="01:80:c2:00:00:00", type=0x88CC) / (b"l" * 50)),
        bytes(Ether(src=wire.far.mac, dst="01:80:c2:00:00:00", type=39) / (b"s" * 46)),
        bytes(ipv4)[:14],
    ]
    before = wire.quiet()
    with agent("--interface", wire.near.name, kafka=kafka) as observed:
        wire.far.send(frames)
        grown = wire.quiet() - before
        assert observed.stop() == 0
    published = read_published(kafka, observed.name)
    names = ("ethertype", "vlan", "src_port", "dst_port", "bytes")
    rows = set(zip(*(published.column("flow", name).tolist() for name in names), strict=True))

    assert published.sums("ingress") == grown.ingress
    assert rows == {
        (0x0800, 7, 7, 9, len(frames[0])),
        (0x0800, 8, 7, 9, len(frames[1])),
        (0x88CC, 0, 0, 0, len(frames[2])),
        (0x0004, 0, 0, 0, len(frames[3])),
        (0x9000, 0, 0, 0, 14),
    }


@pytest.mark.parametrize("mtu", [9000, 65535])
def test_frames_whose_headers_are_scattered_are_counted_by_their_flow(kafka, lab, mtu):
    # A raw frame of several pages has nothing but its Ethernet header in one piece.
    with link(mtu=mtu) as wire:
        packet = IP(src=wire.far.ipv4, dst="198.18.255.9") / UDP(sport=7, dport=9)
        frame = bytes(Ether(src=wire.far.mac, dst=wire.near.mac) / packet / bytes(mtu - 28))
        before = wire.quiet()
        with agent("--interface", wire.near.name, kafka=kafka) as observed:
            wire.far.send([frame] * 3)
            grown = wire.quiet() - before
            assert observed.stop() == 0
    published = read_published(kafka, observed.name)

    assert published.sums("ingress") == grown.ingress == (3, 3 * (mtu + 14))
    assert published.column("flow", "src_port").tolist() == [7]
    assert published.column("flow", "max_bytes").tolist() == [min(mtu + 14, 65535)]
    assert published.column("packet", "header")[0].tobytes()[:54] == frame[:54]


@pytest.mark.parametrize("hook", ["auto", "xdp-generic"])
def test_bare_ip_packets_of_a_tunnel_are_counted_by_their_flow(kafka, lab, hook):
    with tun() as device:
        packet = bytes(IP(src="198.18.0.9", dst="198.18.0.10") / UDP(sport=7, dport=9) / b"data")
        with agent("--interface", device.name, "--hook", hook, kafka=kafka) as observed:
            device.receive(packet, times=3)
            assert observed.stop() == 0
    published = read_published(kafka, observed.name)

    assert published.five_tuples("ingress") == {
        ("198.18.0.9", "198.18.0.10", 7, 9, 17): (3, 3 * len(packet))
    }


@pytest.mark.parametrize("hook", ["tcx", "clsact"])
def test_two_agents_on_one_interface_both_count_everything(kafka, wire, hook):
    flags = ("--interface", wire.near.name, "--tc", hook)
    before = wire.quiet()
    with agent(*flags, kafka=kafka) as first, agent(*flags, kafka=kafka) as second:
        udp_burst(wire, flows=10, packets=200)
        grown = wire.quiet() - before
        assert (first.stop(), second.stop()) == (0, 0)

    assert read_published(kafka, first.name).sums("egress") == grown.egress
    assert read_published(kafka, second.name).sums("egress") == grown.egress


@pytest.mark.parametrize("hook", ["tcx", "clsact"])
def test_a_foreign_program_that_ends_the_chain_hides_nothing(kafka, wire, hook):
    with foreign_tc_program(wire.near, hook):
        before = wire.quiet()
        with agent("--interface", wire.near.name, "--tc", hook, kafka=kafka) as observed:
            ping(wire)
            grown = wire.quiet() - before
            assert observed.stop() == 0
    published = read_published(kafka, observed.name)

    assert published.sums("ingress") == grown.ingress
    assert published.sums("egress") == grown.egress


def test_super_packets_in_a_tunnel_count_as_many_as_a_wire_carries(kafka, wire):
    wire.near.namespace.run("ethtool", "-K", wire.near.name, "gso", "on", "gro", "on")
    with vxlan(wire) as tunnel:
        before = wire.quiet(seconds=0.1)
        with agent("--interface", wire.near.name, kafka=kafka) as observed:
            iperf3(tunnel, "-n", "8M")
            grown = wire.quiet(seconds=0.1) - before
            assert observed.stop() == 0
    published = read_published(kafka, observed.name)

    packets, in_bytes = published.sums("egress")
    assert packets == grown.tx_packets
    # Of the inner headers only the first segment's are known: 14 + 20 + 32 of 1514 bytes.
    assert grown.tx_bytes * 0.95 < in_bytes <= grown.tx_bytes


@pytest.mark.parametrize("buffer", ["ring", "perf"])
def test_jumbo_frames_are_counted_whole_at_native_xdp(kafka, lab, tmp_path, buffer):
    # The kernel refuses a program without fragments here: frames of 9014 bytes need three pages.
    with link(mtu=9000) as wire:
        flags = ("--hook", "xdp", "--buffer", buffer)
        with agent("--interface", wire.near.name, *flags, kafka=kafka) as observed:
            with capturing(wire.far, tmp_path / "sent.pcap", direction="out") as sent:
                udp_from_far(wire, [8972, 18, 4000, 8972, 5000] * 20)
                wire.far.send([tagged_jumbo(wire)] * 3)
                wire.quiet()
            assert observed.stop() == 0
        expected = five_tuples(sent)
        packets_and_bytes = total(sent)
    published = read_published(kafka, observed.name)

    assert "ingress=xdp" in observed.said
    assert published.sums("ingress") == packets_and_bytes
    assert published.five_tuples("ingress") == expected
    assert published.column("flow", "max_bytes").max() == 9018


def udp_from_far(wire: Link, payloads: list[int]) -> None:
    with wire.far.namespace.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((wire.far.ipv4, 7007))
        for size in payloads:
            sock.sendto(bytes(size), (wire.near.ipv4, 9))


def tagged_jumbo(wire: Link) -> bytes:
    """Not a plain packet, so it goes on in the other program."""
    ethernet = Ether(src=wire.far.mac, dst=wire.near.mac)
    packet = IP(src=wire.far.ipv4, dst="198.18.255.9") / UDP(sport=7, dport=9)
    return bytes(ethernet / Dot1Q(vlan=7) / packet / bytes(8972))


def test_a_program_behind_ours_drops_what_it_drops_and_is_seen_to_get_it(kafka, wire):
    before = wire.quiet()
    with agent("--interface", wire.near.name, "--tc", "tcx", kafka=kafka) as observed:
        with tcx_program(wire.near, "ingress", TCX_DROP):
            ping_in_vain(wire)
        grown = wire.quiet() - before
        assert observed.stop() == 0
    published = read_published(kafka, observed.name)

    assert published.sums("ingress") == grown.ingress == (3, 3 * 98)
    # It ran, and nothing was answered.
    assert published.sums("egress") == grown.egress == (0, 0)


def test_a_program_that_puts_itself_before_ours_runs_first(kafka, wire):
    before = wire.quiet()
    with agent("--interface", wire.near.name, "--tc", "tcx", kafka=kafka) as observed:
        with tcx_program(wire.near, "ingress", TCX_DROP, flags=libbpf.BPF_F_BEFORE):
            ping_in_vain(wire)
        ping(wire, count=2)
        grown = wire.quiet() - before
        assert observed.stop() == 0
    published = read_published(kafka, observed.name)

    assert grown.ingress[0] == 5
    assert published.sums("ingress")[0] == published.sums("egress")[0] == 2


def ping_in_vain(wire: Link) -> None:
    """Three echo requests from the far end, of which none is answered."""
    with pytest.raises(RuntimeError):
        wire.far.namespace.run(
            *("ping", "-q", "-c", "3", "-i", "0.01", "-W", "0.2", wire.near.ipv4)
        )
