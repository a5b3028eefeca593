# SPDX-License-Identifier: Apache-2.0
"""The bytes of one frame as a packet that rules can be asked about.

Ethernet, VLAN tags, IPv4 with options, IPv6 with extension headers, and as much of the header
behind them as rules ask for.  Tunnels stay closed here.  Ports of a later fragment are not in it, and
so are 0, while the kernel remembers those of the first.
"""

import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.replay.capture import INBOUND, OUTBOUND
from agent.replay.files import CaptureError, open_content
from agent.replay.pcap import VARIANTS, read_pcap
from agent.replay.pcapng import MAGIC, read_pcapng
from schemas.protocols import ICMP, ICMPV6, IPV4, IPV6, PROTOCOLS, WITH_PORTS
from schemas.rules.decide import Packet
from schemas.rules.rule import RuleError

ETHERNET = 1  # https://www.tcpdump.org/linktypes.html
_BARE_IP = (12, 101, 228, 229)
_DIRECTIONS = {INBOUND: "ingress", OUTBOUND: "egress"}
_TUNNELS = tuple(PROTOCOLS[name] for name in ("ipip", "6in4", "gre"))
_TUNNEL_PORTS = (4789, 6081)  # VXLAN, GENEVE
_TAGS = (0x8100, 0x88A8, 0x9100)
_HOP_BY_HOP, _ROUTING, _FRAGMENT, _AH, _OPTIONS = 0, 43, 44, 51, 60
_EXTENSIONS = (_HOP_BY_HOP, _ROUTING, _OPTIONS)
_MOST_EXTENSIONS = 8
_DUMP_LINE = re.compile(r"^\s*(?:0x)?[0-9A-Fa-f]{4,8}:\s+", re.MULTILINE)
_DUMP_TEXT = re.compile(r"(?:  |\t).*$", re.MULTILINE)
_MAPPED = 0xFFFF << 32


def frame_in(dump: str) -> bytes:
    """The bytes of a hex dump, as tcpdump -x prints it, or of plain digits.

    Raises:
        RuleError: it is none.
    """
    body = dump
    if _DUMP_LINE.search(dump):
        # Behind the digits, two blanks away, may stand the same as text.
        body = "\n".join(_DUMP_TEXT.sub("", _DUMP_LINE.sub("", line)) for line in dump.splitlines())
    digits = re.sub(r"[\s:]|0x", "", body)
    try:
        frame = bytes.fromhex(digits)
    except ValueError:
        raise RuleError(
            "the hex dump is none; give pairs of digits, as tcpdump -xx prints"
        ) from None
    if not frame:
        raise RuleError("the hex dump is empty; give pairs of digits, as tcpdump -xx prints")
    return frame


@dataclass(frozen=True, slots=True)
class Found:
    """A frame, and what is known of where it was."""

    frame: bytes
    link_type: int = ETHERNET
    interface: str = ""
    direction: str = ""


def frame_of_file(path: Path, number: int) -> Found:
    """Frame *number*, counted from 1, of a pcap or pcapng file.

    Raises:
        RuleError: there is no such frame.
    """
    try:
        content = open_content(path)
        magic = content.bytes[:4].tobytes()
        if magic not in VARIANTS and magic != MAGIC:
            raise RuleError(f"{path} is neither pcap nor pcapng; convert it with editcap")
        capture = read_pcapng(content) if magic == MAGIC else read_pcap(content)
    except CaptureError as error:
        raise RuleError(str(error)) from None
    count = len(capture.packets)
    if not 0 < number <= count:
        raise RuleError(f"{path} has {count} packets; write --number 1 to {count}")
    at = number - 1
    start, length = int(capture.packets.offset[at]), int(capture.packets.captured[at])
    link = capture.links[int(capture.packets.link[at])]
    return Found(
        content.bytes[start : start + length].tobytes(),
        link.link_type,
        link.name,
        _DIRECTIONS.get(int(capture.packets.direction[at]), ""),
    )


def is_tunnel(packet: Packet) -> bool:
    """Whether agents may look for another packet in it."""
    return packet.protocol in _TUNNELS or (
        packet.protocol == PROTOCOLS["udp"] and packet.dst_port in _TUNNEL_PORTS
    )


