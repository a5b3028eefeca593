# SPDX-License-Identifier: Apache-2.0
"""A capture file in memory: mapped where it lies, or unpacked into a file without a name first."""

import bz2
import gzip
import lzma
import mmap
import os
import stat
import tempfile
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

_PIECE_BYTES = 1 << 20
_UNPACKERS: dict[bytes, Callable[[IO[bytes]], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}
# What the unpackers raise where the packed data is damaged or ends early.
_DAMAGE = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)


class CaptureError(Exception):
    """A file that cannot be replayed at all; the text is one line that names it."""


@dataclass(frozen=True, slots=True)
class Content:
    """The bytes of one capture, unpacked.

    *bytes* may be empty.  *notes* say what is missing of it, if anything is.
    """

    path: Path
    bytes: NDArray[np.uint8]
    modified_ns: int
    notes: list[str] = field(default_factory=list)

    @property
    def memory(self) -> memoryview:
        """The same bytes, for who reads numbers out of them one by one."""
        return self.bytes.data

    @property
    def address(self) -> int:
        """Where it lies in this process."""
        return self.bytes.ctypes.data


def open_content(path: Path) -> Content:
    """The content of the file, pipe or, as `-`, standard input.

    Raises:
        CaptureError: it cannot be read.
    """
    try:
        # What is mapped needs no open file.
        with ExitStack() as open_files:
            file = open_files.enter_context(_opened(path))
            status = os.fstat(file.fileno())
            notes: list[str] = []
            if not stat.S_ISREG(status.st_mode):
                file = open_files.enter_context(_copied(file, notes))
            if unpack := _unpacker(file):
                packed = open_files.enter_context(unpack(file))
                file = open_files.enter_context(_copied(packed, notes))
            return Content(path, _mapped(file), status.st_mtime_ns, notes)
    except OSError as error:
        raise CaptureError(f"cannot read {path}: {error.strerror or error}") from None


def _opened(path: Path) -> IO[bytes]:
    if str(path) == "-":
        return os.fdopen(os.dup(0), "rb")
    return path.open("rb")


def _unpacker(file: IO[bytes]) -> Callable[[IO[bytes]], Any] | None:
    start = os.pread(file.fileno(), 8, 0)
    return next((one for magic, one in _UNPACKERS.items() if start.startswith(magic)), None)


def _copied(source: Any, notes: list[str]) -> IO[bytes]:
    """A file without a name."""
    copy: Any = tempfile.TemporaryFile("w+b")  # noqa: SIM115 - for the caller to close
    while piece := _piece(source, notes):
        copy.write(piece)
    copy.flush()
    return copy  # type: ignore[no-any-return]


def _piece(source: Any, notes: list[str]) -> bytes:
    try:
        # Not read(): it would throw away what came before the damage.
        piece: bytes = source.read1(_PIECE_BYTES)
    except (*_DAMAGE, OSError) as error:
        # bz2 says so with an OSError of no number.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        notes.append(f"its compressed data is damaged or ends early ({error})")
        return b""
    return piece


def _mapped(file: IO[bytes]) -> NDArray[np.uint8]:
    if not (size := os.fstat(file.fileno()).st_size):
        return np.empty(0, np.uint8)
    return np.frombuffer(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ), np.uint8)
