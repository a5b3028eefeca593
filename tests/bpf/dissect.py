# SPDX-License-Identifier: Apache-2.0
"""What rows a frame makes, said once more and plainly: the oracle for the kernel's parser.

Written from the RFCs over raw bytes, one header after the other, and sharing no code with the
kernel.  A frame that ends early is identified by what was read until then, and called truncated.
A dissector remembers first fragments, so one reads the frames of one hook point, in their order.
"""

from collections.abc import Iterable
from typing import NamedTuple

from tests.bpf.opened import BRIDGED, IPV4, IPV6, CutOff, Tunnel, number, opened

_TAGS = (0x8100, 0x88A8, 0x9100)
_TAGS_READ = 2
_IEEE_802_2 = 4

_WITH_PORTS = {6: 20, 17: 8, 33: 8, 132: 8, 136: 8}  # protocol: bytes of header that must be there
_TCP = 6
_ECHOES = {1: (0, 8), 58: (128, 129)}  # ICMP and ICMPv6: types that carry an identifier

_FRAGMENT, _AH = 44, 51
_EXTENSIONS = {IPV4: (_AH,), IPV6: (0, 43, _FRAGMENT, _AH, 60)}
_OFFSET, _RESERVED = 0xFFF8, 6  # of an IPv6 fragment header, beside "more"
_EXTENSIONS_READ = 8
_EXTENSIONS_BYTES = 1024

_NOWHERE = bytes(16)


class Row(NamedTuple):
    """What identifies a row, in the columns of a flow."""

    ethertype: int = 0
    vlan: int = 0
    inner_vlan: int = 0
    dscp: int = 0
    src_addr: bytes = _NOWHERE
    dst_addr: bytes = _NOWHERE
    protocol: int = 0
    src_port: int = 0
    dst_port: int = 0
    icmp_type: int = 0
    icmp_code: int = 0
    icmp_id: int = 0
    tunnel: str = "none"
    outer_src_addr: bytes = _NOWHERE
    outer_dst_addr: bytes = _NOWHERE
    vni: int = 0


class Reading(NamedTuple):
    """The row that counts a frame, the row of the packet inside it, and what was odd about it."""

    row: Row
    tcp_flags: int = 0
    inside: Row | None = None  # only where both are asked for
    inside_tcp_flags: int = 0
    is_truncated: bool = False
    is_fragment: bool = False  # but not a first one
    is_unmatched: bool = False
    hop_limit: int = 0


class _Packet(NamedTuple):
    """One IP packet, or whatever else was in its place."""

    row: Row
    tcp_flags: int = 0
    payload: bytes | None = None  # behind the IP headers; None where nothing may be read
    is_truncated: bool = False
    is_fragment: bool = False
    is_unmatched: bool = False
    hop_limit: int = 0


# What the fragments of a packet share: tunnel and its number, since tenants' addresses overlap,
# then addresses, identification and protocol.
_Key = tuple[str, int, bytes, bytes, int, int]


