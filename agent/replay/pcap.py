# SPDX-License-Identifier: Apache-2.0
"""Read the classic format, pcap: one header, then packets with a header each.

Both byte orders, microseconds and nanoseconds, and the variant of old Linux patches, whose packets
have eight more bytes in front of them.
https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-04.html
"""

import struct
from array import array
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.replay.capture import CUT_OFF, MOST_CAPTURED_BYTES, Capture, Link, Packets
from agent.replay.files import CaptureError, Content

_FILE_HEADER_BYTES = 24
_CHUNK = 1 << 16


@dataclass(frozen=True, slots=True)
class _Variant:
    order: str
    fraction_ns: int  # what one unit of the second part of a timestamp is
    header_bytes: int  # in front of each packet


def _variants() -> dict[bytes, _Variant]:
    kinds = {0xA1B2C3D4: (1000, 16), 0xA1B23C4D: (1, 16), 0xA1B2CD34: (1000, 24)}
    return {
        struct.pack(f"{order}I", magic): _Variant(order, *kind)
        for order in "<>"
        for magic, kind in kinds.items()
    }


VARIANTS = _variants()


def read_pcap(content: Content) -> Capture:
    """The packets of a pcap file, whose magic number has been looked at.

    Raises:
        CaptureError: it ends within its header.
    """
    variant = VARIANTS[content.bytes[:4].tobytes()]
    if len(content.bytes) < _FILE_HEADER_BYTES:
        raise CaptureError(f"{content.path} ends within the header of a pcap file")
    (link_type,) = struct.unpack_from(f"{variant.order}I", content.memory, 20)
    capture = Capture(content, _none(), [Link("", link_type & 0xFFFF)])
    capture.packets = _packets(content, _record_offsets(capture, variant), variant)
    return capture


def _record_offsets(capture: Capture, variant: _Variant) -> NDArray[np.uint64]:
    """Where the header of each whole packet begins."""
    memory = capture.content.memory
    length_of = struct.Struct(f"{variant.order}I").unpack_from
    size, header_bytes = len(memory), variant.header_bytes
    offsets = array("Q")
    at = _FILE_HEADER_BYTES
    while at + header_bytes <= size:
        (captured,) = length_of(memory, at + 8)
        after = at + header_bytes + captured
        if after > size or captured > MOST_CAPTURED_BYTES:
            break
        offsets.append(at)
        at = after
    if at < size:
        _note_end(capture, variant, at)
    return np.array(offsets, np.uint64)


def _note_end(capture: Capture, variant: _Variant, at: int) -> None:
    notes, memory = capture.content.notes, capture.content.memory
    if at + variant.header_bytes <= len(memory):
        (captured,) = struct.unpack_from(f"{variant.order}I", memory, at + 8)
        if captured > MOST_CAPTURED_BYTES:
            notes.append(f"it is damaged at byte {at}, where a packet has {captured} bytes")
            return
    capture.rejected[CUT_OFF] += 1
    notes.append("it ends within its last packet")


def _packets(content: Content, offsets: NDArray[np.uint64], variant: _Variant) -> Packets:
    found = _none(len(offsets))
    found.offset = offsets + np.uint64(variant.header_bytes)
    for start in range(0, len(offsets), _CHUNK):
        part = slice(start, start + _CHUNK)
        bytes_at = offsets[part, None] + np.arange(16, dtype=np.uint64)
        words = content.bytes[bytes_at].view(f"{variant.order}u4").astype(np.int64)
        found.time_ns[part] = words[:, 0] * 1_000_000_000 + words[:, 1] * variant.fraction_ns
        found.captured[part] = words[:, 2]
        found.length[part] = words[:, 3]
    return found


def _none(count: int = 0) -> Packets:
    return Packets(
        np.zeros(count, np.uint64),
        np.zeros(count, np.uint32),
        np.zeros(count, np.uint32),
        np.zeros(count, np.int64),
        np.zeros(count, np.uint16),
        np.zeros(count, np.uint8),
    )
