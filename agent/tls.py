# SPDX-License-Identifier: Apache-2.0
"""Read TLS ClientHellos (RFC 8446): all of them at a time, extension by extension.

    record: type 22, version, length; handshake: type 1, length of 3 bytes, version, 32 random
    bytes, session id, cipher suites, compression methods, extensions

A hello is anybody's choice of bytes.  Whatever is in it, nothing is read outside of it: each step
moves forward and reads within what is there.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.pieces import Bytes, Indexes, Pieces

RECORD_HEADER_BYTES = 5
_HANDSHAKE_AT = RECORD_HEADER_BYTES
_VERSION_AT = _HANDSHAKE_AT + 4
_SESSION_ID_AT = _VERSION_AT + 2 + 32

_SERVER_NAME = 0
_ALPN = 16
_SUPPORTED_VERSIONS = 43
_ECH = 0xFE0D  # RFC 9849
_WANTED = (_SERVER_NAME, _ALPN, _SUPPORTED_VERSIONS, _ECH)


@dataclass(frozen=True, slots=True)
class Hellos:
    """Captured hellos, anywhere in *content*."""

    content: Bytes
    starts: Indexes
    lengths: Indexes

    def number(self, rows: Indexes, at: Indexes, size_bytes: int) -> Indexes:
        """The number in network order *at* bytes into the hellos of *rows*; 0 where it is cut."""
        is_there = at + size_bytes <= self.lengths[rows]
        place = np.where(is_there, self.starts[rows] + at, 0)
        number = np.zeros(len(rows), np.int64)
        for offset in range(size_bytes):
            number = number << 8 | self.content[place + offset]
        return np.where(is_there, number, 0)


@dataclass(slots=True)
class _Extensions:
    """Where the content of one kind of extension lies in each hello; `stop` is 0 where not."""

    start: Indexes
    stop: Indexes

    def note(self, rows: Indexes, start: Indexes, stop: Indexes) -> None:
        """Of two of the same kind, which is an error, the first counts."""
        is_new = self.stop[rows] == 0
        self.start[rows[is_new]], self.stop[rows[is_new]] = start[is_new], stop[is_new]

    def rows(self) -> Indexes:
        return np.flatnonzero(self.stop)


def record_bytes(hellos: Hellos) -> Indexes:
    """How long the TLS record is with its header, by its own account."""
    rows = np.arange(len(hellos.starts))
    return hellos.number(rows, np.full(len(rows), 3), 2) + RECORD_HEADER_BYTES


def read_hellos(hellos: Hellos) -> dict[str, Any]:
    """The columns of `tls` records that are in the hellos themselves."""
    count = len(hellos.starts)
    rows = np.arange(count)
    hello_bytes = hellos.number(rows, np.full(count, _HANDSHAKE_AT + 1), 3)
    legacy = hellos.number(rows, np.full(count, _VERSION_AT), 2)
    # Behind the record's end there may be others.  A hello in several records is read no further.
    lengths = np.minimum(
        hellos.lengths, np.minimum(record_bytes(hellos), _VERSION_AT + hello_bytes)
    )
    hellos = Hellos(hellos.content, hellos.starts, lengths)
    found = {kind: _Extensions(*np.zeros((2, count), np.int64)) for kind in _WANTED}
    is_whole = _walk_extensions(hellos, found) & (lengths == _VERSION_AT + hello_bytes)
    versions = _highest_versions(hellos, found[_SUPPORTED_VERSIONS])
    return {
        "server_name": _server_names(hellos, found[_SERVER_NAME]).text(hellos.content, count, "\\"),
        "alpn": _alpn(hellos, found[_ALPN]).text(hellos.content, count, ","),
        "legacy_version": legacy,
        "version": np.where(versions, versions, legacy),
        "is_ech_offered": found[_ECH].stop > 0,
        "hello_bytes": hello_bytes,
        "is_malformed": ~is_whole,
    }


def _walk_extensions(hellos: Hellos, found: Mapping[int, _Extensions]) -> NDArray[np.bool_]:
    """Note where extensions are; whether the last one ends where all of them should."""
    rows = np.arange(len(hellos.starts))
    at = np.full(len(rows), _SESSION_ID_AT)
    for size_bytes in (1, 2, 1):  # session id, cipher suites, compression methods
        at += size_bytes + hellos.number(rows, at, size_bytes)
    # RFC 5246 allows a hello without extensions; it ends here.
    is_bare = at == hellos.lengths
    end = at + 2 + hellos.number(rows, at, 2)
    at += 2
    is_whole: NDArray[np.bool_] = is_bare | ((at == end) & (end == hellos.lengths))
    end = np.minimum(end, hellos.lengths)
    while len(rows := rows[at[rows] + 4 <= end[rows]]):
        kind = hellos.number(rows, at[rows], 2)
        start = at[rows] + 4
        at[rows] = start + hellos.number(rows, at[rows] + 2, 2)
        is_whole[rows] = at[rows] == hellos.lengths[rows]
        for wanted, places in found.items():
            if (is_one := kind == wanted).any():
                ones = rows[is_one]
                places.note(ones, start[is_one], np.minimum(at[ones], end[ones]))
    return is_whole


def _server_names(hellos: Hellos, places: _Extensions) -> Pieces:
    # A list of names, of which there is one; its type is 0 (RFC 6066).
    names = Pieces()
    rows = places.rows()
    start, stop = places.start[rows], places.stop[rows]
    length = hellos.number(rows, start + 3, 2)
    is_name = (hellos.number(rows, start + 2, 1) == 0) & (length > 0)
    is_name &= start + 5 + length <= stop
    rows, at = rows[is_name], start[is_name] + 5
    names.add(rows, hellos.starts[rows] + at, length[is_name])
    return names


def _alpn(hellos: Hellos, places: _Extensions) -> Pieces:
    protocols = Pieces()
    rows = places.rows()
    at, stop = places.start[rows] + 2, places.stop[rows]
    while len(rows):
        length = hellos.number(rows, at, 1)
        is_there = (length > 0) & (at + 1 + length <= stop)
        rows, at, length, stop = rows[is_there], at[is_there] + 1, length[is_there], stop[is_there]
        protocols.add(rows, hellos.starts[rows] + at, length)
        at = at + length
    return protocols


def _highest_versions(hellos: Hellos, places: _Extensions) -> Indexes:
    """The highest of each list; 0 where there is none."""
    highest = np.zeros(len(hellos.starts), np.int64)
    rows = places.rows()
    at, stop = places.start[rows] + 1, places.stop[rows]
    while len(rows := rows[is_there := at + 2 <= stop]):
        at, stop = at[is_there], stop[is_there]
        version = hellos.number(rows, at, 2)
        # Values that mean nothing are offered to keep servers tolerant (RFC 8701).
        is_grease = (version & 0x0F0F == 0x0A0A) & (version >> 8 == version & 0xFF)
        highest[rows] = np.maximum(highest[rows], np.where(is_grease, 0, version))
        at = at + 2
    return highest