class Dissector:
    """Reads the frames of one hook point; *tunnels* is inner, outer or both.

    On their way in the kernel *strips* a tag, of the kinds that it knows, and keeps it aside; so a
    parser finds two more in such a frame.
    """

    def __init__(
        self,
        tunnels: str,
        *,
        link_bytes: int = 14,
        vxlan_ports: Iterable[int] = (4789,),
        strips: Iterable[int] = (),
    ) -> None:
        self._tunnels = tunnels
        self._link_bytes = link_bytes
        self._strips = tuple(strips)
        self._vxlan_ports = tuple(vxlan_ports)
        self._first: dict[_Key, Row] = {}

    def read(self, frame: bytes) -> Reading:
        if not self._link_bytes:
            ethertype = IPV6 if frame[0] >> 4 == 6 else IPV4
            return self._read(ethertype, frame, ())
        tags: list[int] = []
        try:
            is_stripped = number(frame, 12, 2) in self._strips
            ethertype, payload = _behind_link(frame, tags, _TAGS_READ + is_stripped)
        except CutOff:
            return Reading(_tagged(Row(), tags), is_truncated=True)
        return self._read(ethertype, payload, tags)

    def _read(self, ethertype: int, payload: bytes, tags: Iterable[int]) -> Reading:
        packet = self._packet(ethertype, payload, ("none", 0))
        outer = _tagged(packet.row, tags)
        reading = Reading(outer, packet.tcp_flags, None, 0, *packet[3:])
        if self._tunnels == "outer" or packet.payload is None:
            return reading
        try:
            tunnel = opened(
                packet.row.protocol, packet.row.dst_port, packet.payload, self._vxlan_ports
            )
            inner = self._packet_inside(tunnel) if tunnel else None
        except CutOff:
            return reading._replace(is_truncated=True)
        if not inner or not tunnel:
            return reading
        row = _tagged(inner.row, tags)._replace(
            tunnel=tunnel.name,
            outer_src_addr=outer.src_addr,
            outer_dst_addr=outer.dst_addr,
            vni=tunnel.vni,
        )
        if self._tunnels == "inner":
            return Reading(row, inner.tcp_flags, None, 0, *inner[3:])
        return Reading(outer, packet.tcp_flags, row, inner.tcp_flags, *inner[3:])

    def _packet_inside(self, tunnel: Tunnel) -> _Packet:
        ethertype, inside = tunnel.ethertype, tunnel.inside
        if ethertype == BRIDGED:
            ethertype, inside = _behind_link(inside, [], _TAGS_READ)
        if ethertype in _EXTENSIONS and not _has_ip_header(ethertype, inside):
            raise CutOff
        if ethertype == IPV4 and len(inside) < (inside[0] & 0xF) * 4:
            raise CutOff
        return self._packet(ethertype, inside, (tunnel.name, tunnel.vni))

    def _packet(self, ethertype: int, packet: bytes, within: tuple[str, int]) -> _Packet:
        if ethertype not in _EXTENSIONS:
            return _Packet(Row(ethertype if ethertype >= 0x600 else _IEEE_802_2))
        if not _has_ip_header(ethertype, packet):
            return _Packet(Row(ethertype), is_truncated=True)
        if ethertype == IPV4:
            return self._ipv4(packet, within)._replace(hop_limit=packet[8])
        return self._ipv6(packet, within)._replace(hop_limit=packet[7])

    def _ipv4(self, packet: bytes, within: tuple[str, int]) -> _Packet:
        row = Row(
            IPV4,
            dscp=packet[1] >> 2,
            src_addr=bytes(10) + b"\xff\xff" + packet[12:16],
            dst_addr=bytes(10) + b"\xff\xff" + packet[16:20],
            protocol=packet[9],
        )
        header_bytes, total_bytes = (packet[0] & 0xF) * 4, number(packet, 2, 2)
        if total_bytes >= header_bytes:
            packet = packet[:total_bytes]
        if header_bytes > len(packet):
            return _Packet(row, is_truncated=True)
        fragment = number(packet, 6, 2)
        key = (*within, row.src_addr, row.dst_addr, number(packet, 4, 2), row.protocol)
        if fragment & 0x1FFF:
            return self._later(row, key)
        chain = _chain(IPV4, row.protocol, packet, header_bytes)
        whole = _with_transport(row, packet, chain)
        return self._remembered(whole, key if fragment & 0x2000 else None)

    def _ipv6(self, packet: bytes, within: tuple[str, int]) -> _Packet:
        row = Row(
            IPV6,
            dscp=number(packet, 0, 2) >> 6 & 0x3F,
            src_addr=packet[8:24],
            dst_addr=packet[24:40],
            protocol=packet[6],
        )
        if payload_bytes := number(packet, 4, 2):
            packet = packet[: 40 + payload_bytes]
        chain = _chain(IPV6, row.protocol, packet, 40)
        keys = [(*within, row.src_addr, row.dst_addr, *rest) for _, *rest in chain.fragments]
        fields = [field for field, *_ in chain.fragments]
        if fields and fields[-1] & _OFFSET:
            read = self._later(row._replace(protocol=chain.protocol), keys[-1])
        else:
            read = _with_transport(row, packet, chain)
        # Where fragments were cut up once more, the outermost is what later ones look like.
        of_first = [key for key, field in zip(keys, fields, strict=True) if field & ~_RESERVED == 1]
        return self._remembered(read, of_first[0] if of_first else None)

    def _remembered(self, packet: _Packet, key: _Key | None) -> _Packet:
        if key:
            self._first[key] = packet.row
        return packet

    def _later(self, row: Row, key: _Key) -> _Packet:
        """A later fragment: of its first one's row, but for the mark that each has of its own."""
        first = self._first.get(key)
        if not first:
            return _Packet(row, is_fragment=True, is_unmatched=True)
        return _Packet(first._replace(dscp=row.dscp), is_fragment=True)


