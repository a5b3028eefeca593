# SPDX-License-Identifier: Apache-2.0
"""Read pcapng: blocks, in sections of their own byte order, with interfaces of their own clocks.

https://www.ietf.org/archive/id/draft-ietf-opsawg-pcapng-02.html
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from agent.replay.capture import (
    CUT_OFF,
    MOST_CAPTURED_BYTES,
    NO_INTERFACE,
    NO_TICKS,
    TOO_SHORT,
    UNKNOWN_LINK_TYPE,
    Capture,
    Link,
    Walk,
    without_gaps,
)
from agent.replay.files import CaptureError, Content

SECTION = 0x0A0D0D0A
MAGIC = SECTION.to_bytes(4, "little")  # the same in either byte order
_INTERFACE, _OLD_PACKET, _SIMPLE_PACKET, _ENHANCED_PACKET = 1, 2, 3, 6
_PACKETS = {_OLD_PACKET, _SIMPLE_PACKET, _ENHANCED_PACKET}
_ORDERS = {b"\x4d\x3c\x2b\x1a": "<", b"\x1a\x2b\x3c\x4d": ">"}
_FRAME_BYTES = 12  # around a block's body: type, length, and the length again
_IF_NAME, _IF_DESCRIPTION, _IF_TSRESOL, _IF_TSOFFSET = 2, 3, 9, 14
_PACKET_FLAGS = 2
_MOST_LINKS = 1 << 16


def read_pcapng(content: Content) -> Capture:
    """The packets of a pcapng file, whose magic number has been looked at.

    Raises:
        CaptureError: not even its first block can be read.
    """
    reader = _Reader(content)
    reader.read()
    packets = reader.walk.columns(reader.links)
    packets.time_ns = without_gaps(packets.time_ns, content.modified_ns)
    reader.capture.packets, reader.capture.links = packets, reader.links
    return reader.capture


@dataclass(slots=True)
class _Section:
    """What the blocks of a section need to be understood."""

    order: str
    word: struct.Struct
    packet: struct.Struct
    links: list[int] = field(default_factory=list)  # by interface: its number in the file
    first_snap_bytes: int = 0  # of interface 0, the one that simple packets have; 0: no limit


class _Reader:
    def __init__(self, content: Content) -> None:
        self._memory = content.memory
        self._section: _Section | None = None
        self.walk = Walk()
        self._numbers: dict[Link, int] = {}
        self.capture = Capture(content, self.walk.columns([]), [])

    def read(self) -> None:
        """Walk from block to block, to the end or to where the file is damaged."""
        at, size = 0, len(self._memory)
        while at + _FRAME_BYTES <= size:
            block_bytes = self._block_bytes(at)
            if block_bytes is None:
                return
            if at + block_bytes > size:
                break
            self._read_block(at, at + block_bytes - 4)
            at += block_bytes
        if at < size:
            self._note_end(at)

    def _note_end(self, at: int) -> None:
        self._note("it ends within its last block")
        if self._section and at + 4 <= len(self._memory):
            (kind,) = self._section.word.unpack_from(self._memory, at)
            self.capture.rejected[CUT_OFF] += kind in _PACKETS

    def _block_bytes(self, at: int) -> int | None:
        """The length of the block, None where the file is damaged."""
        if self._memory[at : at + 4] == MAGIC:
            self._begin_section(at)
        if self._section is None:
            raise CaptureError(f"{self.capture.content.path} is no pcapng file: its start is wrong")
        (length,) = self._section.word.unpack_from(self._memory, at + 4)
        # Some writers leave the padding out of the length.
        padded: int = -(-length // 4) * 4
        if length < _FRAME_BYTES:
            self._note(f"it is damaged at byte {at}, where a block has {length} bytes")
            return None
        return padded

    def _begin_section(self, at: int) -> None:
        order = _ORDERS.get(bytes(self._memory[at + 8 : at + 12]))
        if order is None:
            if self._section is None:
                raise CaptureError(
                    f"{self.capture.content.path} is no pcapng file: its byte order is unknown"
                )
            return  # a block of this type that means nothing; its length may still be right
        self._section = _Section(order, struct.Struct(f"{order}I"), struct.Struct(f"{order}IIIII"))

    def _read_block(self, at: int, end: int) -> None:
        section = self._section
        if section is None:
            return
        (kind,) = section.word.unpack_from(self._memory, at)
        body = at + 8
        if kind == _ENHANCED_PACKET:
            self._read_packet(section, body, end)
        elif kind == _INTERFACE:
            self._read_interface(section, body, end)
        elif kind == _SIMPLE_PACKET:
            self._read_simple_packet(section, body, end)
        elif kind == _OLD_PACKET:
            self._read_old_packet(section, body, end)

    def _read_packet(self, section: _Section, body: int, end: int) -> None:
        if body + 20 > end:
            self.capture.rejected[TOO_SHORT] += 1
            return
        fields = section.packet.unpack_from(self._memory, body)
        self._add(section, fields, body + 20, end)

    def _read_old_packet(self, section: _Section, body: int, end: int) -> None:
        if body + 20 > end:
            self.capture.rejected[TOO_SHORT] += 1
            return
        # As above, but interface and drops share a word.
        interface, _ = struct.unpack_from(f"{section.order}HH", self._memory, body)
        _, *others = section.packet.unpack_from(self._memory, body)
        self._add(section, (interface, *others), body + 20, end)

    def _add(self, section: _Section, fields: tuple[int, ...], data: int, end: int) -> None:
        interface, high, low, captured, length = fields
        if interface >= len(section.links):
            self.capture.rejected[NO_INTERFACE] += 1
            return
        if data + captured > end or captured > MOST_CAPTURED_BYTES:
            self.capture.rejected[TOO_SHORT] += 1
            return
        direction = 0
        options = data + -(-captured // 4) * 4
        if options + 4 < end:
            direction = self._direction(section, options, end)
        link = section.links[interface]
        self.walk.add((data, captured, length, high << 32 | low, link, direction))

    def _read_simple_packet(self, section: _Section, body: int, end: int) -> None:
        if body + 4 > end:
            self.capture.rejected[TOO_SHORT] += 1
            return
        if not section.links:
            self.capture.rejected[NO_INTERFACE] += 1
            return
        (length,) = section.word.unpack_from(self._memory, body)
        # Such a block has no time, and its padding is told from data by the length alone.
        captured = min(length, section.first_snap_bytes or length, end - body - 4)
        self.walk.add((body + 4, captured, length, NO_TICKS, section.links[0], 0))

    def _direction(self, section: _Section, at: int, end: int) -> int:
        for code, value in self._options(section, at, end):
            if code == _PACKET_FLAGS and len(value) == 4:
                (flags,) = section.word.unpack(value)
                # 3 is no direction that the format knows.
                return int(flags & 3) % 3
        return 0

    def _read_interface(self, section: _Section, body: int, end: int) -> None:
        link = Link("", UNKNOWN_LINK_TYPE)
        if body + 8 <= end:
            link_type, _, snap_bytes = struct.unpack_from(f"{section.order}HHI", self._memory, body)
            # The first of several wins.
            options = dict(reversed(list(self._options(section, body + 8, end))))
            link = Link(
                _name(options),
                link_type,
                _ticks_per_second(options.get(_IF_TSRESOL, b"")),
                _offset_seconds(options.get(_IF_TSOFFSET, b""), section.order),
            )
            if not section.links:
                section.first_snap_bytes = snap_bytes
        # Files that were joined declare the same interfaces in each section.
        number = self._numbers.setdefault(link, len(self._numbers))
        if number >= _MOST_LINKS:
            raise CaptureError(
                f"{self.capture.content.path} declares more than {_MOST_LINKS} interfaces"
            )
        section.links.append(number)

    @property
    def links(self) -> list[Link]:
        """Every interface of the file."""
        return list(self._numbers)

    def _options(self, section: _Section, at: int, end: int) -> Iterator[tuple[int, bytes]]:
        while at + 4 <= end:
            code, length = struct.unpack_from(f"{section.order}HH", self._memory, at)
            if code == 0 or at + 4 + length > end:
                return
            yield code, bytes(self._memory[at + 4 : at + 4 + length])
            at += 4 + -(-length // 4) * 4

    def _note(self, text: str) -> None:
        self.capture.content.notes.append(text)


def _name(options: dict[int, bytes]) -> str:
    raw = options.get(_IF_NAME) or options.get(_IF_DESCRIPTION) or b""
    text = raw.rstrip(b"\0").decode(errors="replace")
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _ticks_per_second(option: bytes) -> int:
    if len(option) != 1:
        return 1_000_000
    exponent = option[0] & 0x7F
    return int(2**exponent if option[0] & 0x80 else 10**exponent)


def _offset_seconds(option: bytes, order: str) -> int:
    if len(option) != 8:
        return 0
    (seconds,) = struct.unpack(f"{order}q", option)
    return int(seconds)