def packet_of(found: Found) -> Packet:
    """The IP packet in a frame.

    Raises:
        RuleError: there is none, or it ends too early.
    """
    try:
        return _packet_of(found)
    except (struct.error, IndexError):
        raise RuleError(
            f"the frame ends after {len(found.frame)} bytes, within its headers; give more of it"
        ) from None


def _packet_of(found: Found) -> Packet:
    frame, vlan = found.frame, 0
    if found.link_type == ETHERNET:
        at = 12
        (ethertype,) = struct.unpack_from("!H", frame, at)
        is_first = True
        while ethertype in _TAGS:
            tag, ethertype = struct.unpack_from("!HH", frame, at + 2)
            vlan = tag & 0x0FFF if is_first else vlan
            is_first = False
            at += 4
        at += 2
    elif found.link_type in _BARE_IP:
        at, ethertype = 0, IPV6 if frame[0] >> 4 == 6 else IPV4
    else:
        raise RuleError(f"link type {found.link_type} is not read here; give Ethernet or bare IP")
    if ethertype not in (IPV4, IPV6):
        raise RuleError(
            f"ethertype 0x{ethertype:04x} is not IP, and rules never touch what is not IP"
        )
    read = _four if ethertype == IPV4 else _six
    values = read(frame, at)
    return Packet(
        vlan=vlan,
        interface=found.interface,
        direction=found.direction or "ingress",
        **values,
    )


def _four(frame: bytes, at: int) -> dict[str, Any]:
    head, tos = struct.unpack_from("!BB", frame, at)
    (fragment,) = struct.unpack_from("!H", frame, at + 6)
    protocol = frame[at + 9]
    src, dst = struct.unpack_from("!II", frame, at + 12)
    values = {
        "version": 4,
        "dscp": tos >> 2,
        "src_addr": _MAPPED | src,
        "dst_addr": _MAPPED | dst,
    }
    behind = at + (head & 15) * 4
    is_first = not fragment & 0x1FFF
    if protocol == _AH and is_first:
        protocol, behind = frame[behind], behind + (frame[behind + 1] + 2) * 4
    return {**values, "protocol": protocol} | (
        _transport(frame, behind, protocol) if is_first else {}
    )


def _six(frame: bytes, at: int) -> dict[str, Any]:
    (head,) = struct.unpack_from("!I", frame, at)
    protocol = frame[at + 6]
    src, dst = (int.from_bytes(_exactly(frame, at + where, 16)) for where in (8, 24))
    values = {"version": 6, "dscp": head >> 22 & 63, "src_addr": src, "dst_addr": dst}
    behind, is_first = at + 40, True
    for _ in range(_MOST_EXTENSIONS):
        if protocol in _EXTENSIONS:
            protocol, behind = frame[behind], behind + (frame[behind + 1] + 1) * 8
        elif protocol == _AH:
            protocol, behind = frame[behind], behind + (frame[behind + 1] + 2) * 4
        elif protocol == _FRAGMENT:
            (offset,) = struct.unpack_from("!H", frame, behind + 2)
            is_first = not offset & 0xFFF8
            protocol, behind = frame[behind], behind + 8
        if protocol not in (*_EXTENSIONS, _AH, _FRAGMENT) or not is_first:
            break
    return {**values, "protocol": protocol} | (
        _transport(frame, behind, protocol) if is_first else {}
    )


def _exactly(frame: bytes, at: int, count: int) -> bytes:
    (found,) = struct.unpack_from(f"{count}s", frame, at)
    return bytes(found)


def _transport(frame: bytes, at: int, protocol: int) -> dict[str, int]:
    if protocol in WITH_PORTS:
        src_port, dst_port = struct.unpack_from("!HH", frame, at)
        values = {"src_port": src_port, "dst_port": dst_port}
        return values | ({"tcp_flags": frame[at + 13]} if protocol == PROTOCOLS["tcp"] else {})
    if protocol in (ICMP, ICMPV6):
        return {"icmp_type": frame[at], "icmp_code": frame[at + 1]}
    return {}
