# SPDX-License-Identifier: Apache-2.0
"""One file of the spool: entries behind one another, each of them a batch and its name.

An entry is a header, its name, and the batch as it is sent, or compressed:

    magic "HLs1", crc32 of all that follows, number, bytes of the batch, bytes of the name, flags

A checksum that does not fit ends the file, whatever is behind it.
"""

import os
import struct
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgpack
import zstandard

_HEADER = struct.Struct("<4sIQIHH")
_CHECKED = 8  # the checksum covers everything from this byte on
_MAGIC = b"HLs1"
_COMPRESSED = 1
# Larger than any batch (agent/batch.py) with its name.
_MOST_BATCH_BYTES = 16 << 20
_MOST_NAME_BYTES = 4096
_IOV_MAX = 1024  # include/uapi/linux/uio.h


class Name(NamedTuple):
    """What names a batch for ever, and how many rows it has."""

    node: str
    run: str
    kind: str
    seq: int
    rows: int


class Entry(NamedTuple):
    """One batch in the log; *end* is the byte of its segment at which the next one begins."""

    number: int
    name: Name
    payload: bytes
    end: int


@dataclass(slots=True, eq=False)
class Segment:
    """One file of the log."""

    first: int
    path: Path
    fd: int
    size_bytes: int = 0  # what is valid of it
    is_torn: bool = False  # whether there is more behind that


def encoded(
    name: Name, payload: bytes, number: int, compressor: zstandard.ZstdCompressor | None
) -> list[bytes]:
    """An entry as the parts that are to be written; compressed where there is a *compressor*."""
    flags = 0
    if compressor is not None:
        payload, flags = compressor.compress(payload), _COMPRESSED
    packed_name: bytes = msgpack.packb(name)
    head = _HEADER.pack(_MAGIC, 0, number, len(payload), len(packed_name), flags)[_CHECKED:]
    checksum = _checksum(head, packed_name, payload)
    return [_MAGIC + checksum.to_bytes(4, "little") + head, packed_name, payload]


def entries_of(segment: Segment, at_byte: int = 0) -> Iterator[Entry]:
    """The entries from that byte on, up to the end or the first that cannot be read."""
    while entry := entry_at(segment, at_byte):
        yield entry
        at_byte = entry.end


def entry_at(segment: Segment, at_byte: int) -> Entry | None:
    """The entry at that byte; None at the end, and where what is there is no entry."""
    head = os.pread(segment.fd, _HEADER.size, at_byte)
    if len(head) < _HEADER.size:
        return None
    magic, checksum, number, payload_bytes, name_bytes, flags = _HEADER.unpack(head)
    if magic != _MAGIC or payload_bytes > _MOST_BATCH_BYTES or name_bytes > _MOST_NAME_BYTES:
        return None
    rest = os.pread(segment.fd, name_bytes + payload_bytes, at_byte + _HEADER.size)
    if _checksum(head[_CHECKED:], rest) != checksum:
        return None
    try:
        name = Name(*msgpack.unpackb(rest[:name_bytes]))
        payload = _payload(rest[name_bytes:], flags)
    except (ValueError, TypeError, msgpack.UnpackException, zstandard.ZstdError):
        return None
    return Entry(number, name, payload, at_byte + _HEADER.size + name_bytes + payload_bytes)


def _payload(content: bytes, flags: int) -> bytes:
    if not flags & _COMPRESSED:
        return content
    if not 0 <= zstandard.frame_content_size(content) <= _MOST_BATCH_BYTES:
        raise ValueError
    return zstandard.decompress(content)


def _checksum(*parts: bytes) -> int:
    checksum = 0
    for part in parts:
        checksum = zlib.crc32(part, checksum)
    return checksum


def write_all(fd: int, parts: Sequence[bytes]) -> None:
    """Write *parts* one behind the other, however many calls that takes."""
    left = deque(memoryview(part) for part in parts)
    while left:
        written = os.writev(fd, [left[place] for place in range(min(len(left), _IOV_MAX))])
        while left and written >= len(left[0]):
            written -= len(left.popleft())
        if written:
            left[0] = left[0][written:]


def sync(fds: Sequence[int]) -> None:
    """Bring files onto the disk and close them."""
    try:
        for fd in fds:
            os.fsync(fd)
    finally:
        for fd in fds:
            os.close(fd)
