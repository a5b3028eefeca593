# SPDX-License-Identifier: Apache-2.0
"""What a frame's flow is, said once more and plainly: the oracle for the kernel's parser.

Written from the RFCs over raw bytes, one header after the other.  A frame that ends early is
identified by what was read until then, and called truncated.
"""

from dataclasses import dataclass, replace
from ipaddress import IPv6Address

_TAGS = (0x8100, 0x88A8)
_TAGS_READ = 2
_IEEE_802_2 = 4
_WITH_PORTS = {6: 20, 17: 8, 132: 8, 136: 8}  # protocol: bytes of header that must be there
_ICMP = (1, 58)
_FRAGMENT = 44
_AH = 51
_EXTENSIONS = (0, 43, _FRAGMENT, _AH, 60)
_EXTENSIONS_READ = 7
_EXTENSIONS_BYTES = 1024


@dataclass(frozen=True, slots=True)
class Identity:
    """The flow of a frame, in the terms of a flow cache slot."""

    shape: str = "other"
    src: str = "::"
    dst: str = "::"
    src_port: int = 0  # ICMP: type, then code; shape other: the ethertype
    dst_port: int = 0
    protocol: int = 0
    vlan: int = 0
    dscp: int = 0
    tcp_flags: int = 0
    hop_limit: int = 0
    is_truncated: bool = False


def dissect(frame: bytes) -> Identity:
    """The identity of an Ethernet frame."""
    ethertype, at, vlan = int.from_bytes(frame[12:14], "big"), 14, 0
    for _ in range(_TAGS_READ):
        if ethertype not in _TAGS:
            break
        if len(frame) < at + 4:
            return Identity(vlan=vlan, is_truncated=True)
        vlan = vlan or int.from_bytes(frame[at : at + 2], "big") & 0xFFF
        ethertype, at = int.from_bytes(frame[at + 2 : at + 4], "big"), at + 4
    if ethertype == 0x0800:
        identity = dissect_ipv4(frame[at:])
    elif ethertype == 0x86DD:
        identity = dissect_ipv6(frame[at:])
    else:
        identity = Identity(src_port=ethertype if ethertype >= 0x600 else _IEEE_802_2)
    return replace(identity, vlan=vlan)


def dissect_bare(packet: bytes) -> Identity:
    """The identity of an IP packet without a link header."""
    return dissect_ipv6(packet) if packet[0] >> 4 == 6 else dissect_ipv4(packet)


def dissect_ipv4(packet: bytes) -> Identity:
    if len(packet) < 20 or packet[0] >> 4 != 4 or packet[0] & 0xF < 5:
        return Identity(src_port=0x0800, is_truncated=True)
    is_later_fragment = int.from_bytes(packet[6:8], "big") & 0x1FFF
    identity = Identity(
        shape="ipv4",
        src=str(IPv6Address(bytes(10) + b"\xff\xff" + packet[12:16])),
        dst=str(IPv6Address(bytes(10) + b"\xff\xff" + packet[16:20])),
        protocol=packet[9],
        dscp=packet[1] >> 2,
        hop_limit=packet[8],
    )
    if is_later_fragment:
        return identity
    return _with_transport(identity, packet[(packet[0] & 0xF) * 4 :])


def dissect_ipv6(packet: bytes) -> Identity:
    if len(packet) < 40 or packet[0] >> 4 != 6:
        return Identity(src_port=0x86DD, is_truncated=True)
    identity = Identity(
        shape="ipv6",
        src=str(IPv6Address(packet[8:24])),
        dst=str(IPv6Address(packet[24:40])),
        dscp=(int.from_bytes(packet[:2], "big") >> 6) & 0x3F,
        hop_limit=packet[7],
    )
    protocol, at = packet[6], 40
    for _ in range(_EXTENSIONS_READ):
        if protocol not in _EXTENSIONS:
            break
        if len(packet) < at + 8:
            return replace(identity, protocol=protocol, is_truncated=True)
        following, length, fragment = packet[at], packet[at + 1], packet[at + 2 : at + 4]
        at += {_FRAGMENT: 8, _AH: (length + 2) * 4}.get(protocol, (length + 1) * 8)
        if at - 40 > _EXTENSIONS_BYTES:
            return replace(identity, protocol=protocol, is_truncated=True)
        if protocol == _FRAGMENT and int.from_bytes(fragment, "big") >> 3:
            return replace(identity, protocol=following)
        protocol = following
    return _with_transport(replace(identity, protocol=protocol), packet[at:])


def _with_transport(identity: Identity, segment: bytes) -> Identity:
    protocol = identity.protocol
    if protocol in _ICMP:
        if len(segment) < 4:
            return replace(identity, is_truncated=True)
        return replace(identity, src_port=int.from_bytes(segment[:2], "big"))
    if protocol not in _WITH_PORTS:
        return identity
    if len(segment) < _WITH_PORTS[protocol]:
        return replace(identity, is_truncated=True)
    return replace(
        identity,
        src_port=int.from_bytes(segment[:2], "big"),
        dst_port=int.from_bytes(segment[2:4], "big"),
        tcp_flags=segment[13] if protocol == 6 else 0,
    )
