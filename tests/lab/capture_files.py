# SPDX-License-Identifier: Apache-2.0
"""Capture files made byte by byte, as their formats describe them, well formed or not."""

import struct
from collections.abc import Iterable
from pathlib import Path

MICROSECONDS, NANOSECONDS, PATCHED = 0xA1B2C3D4, 0xA1B23C4D, 0xA1B2CD34
START_S = 1_300_000_000  # 2011, long before any retention began

Frame = bytes | tuple[bytes, int]  # with its length on the wire, where that is more


def pcap(
    path: Path,
    frames: Iterable[Frame],
    *,
    link_type: int = 1,
    order: str = "<",
    magic: int = MICROSECONDS,
    times: Iterable[tuple[int, int]] = (),
    tail: bytes = b"",
) -> Path:
    """A classic file; frames come a second and a unit apart unless *times* says when."""
    frames = list(frames)
    moments = list(times) or [(START_S + number, number) for number in range(len(frames))]
    content = struct.pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, 65535, link_type)
    for frame, (seconds, fraction) in zip(frames, moments, strict=True):
        data, length = frame if isinstance(frame, tuple) else (frame, len(frame))
        content += struct.pack(f"{order}IIII", seconds, fraction, len(data), length)
        content += bytes(8 if magic == PATCHED else 0) + data
    path.write_bytes(content + tail)
    return path


def block(order: str, kind: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    length = len(body) + 12
    return struct.pack(f"{order}II", kind, length) + body + struct.pack(f"{order}I", length)


def options(order: str, given: dict[int, bytes]) -> bytes:
    if not given:
        return b""
    parts = [
        struct.pack(f"{order}HH", code, len(value)) + value + bytes(-len(value) % 4)
        for code, value in given.items()
    ]
    return b"".join(parts) + bytes(4)


def section(order: str = "<") -> bytes:
    return block(order, 0x0A0D0D0A, struct.pack(f"{order}IHHq", 0x1A2B3C4D, 1, 0, -1))


def interface(
    order: str, link_type: int, snap_bytes: int = 0, given: dict[int, bytes] | None = None
) -> bytes:
    head = struct.pack(f"{order}HHI", link_type, 0, snap_bytes)
    return block(order, 1, head + options(order, given or {}))


def packet(
    order: str,
    number: int,
    ticks: int,
    data: bytes,
    *,
    length: int | None = None,
    given: dict[int, bytes] | None = None,
) -> bytes:
    head = (number, ticks >> 32, ticks & 0xFFFFFFFF, len(data), length or len(data))
    body = struct.pack(f"{order}IIIII", *head) + data + bytes(-len(data) % 4)
    return block(order, 6, body + options(order, given or {}))


def simple_packet(order: str, data: bytes, length: int) -> bytes:
    return block(order, 3, struct.pack(f"{order}I", length) + data)


def old_packet(order: str, number: int, ticks: int, data: bytes) -> bytes:
    head = (number, 0, ticks >> 32, ticks & 0xFFFFFFFF, len(data), len(data))
    return block(order, 2, struct.pack(f"{order}HHIIII", *head) + data)
