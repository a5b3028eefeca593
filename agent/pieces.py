# SPDX-License-Identifier: Apache-2.0
r"""Columns of text, gathered from pieces that lie about in captured bytes.

DNS and TLS write lists alike: each element behind a byte that holds its length.  A text is the
elements of one row with a separator between, so that a piece is copied along with the byte in
front of it, which becomes the separator.  All rows are gathered at once.

What was captured is anybody's choice.  So that texts are harmless to print and unambiguous, a
separator or backslash inside an element gets a backslash in front, and bytes that are not
printable ASCII become `\DDD` (RFC 4343).
"""

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.wire import Text, no_text

Indexes = NDArray[np.int64]
Bytes = NDArray[np.uint8]

_BACKSLASH = ord("\\")
_ZERO = ord("0")


@dataclass(slots=True)
class Pieces:
    """Pieces of many rows' texts; those of one row are added in their order."""

    rows: list[Indexes] = field(default_factory=list)
    starts: list[Indexes] = field(default_factory=list)
    lengths: list[Indexes] = field(default_factory=list)

    def add(self, rows: Indexes, starts: Indexes, lengths: Indexes) -> None:
        """One more piece for each of *rows*; *starts* point behind the byte in front of it."""
        self.rows.append(rows)
        self.starts.append(starts)
        self.lengths.append(lengths)

    def text(self, content: Bytes, count: int, separator: str) -> Text:
        """The texts of *count* rows, whose pieces lie in *content*.

        A row's only piece, if it is empty, stands for the separator itself, as DNS writes its
        root.
        """
        if not self.rows:
            return no_text(count)
        rows = np.concatenate(self.rows)
        order = np.argsort(rows, kind="stable")
        rows = rows[order]
        starts = np.concatenate(self.starts)[order]
        lengths = np.concatenate(self.lengths)[order]
        has_separator = np.empty(len(rows), np.bool_)
        has_separator[:1] = lengths[:1] == 0
        has_separator[1:] = (rows[1:] == rows[:-1]) | (lengths[1:] == 0)
        starts, lengths = starts - has_separator, lengths + has_separator
        gathered = gather(content, starts, lengths)
        ends = np.cumsum(lengths)
        is_separator = np.zeros(len(gathered), np.bool_)
        is_separator[(ends - lengths)[has_separator]] = True
        gathered[is_separator] = ord(separator)
        widths = np.where(is_separator, 1, _widths(separator)[gathered])
        written = np.concatenate(([0], np.cumsum(widths)))
        sizes = written[ends] - written[ends - lengths]
        by_row = np.bincount(rows, sizes, minlength=count)
        return Text(by_row.astype("<u2"), _escaped(gathered, widths, written))


def gather(content: Bytes, starts: Indexes, lengths: Indexes) -> Bytes:
    """The bytes of all pieces, one piece after the other."""
    return content[ragged(starts, lengths)]


def ragged(starts: Indexes, lengths: Indexes) -> Indexes:
    """The indexes `start`, `start + 1`, … of every piece, one piece after the other."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    indexes: Indexes = np.arange(total) + np.repeat(starts - (ends - lengths), lengths)
    return indexes


@cache
def _widths(separator: str) -> NDArray[Any]:
    """How many bytes each byte of an element becomes."""
    widths = np.full(256, 4, np.int64)
    widths[0x21:0x7F] = 1
    widths[[ord(separator), _BACKSLASH]] = 2
    return widths


def _escaped(content: Bytes, widths: Indexes, written: Indexes) -> Bytes:
    if written[-1] == len(content):
        return content
    escaped = np.full(int(written[-1]), _BACKSLASH, np.uint8)
    at = written[:-1]
    # A byte that stays one byte is its own last; one behind a backslash is the second of two.
    is_text = widths < 4
    escaped[(at + widths - 1)[is_text]] = content[is_text]
    code, at = content[~is_text], at[~is_text]
    for place, digit in enumerate((code // 100, code // 10 % 10, code % 10), start=1):
        escaped[at + place] = digit + _ZERO
    return escaped
