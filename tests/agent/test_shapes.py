# SPDX-License-Identifier: Apache-2.0
"""Frames of every shape over a real link: rows, the link's counters and tcpdump agree.

The kernel's own path adds what a test run of a program has not: tags that it strips, packets in
pieces, fragments and tunnels of its own making.
"""

import socket
from itertools import islice

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN

from schemas.fields import DIRECTIONS
from tests.bpf.books import COLUMNS, COUNTERS, Books, books_of_oracle, rows_from
from tests.bpf.dissect import Dissector
from tests.bpf.frames import Frames
from tests.bpf.seeds import SEED, seed  # noqa: F401 - the fixture is used by its import
from tests.lab.agents import agent
from tests.lab.capture import capturing, frames_of, total
from tests.lab.links import link
from tests.lab.published import Published, read_published
from tests.lab.traffic import iperf3
from tests.lab.tunnels import vxlan

pytestmark = [pytest.mark.kernel, pytest.mark.services]

# What the kernel takes out of a frame that comes in; 0x9100 it leaves.
STRIPPED = (0x8100, 0x88A8)
# Under which it gives up, and drops the frame before any hook of tc.
LEAST_TAGGED_BYTES = 20


def rows_in(published: Published, direction: str) -> Books:
    chosen = published.column("flow", "direction") == DIRECTIONS[direction]
    books = Books()
    for row, measures in rows_from(
        {name: published.column("flow", name)[chosen] for name in COLUMNS}
    ):
        books.add(row, measures)
    of_direction = published.column("ledger", "direction") == DIRECTIONS[direction]
    for name in COUNTERS:
        books.counters[name] = int(published.column("ledger", name)[of_direction].sum())
    return books


def sums(books: Books) -> dict:
    """Packets and bytes of each row, without flags and extremes."""
    return {row: measures[:4] for row, measures in books.rows.items()}


def frames_for_a_wire(count: int) -> list[bytes]:
    supply = Frames(SEED, pool=500).endless(SEED)
    return list(islice((frame for frame in supply if is_for_a_wire(frame)), count))


def is_for_a_wire(frame: bytes) -> bool:
    is_stripped = int.from_bytes(frame[12:14], "big") in STRIPPED
    return len(frame) <= 1514 and (len(frame) >= LEAST_TAGGED_BYTES or not is_stripped)


@pytest.mark.parametrize("tunnels", ["inner", "outer", "both"])
def test_frames_of_every_shape_are_the_rows_that_they_are(kafka, wire, tmp_path, tunnels):
    frames = frames_for_a_wire(3000)
    expected = books_of_oracle(Dissector(tunnels, strips=STRIPPED), frames)
    before = wire.quiet()
    with agent(
        "--interface", wire.near.name, "--hook", "tc", "--tunnels", tunnels, kafka=kafka
    ) as observed:
        with capturing(wire.far, tmp_path / "sent.pcap", direction="out") as sent:
            wire.far.send(frames)
            grown = wire.quiet() - before
        assert observed.stop() == 0
    published = read_published(kafka, observed.name)

    assert frames_of(sent) == frames
    assert published.sums("ingress") == grown.ingress == total(sent)
    assert not expected.differences(rows_in(published, "ingress"))[:3]


@pytest.mark.parametrize("ipv6", [False, True], ids=["IPv4", "IPv6"])
def test_fragments_of_the_stack_are_in_the_row_of_their_datagram(kafka, dual_wire, ipv6):
    family = socket.AF_INET6 if ipv6 else socket.AF_INET
    addresses = [(end.ipv6 if ipv6 else end.ipv4) for end in (dual_wire.near, dual_wire.far)]
    before = dual_wire.quiet()
    with agent("--interface", dual_wire.near.name, kafka=kafka) as observed:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.bind((addresses[0], 0))
            port = sock.getsockname()[1]
            for _ in range(20):
                sock.sendto(bytes(8000), (addresses[1], 9))
        grown = dual_wire.quiet() - before
        assert observed.stop() == 0
    published = read_published(kafka, observed.name)
    five_tuple = (*addresses, port, 9, socket.IPPROTO_UDP)

    assert published.five_tuples("egress") == {five_tuple: grown.egress}
    assert grown.tx_packets == 20 * 6
    assert published.column("ledger", "fragment_packets").sum() == 20 * 5
    assert published.column("ledger", "unmatched_fragment_packets").sum() == 0


@pytest.mark.parametrize("tunnels", ["inner", "both"])
def test_bulk_in_a_tunnel_is_counted_as_the_far_end_gets_it(kafka, wire, tmp_path, tunnels):
    # The kernel cuts up the super-packet behind our hook, all its headers once a segment.
    wire.near.namespace.run("ethtool", "-K", wire.near.name, "gso", "on", "gro", "on")
    with vxlan(wire) as tunnel:
        before = wire.quiet(seconds=0.1)
        with agent("--interface", wire.near.name, "--tunnels", tunnels, kafka=kafka) as observed:
            with capturing(wire.far, tmp_path / "got.pcap", direction="in") as got:
                iperf3(tunnel, "-n", "8M")
                grown = wire.quiet(seconds=0.1) - before
            assert observed.stop() == 0
    published = read_published(kafka, observed.name)
    expected = books_of_oracle(Dissector(tunnels), frames_of(got))

    assert published.sums("egress") == grown.egress == total(got)
    assert sums(rows_in(published, "egress")) == sums(expected)
    assert {row.vni for row in expected.rows if row.tunnel == "vxlan"} == {7}


def test_headers_in_a_tunnel_of_jumbo_frames_are_found(kafka, lab):
    with link(mtu=9000) as wire:
        inner = IP(src="198.18.251.1", dst="198.18.251.2") / TCP(sport=40000, dport=80)
        outer = (
            Ether(src=wire.far.mac, dst=wire.near.mac) / IP(dst="198.18.255.9") / UDP(dport=4789)
        )
        frame = bytes(outer / VXLAN(vni=5) / Ether() / inner / bytes(8000))
        before = wire.quiet()
        with agent("--interface", wire.near.name, kafka=kafka) as observed:
            wire.far.send([frame] * 3)
            grown = wire.quiet() - before
            assert observed.stop() == 0
    published = read_published(kafka, observed.name)

    assert published.sums("ingress") == grown.ingress == (3, 3 * len(frame))
    assert sums(rows_in(published, "ingress")) == sums(
        books_of_oracle(Dissector("inner"), [frame] * 3)
    )
