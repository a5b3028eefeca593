# SPDX-License-Identifier: Apache-2.0
"""Content encodings: of request bodies, bounded; of replies, piece by piece."""

import zlib
from collections.abc import Iterable, Iterator
from typing import Protocol

import lz4.frame
import zstandard

from consumer.api.fault import INCORRECT_DATA, NOT_IMPLEMENTED, QUERY_IS_TOO_LARGE, Fault
from service.decompress import DamagedError, TooLargeError, decompress

# In the order of preference when a client accepts several, as ClickHouse has it.
ENCODINGS = ("lz4", "zstd", "gzip", "deflate")
_GZIP_WBITS = 31
_ZSTD_LEVEL = 1
_GZIP_LEVEL = 3


class Compressor(Protocol):
    """Turns pieces of a reply into pieces of the encoded reply."""

    def compress(self, piece: bytes) -> bytes: ...

    def flush(self) -> bytes: ...


class _Plain:
    def compress(self, piece: bytes) -> bytes:
        return piece

    def flush(self) -> bytes:
        return b""


class _Lz4Frame:
    def __init__(self) -> None:
        self._frame = lz4.frame.LZ4FrameCompressor()
        self._opening: bytes = self._frame.begin()

    def compress(self, piece: bytes) -> bytes:
        opening, self._opening = self._opening, b""
        return opening + bytes(self._frame.compress(piece))

    def flush(self) -> bytes:
        opening, self._opening = self._opening, b""
        return opening + bytes(self._frame.flush())


def chosen_encoding(accepted: str) -> str | None:
    """The encoding for a reply to a client that sent `Accept-Encoding: accepted`."""
    names = {_name_if_wanted(part) for part in accepted.lower().split(",")}
    return next((encoding for encoding in ENCODINGS if encoding in names), None)


def _name_if_wanted(part: str) -> str:
    name, _, weight = part.partition(";")
    return "" if weight.replace(" ", "") in {"q=0", "q=0.0"} else name.strip()


def compressor_for(encoding: str | None) -> Compressor:
    """A compressor for one reply; without *encoding* it changes nothing."""
    if encoding == "lz4":
        return _Lz4Frame()
    if encoding == "zstd":
        compressor: Compressor = zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compressobj()
        return compressor
    if encoding == "gzip":
        return zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP_WBITS)
    if encoding == "deflate":
        return zlib.compressobj(_GZIP_LEVEL)
    return _Plain()


def encoded(pieces: Iterable[bytes], compressor: Compressor) -> Iterator[bytes]:
    """The non-empty pieces of the encoded reply."""
    for piece in pieces:
        if out := compressor.compress(piece):
            yield out
    if out := compressor.flush():
        yield out


def decoded_body(body: bytes, encoding: str, *, max_bytes: int) -> bytes:
    """The content of a request body.

    Raises:
        Fault: it is not in that encoding, or more than *max_bytes* long.
    """
    if encoding in {"", "identity"}:
        return body
    if encoding not in ENCODINGS:
        raise Fault(
            NOT_IMPLEMENTED, f"content encoding {encoding} is not among {', '.join(ENCODINGS)}"
        )
    try:
        return decompress(encoding, body, max_bytes)
    except DamagedError as error:
        raise Fault(INCORRECT_DATA, f"the body is not {encoding}: {error}") from None
    except TooLargeError:
        raise Fault(QUERY_IS_TOO_LARGE, f"the body holds more than {max_bytes} bytes") from None
