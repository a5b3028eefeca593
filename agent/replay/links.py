# SPDX-License-Identifier: Apache-2.0
"""Bring packets of every link type into one of the two shapes that the kernel programs read.

Those are Ethernet frames and bare IP packets.  What has another link header gets one of Ethernet
in its place, with the ethertype that it names; a link header that is cut off becomes an Ethernet
header that ends within a VLAN tag, which counts as the same: a frame of which nothing is known.

The kernel refuses test runs of less than an Ethernet header, and of IP packets whose address
fields are missing.  Those get a header of their own too, with zeros behind it for what is missing:
no version of IP is 0, so they count as what they are, packets that cannot be read further.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.replay.capture import INBOUND, OUTBOUND, UNKNOWN_LINK_TYPE, Capture

ETHERNET_BYTES = 14
_IPV4, _IPV6, _VLAN, _PPP, _MPLS, _PPPOE = 0x0800, 0x86DD, 0x8100, 0x880B, 0x8847, 0x8864
_CUT_OFF = _VLAN  # with nothing behind it
AS_IT_IS = -1
# Ethernet and the fixed header of IPv4 or IPv6: with fewer bytes the kernel refuses the run.
LEAST_BYTES = {_IPV4: ETHERNET_BYTES + 20, _IPV6: ETHERNET_BYTES + 40}
# Of a bare packet the kernel takes bytes 12 and 13 for the ethertype, whatever they are.
_LEAST_BARE_BYTES = LEAST_BYTES[_IPV6]
_CHUNK = 1 << 16

# linux/if_packet.h
_PACKET_OUTGOING = 4
_INTERNET_FAMILIES = {2: _IPV4, 10: _IPV6, 24: _IPV6, 28: _IPV6, 30: _IPV6}
_PPP_PROTOCOLS = {0x0021: _IPV4, 0x0057: _IPV6, 0x0281: _MPLS, 0x0283: _MPLS + 1}

_NAMES = {
    6: "Token Ring",
    105: "802.11",
    119: "802.11 with a Prism header",
    127: "802.11 with radiotap",
    163: "802.11 with an AVS header",
    187: "Bluetooth",
    189: "USB",
    192: "PPI",
    195: "802.15.4",
    201: "Bluetooth",
    220: "USB",
    227: "CAN",
    239: "NFLOG",
    249: "USB",
    252: "exported PDUs",
    253: "netlink",
    UNKNOWN_LINK_TYPE: "unreadable",
}


@dataclass(slots=True)
class Framing:
    """How packets are to be fed: by packet, columns.

    *skip* bytes of link header are left out, and an Ethernet header with *ethertype* takes their
    place unless that is -1; *source* are the bytes of its source address.
    """

    skip: NDArray[np.uint32]
    ethertype: NDArray[np.int32]
    source: NDArray[np.uint8]
    link_bytes: NDArray[np.uint32]
    direction: NDArray[np.uint8]
    ifindex: NDArray[np.uint32]  # that the packet itself names, else 0


def link_type_name(number: int) -> str:
    return f"{number} ({_NAMES[number]})" if number in _NAMES else str(number)


def is_supported(link_type: int) -> bool:
    return link_type in _READERS


def framing_of(capture: Capture) -> Framing:
    """How to feed all packets of a capture, whose link types are supported."""
    count = len(capture.packets)
    framing = Framing(
        np.zeros(count, np.uint32),
        np.full(count, AS_IT_IS, np.int32),
        np.zeros((count, 6), np.uint8),
        np.full(count, ETHERNET_BYTES, np.uint32),
        capture.packets.direction.copy(),
        np.zeros(count, np.uint32),
    )
    for number, link in enumerate(capture.links):
        chosen = np.flatnonzero(capture.packets.link == number)
        for start in range(0, len(chosen), _CHUNK):
            _READERS[link.link_type](_Part(capture, chosen[start : start + _CHUNK]), framing)
    _blank_cut_addresses(capture.packets.captured, framing)
    return framing


def _blank_cut_addresses(captured: NDArray[np.uint32], framing: Framing) -> None:
    """Leave out what is there of an IP header that is not all there."""
    for kind, needed in LEAST_BYTES.items():
        payload = captured.astype(np.int64) - framing.skip
        is_cut = (framing.ethertype == kind) & (payload < needed - ETHERNET_BYTES)
        framing.skip[is_cut] = captured[is_cut]


@dataclass(frozen=True, slots=True)
class _Part:
    """Some packets of one link type."""

    capture: Capture
    index: NDArray[np.intp]

    @property
    def captured(self) -> NDArray[np.uint32]:
        return self.capture.packets.captured[self.index]

    def bytes_at(self, place: int, count: int) -> NDArray[np.uint8]:
        """(n, count) bytes from *place* on; zeros where the packet ends before they do."""
        found = np.zeros((len(self.index), count), np.uint8)
        is_there = self.captured >= place + count
        offset = self.capture.packets.offset[self.index[is_there]]
        wanted = offset[:, None] + np.arange(place, place + count, dtype=np.uint64)
        found[is_there] = self.capture.content.bytes[wanted]
        return found

    def number_at(self, place: int, count: int) -> NDArray[np.int64]:
        """The number in *count* bytes, in network order."""
        number = np.zeros(len(self.index), np.int64)
        for column in self.bytes_at(place, count).T:
            number = number << 8 | column
        return number


def _replace(
    part: _Part,
    framing: Framing,
    skip: NDArray[np.int64] | int,
    ethertype: NDArray[np.int64],
) -> None:
    """Put Ethernet in place of *skip* bytes, or a header that is cut off where these are not."""
    is_cut = part.captured < skip
    framing.skip[part.index] = np.where(is_cut, part.captured, skip)
    framing.ethertype[part.index] = np.where(is_cut, _CUT_OFF, ethertype)


def _read_ethernet(part: _Part, framing: Framing) -> None:
    ethertype = part.number_at(12, 2)
    least = np.full(len(part.index), ETHERNET_BYTES)
    for kind, needed in LEAST_BYTES.items():
        least[ethertype == kind] = needed
    is_short = part.captured < least
    short = _Part(part.capture, part.index[is_short])
    _replace(short, framing, ETHERNET_BYTES, ethertype[is_short])
    framing.source[short.index] = short.bytes_at(6, 6)


def _read_bare(part: _Part, framing: Framing) -> None:
    framing.link_bytes[part.index] = 0
    short = _Part(part.capture, part.index[part.captured < _LEAST_BARE_BYTES])
    version = short.number_at(0, 1) >> 4
    ethertype = np.where(version == 6, _IPV6, _IPV4)
    framing.ethertype[short.index] = np.where(short.captured == 0, _CUT_OFF, ethertype)
    framing.link_bytes[short.index] = ETHERNET_BYTES


def _read_family(part: _Part, framing: Framing) -> None:
    family = part.number_at(0, 4)
    # In the byte order of whoever captured; families are small numbers.
    swapped = family.astype(np.uint32).byteswap().astype(np.int64)
    family = np.minimum(family, swapped)
    _replace(part, framing, 4, _looked_up(family, _INTERNET_FAMILIES, otherwise=family))


def _read_ppp(part: _Part, framing: Framing, start: int = 0) -> None:
    has_address = part.number_at(start, 2) == 0xFF03
    at = start + 2 * has_address
    first = np.where(has_address, part.number_at(start + 2, 1), part.number_at(start, 1))
    both = np.where(has_address, part.number_at(start + 2, 2), part.number_at(start, 2))
    # An odd first byte is all of the number: it was compressed.
    is_short = first & 1 == 1
    protocol = np.where(is_short, first, both)
    other = np.full(len(part.index), _PPP, np.int64)
    ethertype = _looked_up(protocol, _PPP_PROTOCOLS, otherwise=other)
    _replace(part, framing, at + np.where(is_short, 1, 2), ethertype)


def _read_ppp_with_direction(part: _Part, framing: Framing) -> None:
    is_there = part.captured > 0
    direction = np.where(part.number_at(0, 1) == 0, INBOUND, OUTBOUND)
    framing.direction[part.index] = np.where(is_there, direction, 0)
    _read_ppp(part, framing, 1)


def _read_pppoe(part: _Part, framing: Framing) -> None:
    _replace(part, framing, 0, np.full(len(part.index), _PPPOE, np.int64))


def _read_hdlc(part: _Part, framing: Framing) -> None:
    _replace(part, framing, 4, part.number_at(2, 2))


def _read_cooked(part: _Part, framing: Framing) -> None:
    _replace(part, framing, 16, part.number_at(14, 2))
    framing.source[part.index] = part.bytes_at(6, 6)
    _set_direction(part, framing, part.number_at(0, 2))


def _read_cooked_2(part: _Part, framing: Framing) -> None:
    _replace(part, framing, 20, part.number_at(0, 2))
    framing.source[part.index] = part.bytes_at(12, 6)
    framing.ifindex[part.index] = part.number_at(4, 4)
    _set_direction(part, framing, part.number_at(10, 1))


def _set_direction(part: _Part, framing: Framing, kind: NDArray[np.int64]) -> None:
    framing.direction[part.index] = np.where(kind == _PACKET_OUTGOING, OUTBOUND, INBOUND)


def _looked_up(
    keys: NDArray[np.int64], table: dict[int, int], *, otherwise: NDArray[np.int64]
) -> NDArray[np.int64]:
    found = otherwise.copy()
    for key, value in table.items():
        found[keys == key] = value
    return found


# https://www.tcpdump.org/linktypes.html
_READERS: dict[int, Callable[[_Part, Framing], None]] = {
    0: _read_family,
    1: _read_ethernet,
    9: _read_ppp,
    12: _read_bare,
    14: _read_bare,
    50: _read_ppp,
    51: _read_pppoe,
    101: _read_bare,
    104: _read_hdlc,
    108: _read_family,
    113: _read_cooked,
    204: _read_ppp_with_direction,
    228: _read_bare,
    229: _read_bare,
    276: _read_cooked_2,
}
