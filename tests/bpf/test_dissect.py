# SPDX-License-Identifier: Apache-2.0
"""The oracle itself, against tshark and against what packets were built from."""

import random
import shutil

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1Q, Ether

from tests.bpf.dissect import Dissector
from tests.bpf.fragments import fragments_of
from tests.bpf.frames import Frames
from tests.bpf.seeds import SEED, seed  # noqa: F401 - the fixture is used by its import
from tests.bpf.shapes import IPV4, IPV6
from tests.bpf.tshark import ANY, ReadOn, layers_of, row_of
from tests.bpf.tunnel_shapes import VXLAN_PORTS

TCP = 6


def test_well_formed_frames_are_read_as_tshark_reads_them(tmp_path):
    if not shutil.which("tshark"):
        pytest.skip("tshark is missing; install it")
    frames = Frames(SEED, is_sound=True).whole()
    compared, differences = 0, []
    for frame, layers in zip(frames, layers_of(frames, tmp_path), strict=True):
        # tshark joins no fragments here, and neither does a dissector that remembers none.
        ours = Dissector("inner", vxlan_ports=VXLAN_PORTS).read(frame)
        flags = layers["tcp.flags"][0] if layers["tcp.flags"] else "0"
        if ours.is_truncated:
            continue
        try:
            theirs = row_of(layers)
        except ReadOn:
            continue
        compared += 1
        if theirs.ethertype == ANY:
            theirs = theirs._replace(ethertype=ours.row.ethertype)
        if theirs != ours.row or (ours.tcp_flags and int(flags, 16) & 0xFF != ours.tcp_flags):
            differences.append((frame.hex(), theirs, ours.row))

    assert not differences[:3]
    assert compared > len(frames) // 2


@pytest.mark.parametrize("ip", [IP(src="198.18.0.1"), IPv6(src="2001:db8::1")], ids=["4", "6"])
def test_fragments_behind_their_first_one_are_in_its_row(ip):
    ethertype = IPV4 if ip.version == 4 else IPV6
    packet = bytes(ip / UDP(sport=40000, dport=53) / bytes(300))
    first, *later = (packet for _, packet in fragments_of((ethertype, packet), random.Random(SEED)))
    dissector = Dissector("inner", link_bytes=0)
    unmatched = dissector.read(later[0])
    row = dissector.read(first).row
    readings = [dissector.read(packet) for packet in later]

    assert (row.src_port, row.dst_port, row.protocol) == (40000, 53, 17)
    assert {reading.row for reading in readings} == {row}
    assert {(each.is_fragment, each.is_unmatched) for each in readings} == {(True, False)}
    assert unmatched.is_unmatched
    assert unmatched.row == row._replace(src_port=0, dst_port=0)


def test_a_tunnel_is_named_only_where_it_is_asked_for():
    inner = IP(src="198.18.1.1", dst="198.18.1.2") / UDP(sport=40000, dport=53)
    frame = bytes(Ether() / Dot1Q(vlan=7) / IP(src="198.18.0.1", dst="198.18.0.2") / inner)
    outer, inside, both = (Dissector(tunnels).read(frame) for tunnels in ("outer", "inner", "both"))

    assert (outer.row.protocol, outer.row.tunnel, outer.inside) == (4, "none", None)
    assert (inside.row.protocol, inside.row.dst_port, inside.row.tunnel) == (17, 53, "ipip")
    assert (inside.row.outer_src_addr, inside.row.vlan) == (outer.row.src_addr, 7)
    assert (both.row, both.inside) == (outer.row, inside.row)
