# SPDX-License-Identifier: Apache-2.0
"""The kernel's parser against a second one, on generated frames, through the real programs.

HOOKLINE_TEST_FRAMES asks for more frames, HOOKLINE_TEST_SEED for those of another run.
"""

import os
import secrets
from ipaddress import IPv6Address

import numpy as np
import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1Q, Ether

from schemas.dtype import unpack
from schemas.flow import LANE, SHAPES
from tests.bpf.dissect import Identity, dissect, dissect_bare
from tests.bpf.frames import Frames
from tests.bpf.programs import POINT, Programs, loaded

pytestmark = pytest.mark.kernel

FRAMES = int(os.environ.get("HOOKLINE_TEST_FRAMES", "3000"))
SEED = int(os.environ.get("HOOKLINE_TEST_SEED", str(secrets.randbits(32))))
# Each test run of an XDP program stops the machine for a moment.
XDP_SHARE = 10
SHAPE_NAMES = {number: name for name, number in SHAPES.items()}
TC_ACT_UNSPEC = 0xFFFFFFFF
XDP_PASS = 2


@pytest.fixture(scope="module")
def programs(lab):
    print(f"HOOKLINE_TEST_SEED={SEED}")
    with loaded(sample_one_in=1, ring_bytes=1 << 20) as programs:
        yield programs


def seen(programs: Programs, frame: bytes, hook: str) -> tuple[Identity, int]:
    """How the kernel identified *frame*, and its bytes; the flow cache and the sample agree."""
    point = POINT + (hook == "hook_egress")
    truncated = programs.total("truncated_packets", point)
    programs.run(frame, hook=hook)
    (event,) = programs.packets.drain()
    slots = programs.live_slots()
    names = ("src_addr", "dst_addr", "src_port_be", "dst_port_be", "lane", "protocol")
    is_its = np.all([slots[name] == event[name] for name in names], axis=0)
    (slot,) = slots[is_its]
    assert slot["min_bytes"] <= len(frame) <= slot["max_bytes"]
    assert event["header"].tobytes()[: event["header_bytes"]] == frame[:96]
    assert unpack(LANE, "point", slot["lane"]) == point
    identity = Identity(
        shape=SHAPE_NAMES[int(unpack(LANE, "shape", slot["lane"]))],
        src=str(IPv6Address(slot["src_addr"].tobytes())),
        dst=str(IPv6Address(slot["dst_addr"].tobytes())),
        src_port=int(slot["src_port_be"].byteswap()),
        dst_port=int(slot["dst_port_be"].byteswap()),
        protocol=int(slot["protocol"]),
        vlan=int(unpack(LANE, "vlan", slot["lane"])),
        dscp=int(unpack(LANE, "dscp", slot["lane"])),
        tcp_flags=int(event["tcp_flags"]),
        hop_limit=int(event["hop_limit"]),
        is_truncated=programs.total("truncated_packets", point) > truncated,
    )
    assert slot["tcp_flags"] & identity.tcp_flags == identity.tcp_flags
    return identity, int(event["bytes"])


def mapped(address: str) -> IPv6Address:
    return IPv6Address(address if ":" in address else f"::ffff:{address}")


def is_stunted(frame: bytes) -> bool:
    least = {b"\x08\x00": 34, b"\x86\xdd": 54}.get(frame[12:14], 14)
    return len(frame) < least


def differences(
    programs: Programs, frames: list[bytes], hook: str, oracle=dissect
) -> list[tuple[str, Identity, Identity]]:
    found = []
    for frame in frames:
        # The kernel's test run refuses to present IP without a whole IP header, but to XDP.
        feasible = "hook_xdp" if oracle is dissect and is_stunted(frame) else hook
        identity, in_bytes = seen(programs, frame, feasible)
        wanted = oracle(frame)
        if (identity, in_bytes) != (wanted, len(frame)):
            found.append((frame.hex(), identity, wanted))
    return found[:3]


@pytest.mark.parametrize("hook", ["hook_ingress", "hook_egress"])
def test_whole_frames_are_read_as_the_oracle_reads_them(programs, hook):
    frames = Frames(SEED)

    assert not differences(programs, [bytes(frames.whole()) for _ in range(FRAMES // 3)], hook)


def test_damaged_frames_are_read_as_the_oracle_reads_them(programs):
    frames = Frames(SEED + 1)

    assert not differences(programs, [frames.damaged() for _ in range(FRAMES)], "hook_ingress")


def test_xdp_reads_frames_as_tc_does(programs):
    frames = Frames(SEED + 2)
    chosen = [frames.damaged() for _ in range(FRAMES // XDP_SHARE)]

    assert not differences(programs, chosen, "hook_xdp")


def test_packets_without_a_link_header_are_read_from_their_first_byte(programs):
    frames = Frames(SEED + 3)
    chosen = [frames.bare() for _ in range(FRAMES // 3)]
    programs.know_loopback(link_bytes=0)

    try:
        assert not differences(programs, chosen, "hook_ingress", dissect_bare)
    finally:
        programs.know_loopback(link_bytes=14)


def test_the_oracle_reads_plain_frames_as_scapy_does():
    frames = Frames(SEED + 4)
    for _ in range(300):
        frame = bytes(frames.plain_tcp())
        scapy, ours = Ether(frame), dissect(frame)
        ip = scapy.getlayer(IP) or scapy.getlayer(IPv6)

        assert mapped(ip.src) == IPv6Address(ours.src)
        assert mapped(ip.dst) == IPv6Address(ours.dst)
        assert (scapy[TCP].sport, scapy[TCP].dport) == (ours.src_port, ours.dst_port)
        assert int(scapy[TCP].flags) & 0xFF == ours.tcp_flags
        assert (ip.tos if IP in scapy else ip.tc) >> 2 == ours.dscp
        assert (ip.ttl if IP in scapy else ip.hlim) == ours.hop_limit
        assert (scapy[Dot1Q].vlan if Dot1Q in scapy else 0) == ours.vlan


@pytest.mark.parametrize(
    ("hook", "verdict"),
    [("hook_ingress", TC_ACT_UNSPEC), ("hook_egress", TC_ACT_UNSPEC), ("hook_xdp", XDP_PASS)],
)
def test_no_frame_is_ever_stopped(programs, hook, verdict):
    assert programs.run(bytes(60), hook=hook) == verdict
