# SPDX-License-Identifier: Apache-2.0
"""Cut IP packets into fragments, as RFC 791 and RFC 8200 have it."""

import random
import struct

from tests.bpf.shapes import IPV4, IPV6, Part

_UNFRAGMENTED = (0, 43)  # hop-by-hop options and routing stay in each fragment
_FRAGMENT = 44


def fragments_of(part: Part, draw: random.Random) -> list[Part]:
    """*part*, a whole IP packet, in pieces of eight bytes or more."""
    if part[0] == IPV4:
        return _ipv4(part[1], draw)
    return _ipv6(part[1], draw)


def _ipv4(packet: bytes, draw: random.Random) -> list[Part]:
    header_bytes = (packet[0] & 0xF) * 4
    pieces = []
    for offset, more, piece in _pieces(packet[header_bytes:], draw):
        header = bytearray(packet[:header_bytes])
        # The bit that says "do not" is left out where one does.
        struct.pack_into("!H", header, 2, header_bytes + len(piece))
        struct.pack_into("!H", header, 6, more << 13 | offset // 8)
        pieces.append((IPV4, bytes(header) + piece))
    return pieces


def _ipv6(packet: bytes, draw: random.Random) -> list[Part]:
    at, last = 40, 6
    while packet[last] in _UNFRAGMENTED:
        last, at = at, at + (packet[at + 1] + 1) * 8
    identification = draw.choice([1, 2, draw.randrange(1 << 32)])
    following = packet[last]
    pieces = []
    for offset, more, piece in _pieces(packet[at:], draw):
        header = bytearray(packet[:at])
        header[last] = _FRAGMENT
        header += struct.pack("!BxHI", following, offset | more, identification)
        struct.pack_into("!H", header, 4, len(header) - 40 + len(piece))
        pieces.append((IPV6, bytes(header) + piece))
    return pieces


def _pieces(payload: bytes, draw: random.Random) -> list[tuple[int, int, bytes]]:
    """Offset, whether more follow, and bytes of each piece."""
    size = draw.choice([8, 16, 24, 40, 80, 160])
    count = max(-(-len(payload) // size), 1)
    return [
        (number * size, int(number < count - 1), payload[number * size : (number + 1) * size])
        for number in range(min(count, 5))
    ]