def _tagged(row: Row, tags: Iterable[int]) -> Row:
    vlan, inner_vlan, *_ = (*tags, 0, 0)
    return row._replace(vlan=vlan, inner_vlan=inner_vlan)


def _behind_link(frame: bytes, tags: list[int], most_tags: int) -> tuple[int, bytes]:
    """Ethertype and payload of an Ethernet frame; the ids of its tags go to *tags*."""
    ethertype, at = number(frame, 12, 2), 14
    while ethertype in _TAGS and len(tags) < most_tags:
        following = number(frame, at + 2, 2)
        tags.append(number(frame, at, 2) & 0xFFF)
        ethertype, at = following, at + 4
    return ethertype, frame[at:]


def _has_ip_header(ethertype: int, packet: bytes) -> bool:
    if ethertype == IPV4:
        return len(packet) >= 20 and packet[0] >> 4 == 4 and packet[0] & 0xF >= 5
    return len(packet) >= 40 and packet[0] >> 4 == 6


def _extension_bytes(protocol: int, packet: bytes, at: int) -> int:
    """Length of the extension header at *at*, all of which must be there."""
    length = number(packet, at, 2) & 0xFF
    size = {_FRAGMENT: 8, _AH: (length + 2) * 4}.get(protocol, (length + 1) * 8)
    number(packet, at, size)
    return size


class _Chain(NamedTuple):
    """Where the headers that extend an IP header lead to."""

    protocol: int
    at: int
    is_cut_off: bool
    fragments: list[tuple[int, int, int]]  # offset and flags, identification, next header


def _chain(ethertype: int, protocol: int, packet: bytes, header_bytes: int) -> _Chain:
    """Read extension headers until there are no more, or too many, or a later fragment's data."""
    at, fragments = header_bytes, []
    for _ in range(_EXTENSIONS_READ):
        if protocol not in _EXTENSIONS[ethertype] or (fragments and fragments[-1][0] & _OFFSET):
            break
        try:
            size = _extension_bytes(protocol, packet, at)
        except CutOff:
            return _Chain(protocol, at, True, fragments)
        if at + size - header_bytes > _EXTENSIONS_BYTES:
            return _Chain(protocol, at, True, fragments)
        if protocol == _FRAGMENT:
            fragments.append((number(packet, at + 2, 2), number(packet, at + 4, 4), packet[at]))
        protocol, at = packet[at], at + size
    return _Chain(protocol, at, False, fragments)


def _with_transport(row: Row, packet: bytes, chain: _Chain) -> _Packet:
    row = row._replace(protocol=chain.protocol)
    if chain.is_cut_off:
        return _Packet(row, is_truncated=True)
    try:
        return _with_ports(row, packet[chain.at :])
    except CutOff:
        return _Packet(row, is_truncated=True)


def _with_ports(row: Row, segment: bytes) -> _Packet:
    protocol = row.protocol
    if protocol in _ECHOES:
        kind, code = divmod(number(segment, 0, 4) >> 16, 256)
        row = row._replace(icmp_type=kind, icmp_code=code)
        if kind in _ECHOES[protocol] and len(segment) >= 6:
            row = row._replace(icmp_id=number(segment, 4, 2))
        return _Packet(row, 0, segment)
    if protocol not in _WITH_PORTS:
        return _Packet(row, 0, segment)
    number(segment, 0, _WITH_PORTS[protocol])
    row = row._replace(src_port=number(segment, 0, 2), dst_port=number(segment, 2, 2))
    return _Packet(row, segment[13] if protocol == _TCP else 0, segment)
