# SPDX-License-Identifier: Apache-2.0
"""Decompress what others have compressed, up to a limit.

A megabyte may hold a thousand times as much of the same byte, and with zstd a million times.  So
never more is made of it than is allowed, whatever it says of itself.
"""

import zlib
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain, repeat
from typing import Any

import cramjam
import lz4.frame
import zstandard

Content = bytes | memoryview

_GZIP_WBITS = 31
# What comes at once; most record batches are one.
_PIECE_BYTES = 1 << 20
_CUT_OFF = "it ends in the middle"
# Java's way to write several blocks of snappy: magic bytes, two versions, then length and block.
_XERIAL = b"\x82SNAPPY\0"
_XERIAL_HEADER_BYTES = 16


class TooLargeError(Exception):
    """There is more in it than is allowed."""


class DamagedError(Exception):
    """It is not in that encoding; the text is the library's reason."""


def decompress(encoding: str, content: Content, most_bytes: int) -> bytes:
    """What is in *content*; *encoding* is gzip, deflate, lz4, snappy or zstd.

    Raises:
        TooLargeError: it is more than *most_bytes*.
        DamagedError: it is not in that encoding.
    """
    try:
        # One byte more than allowed shows that there is more, whatever it would grow to.
        found = _DECOMPRESS[encoding](content, most_bytes + 1)
    except (zlib.error, zstandard.ZstdError, cramjam.DecompressionError) as error:
        raise DamagedError(str(error)) from None
    except (RuntimeError, EOFError, ValueError) as error:  # lz4's, and lengths that lie
        raise DamagedError(str(error)) from None
    if len(found) > most_bytes:
        raise TooLargeError
    return found


def _gzip(content: Content, most: int) -> bytes:
    return _zlib(zlib.decompressobj(_GZIP_WBITS), content, most)


def _deflate(content: Content, most: int) -> bytes:
    return _zlib(zlib.decompressobj(), content, most)


def _zlib(decompressor: Any, content: Content, most: int) -> bytes:
    found: bytes = decompressor.decompress(content, most)
    if len(found) < most and not decompressor.eof:
        raise DamagedError(_CUT_OFF)
    return found


def _lz4(content: Content, most: int) -> bytes:
    decompressor = lz4.frame.LZ4FrameDecompressor()
    inputs = chain([content], repeat(b""))

    def next_piece() -> bytes:
        if decompressor.eof:
            return b""
        piece: bytes = decompressor.decompress(next(inputs), _PIECE_BYTES)
        return piece

    found = _joined(next_piece, most)
    if len(found) < most and not decompressor.eof:
        raise DamagedError(_CUT_OFF)
    return found


def _zstd(content: Content, most: int) -> bytes:
    decompressor = zstandard.ZstdDecompressor()
    with decompressor.stream_reader(content, read_across_frames=True) as reader:
        return _joined(partial(reader.read, _PIECE_BYTES), most)


def _joined(next_piece: Callable[[], bytes], most: int) -> bytes:
    """All pieces up to an empty one, or the first that make it too long."""
    parts, length = [], 0
    while length < most and (piece := next_piece()):
        parts.append(piece)
        length += len(piece)
    return b"".join(parts)


def _snappy(content: Content, most: int) -> bytes:
    """Blocks of snappy say how long they become, and become no longer."""
    parts: list[bytes] = []
    for block in _snappy_blocks(memoryview(content)):
        most -= cramjam.snappy.decompress_raw_len(block)
        if most <= 0:
            raise TooLargeError
        parts.append(bytes(cramjam.snappy.decompress_raw(block)))
    return b"".join(parts)


def _snappy_blocks(content: memoryview) -> Iterator[bytes]:
    if content[: len(_XERIAL)] != _XERIAL:
        yield bytes(content)
        return
    at = _XERIAL_HEADER_BYTES
    if len(content) < at:
        raise DamagedError(_CUT_OFF)
    while at < len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        at += 4
        if not 0 < length <= len(content) - at:
            raise DamagedError(f"a block of {length} bytes where {len(content) - at} are left")
        yield bytes(content[at : at + length])
        at += length


_DECOMPRESS = {
    "deflate": _deflate,
    "gzip": _gzip,
    "lz4": _lz4,
    "snappy": _snappy,
    "zstd": _zstd,
}
