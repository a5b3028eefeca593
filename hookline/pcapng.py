# SPDX-License-Identifier: Apache-2.0
"""Write packets as pcapng, which Wireshark, tshark and tcpdump read.

The format is draft-ietf-opsawg-pcapng: blocks of 32-bit words, each with its length at both ends,
and options as code, length and padded value.  Times are nanoseconds since the epoch.
"""

import platform
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO

LINK_ETHERNET = 1
LINK_RAW_IP = 101

UNKNOWN = 0
INGRESS = 1
EGRESS = 2

_SECTION = 0x0A0D0D0A
_INTERFACE = 1
_STATISTICS = 5
_PACKET = 6
_BYTE_ORDER = 0x1A2B3C4D
_NANOSECONDS = 9  # as a negative power of ten

# Option codes; those from 2 on depend on their block.
_END = 0
_COMMENT = 1
_SECTION_HARDWARE, _SECTION_OS, _SECTION_APPLICATION = 2, 3, 4
_INTERFACE_NAME, _INTERFACE_RESOLUTION, _INTERFACE_FILTER, _INTERFACE_OS = 2, 9, 11, 12
_PACKET_FLAGS = 2
_START, _ENDED, _RECEIVED, _DROPPED, _ACCEPTED, _DELIVERED = 2, 3, 4, 5, 6, 8

Option = tuple[int, bytes]


@dataclass(frozen=True, slots=True)
class Statistics:
    """What happened at one interface while it was captured from."""

    start_ns: int
    end_ns: int
    received: int
    accepted: int
    dropped: int
    delivered: int


class PcapngWriter:
    """Writes one section to *out*; interfaces are numbered in the order in which they come."""

    def __init__(self, out: BinaryIO, *, application: str, comment: str = "") -> None:
        self._out = out
        options = [
            (_SECTION_HARDWARE, platform.machine().encode()),
            (_SECTION_OS, f"{platform.system()} {platform.release()}".encode()),
            (_SECTION_APPLICATION, application.encode()),
        ]
        if comment:
            options.append((_COMMENT, comment.encode()))
        # The length of the section, unknown before its end.
        fixed = struct.pack("<IHHq", _BYTE_ORDER, 1, 0, -1)
        self._write(_SECTION, fixed, _options(options))

    def interface(self, name: str, *, link: int, snaplen: int, chosen_by: str) -> None:
        """Add an interface; *chosen_by* is the filter."""
        fixed = struct.pack("<HHI", link, 0, snaplen)
        options = [
            (_INTERFACE_NAME, name.encode()),
            (_INTERFACE_RESOLUTION, bytes([_NANOSECONDS])),
            (_INTERFACE_OS, f"{platform.system()} {platform.release()}".encode()),
        ]
        if chosen_by:
            # Code 0: the text of a filter.
            options.append((_INTERFACE_FILTER, b"\0" + chosen_by.encode()))
        self._write(_INTERFACE, fixed, _options(options))

    def packet(
        self,
        interface: int,
        time_ns: int,
        data: bytes,
        *,
        original_bytes: int,
        direction: int,
        comment: str = "",
    ) -> None:
        """Add a packet, of which *data* may be the first part."""
        fixed = struct.pack(
            "<IIIII",
            *(interface, time_ns >> 32, time_ns & 0xFFFFFFFF, len(data), original_bytes),
        )
        tail = _TAILS[direction]
        if comment:
            tail = _options([(_COMMENT, comment.encode()), (_PACKET_FLAGS, _flags(direction))])
        self._write(_PACKET, fixed, data, bytes(-len(data) % 4), tail)

    def statistics(self, interface: int, about: Statistics) -> None:
        """Add what is known of an interface at the end."""
        end = _time(about.end_ns)
        options = [
            (_START, _time(about.start_ns)),
            (_ENDED, end),
            (_RECEIVED, struct.pack("<Q", about.received)),
            (_DROPPED, struct.pack("<Q", about.dropped)),
            (_ACCEPTED, struct.pack("<Q", about.accepted)),
            (_DELIVERED, struct.pack("<Q", about.delivered)),
        ]
        self._write(_STATISTICS, struct.pack("<I", interface), end, _options(options))

    def flush(self) -> None:
        self._out.flush()

    def _write(self, kind: int, *parts: bytes) -> None:
        length = struct.pack("<I", 12 + sum(map(len, parts)))
        self._out.write(b"".join((struct.pack("<I", kind), length, *parts, length)))


def _time(time_ns: int) -> bytes:
    return struct.pack("<II", time_ns >> 32, time_ns & 0xFFFFFFFF)


def _flags(direction: int) -> bytes:
    return struct.pack("<I", direction)


def _options(options: Iterable[Option]) -> bytes:
    parts = [
        struct.pack("<HH", code, len(value)) + value + bytes(-len(value) % 4)
        for code, value in (*options, (_END, b""))
    ]
    return b"".join(parts)


# The options of most packets, made once.
_TAILS = {way: _options([(_PACKET_FLAGS, _flags(way))]) for way in (UNKNOWN, INGRESS, EGRESS)}
