# SPDX-License-Identifier: Apache-2.0
"""What a packet carries where it is a tunnel's: half of the oracle, see `dissect`."""

from typing import NamedTuple

IPV4, IPV6, BRIDGED = 0x0800, 0x86DD, 0x6558

_UDP, _GRE, _GENEVE_PORT = 17, 47, 6081
_IP_IN_IP = {4: ("ipip", IPV4), 41: ("6in4", IPV6)}


class CutOff(Exception):  # noqa: N818 - no error: frames do end early
    """A header ends before it should."""


class Tunnel(NamedTuple):
    """An opened tunnel and what is in it."""

    name: str
    ethertype: int
    inside: bytes
    vni: int = 0


def opened(
    protocol: int, dst_port: int, payload: bytes, vxlan_ports: tuple[int, ...]
) -> Tunnel | None:
    """What is in *payload*, which begins with the header of *protocol*; None: no tunnel of ours.

    Raises:
        CutOff: the tunnel's header ends early.
    """
    if protocol in _IP_IN_IP:
        return Tunnel(*_IP_IN_IP[protocol], payload)
    if protocol == _GRE:
        return _gre(payload)
    if protocol == _UDP and dst_port in vxlan_ports:
        return _vxlan(payload[8:])
    if protocol == _UDP and dst_port == _GENEVE_PORT:
        return _geneve(payload[8:])
    return None


def _gre(payload: bytes) -> Tunnel | None:
    """RFC 2784 and RFC 2890; routing (RFC 1701) and version 1 (RFC 2637) are not for us."""
    flags, ethertype = number(payload, 0, 2), number(payload, 2, 2)
    if flags & 0x4007 or ethertype not in (IPV4, IPV6, BRIDGED):
        return None
    has_checksum, has_key, has_sequence = (bool(flags & bit) for bit in (0x8000, 0x2000, 0x1000))
    size = 4 * (1 + has_checksum + has_key + has_sequence)
    number(payload, 0, size)
    vni = number(payload, 4 + 4 * has_checksum, 4) if has_key else 0
    return Tunnel("gre", ethertype, payload[size:], vni)


def _vxlan(payload: bytes) -> Tunnel | None:
    """RFC 7348."""
    number(payload, 0, 8)
    if not payload[0] & 0x08:
        return None
    return Tunnel("vxlan", BRIDGED, payload[8:], number(payload, 4, 3))


def _geneve(payload: bytes) -> Tunnel | None:
    """RFC 8926."""
    number(payload, 0, 8)
    version, options_bytes = payload[0] >> 6, (payload[0] & 0x3F) * 4
    ethertype = number(payload, 2, 2)
    if version or ethertype not in (IPV4, IPV6, BRIDGED):
        return None
    number(payload, 8, options_bytes)
    return Tunnel("geneve", ethertype, payload[8 + options_bytes :], number(payload, 4, 3))


def number(data: bytes, at: int, size: int) -> int:
    """An unsigned number in network order, which must be there."""
    if len(data) < at + size:
        raise CutOff
    return int.from_bytes(data[at : at + size], "big")
