# SPDX-License-Identifier: Apache-2.0
"""Names in DNS as arrays: where their registered domain begins, and how random the rest looks.

The registered domain is two labels long, or three where the second is one of those under which
countries register names.  The list of all such suffixes is long and changes; this knows the common
ones, and takes a rarer one for a domain, under which names of many owners then count together.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from consumer.alerts.sketches import Hash, Keys, Values
from schemas.wire import Text

_DOT, _BACKSLASH = 46, 92
_WIDTH = 256  # a name has 255 bytes at most, but escaped ones more, whose begin says enough
_DOMAIN_WIDTH = 64
_COUNTRY_BYTES = 2
_SECOND_LEVEL = (
    *("ac", "asn", "biz", "co", "com", "ed", "edu", "firm", "gen", "go", "gob", "gov", "gouv"),
    *("gv", "id", "ind", "info", "lg", "ltd", "me", "mil", "ne", "net", "nhs", "nom", "or", "org"),
    *("plc", "sch", "web"),
)
_SECOND_LEVEL_NUMBERS = np.array(
    [int.from_bytes(label.encode(), "little") for label in _SECOND_LEVEL], np.uint64
)
_LABEL_BYTES = 4


@dataclass(frozen=True, slots=True)
class Names:
    """Some names of a column: which rows they are of, and their lower-case bytes, zero filled."""

    rows: NDArray[np.intp]
    under: NDArray[np.uint8]  # what stands in front of the domain
    domains: NDArray[np.uint8]

    def chosen(self, which: NDArray[np.bool_]) -> "Names":
        return Names(self.rows[which], self.under[which], self.domains[which])

    def entropies(self) -> Values:
        """Bits a byte of what stands in front of the domain, dots left out."""
        if not len(self.rows):
            return np.empty(0)
        count = len(self.rows)
        cells = self.under.astype(np.int64) + 256 * np.arange(count)[:, None]
        counts = np.bincount(cells.ravel(), minlength=256 * count).reshape(count, 256)
        counts = counts.astype(float)
        counts[:, (0, _DOT)] = 0
        totals = np.maximum(counts.sum(axis=1), 1)
        shares = counts / totals[:, None]
        logs = np.log2(shares, out=np.zeros_like(shares), where=shares > 0)
        return np.asarray(-(shares * logs).sum(axis=1))

    def name_keys(self, hash_: Hash) -> Keys:
        return hash_.of(*_words(self.under))

    def domain_keys(self, hash_: Hash) -> Keys:
        return hash_.of(*_words(self.domains))

    def domain(self, at: int) -> str:
        domain: bytes = self.domains[at].tobytes()
        return domain.rstrip(b"\0").decode(errors="backslashreplace")


def _words(octets: NDArray[np.uint8]) -> list[NDArray[np.uint64]]:
    words = np.ascontiguousarray(octets).view("<u8")
    return [words[:, one] for one in range(words.shape[1])]


def names_in(column: Text, is_wanted: NDArray[np.bool_], *, least_bytes: int) -> Names:
    """The names that are wanted and have *least_bytes* or more in front of their domain."""
    lengths = column.lengths.astype(np.int64)
    ends = np.cumsum(lengths)
    starts = ends - lengths
    content = column.content
    lower = np.where((content >= 65) & (content <= 90), content + 32, content).astype(np.uint8)
    domain_starts = _domain_starts(lower, lengths, starts, ends)
    is_long = domain_starts - 1 - starts >= least_bytes
    rows = np.flatnonzero(is_wanted & is_long & ~_is_reverse(lower, starts, ends))
    under = _cut(lower, starts[rows], domain_starts[rows] - 1, _WIDTH)
    domains = _cut(lower, domain_starts[rows], ends[rows], _DOMAIN_WIDTH)
    return Names(rows, under, domains)


def _domain_starts(content: NDArray[Any], lengths: Any, starts: Any, ends: Any) -> NDArray[Any]:
    """Where the registered domain of each name begins; at its own begin where it is all."""
    of_byte = np.repeat(np.arange(len(lengths)), lengths)
    is_dot = content == _DOT
    is_dot[1:] &= content[:-1] != _BACKSLASH
    dots = np.flatnonzero(is_dot)
    counts = np.bincount(of_byte[dots], minlength=len(lengths))
    after = np.cumsum(counts)

    def from_end(number: int) -> NDArray[Any]:
        """The place behind the dot that is so many from the end, or the begin of the name."""
        has = counts >= number
        at = np.where(has, after - number, 0)
        return np.where(has, dots[at] + 1, starts) if len(dots) else starts

    last, second, third = from_end(1), from_end(2), from_end(3)
    label = _cut(content, second, np.maximum(last - 1, second), _LABEL_BYTES * 2)
    is_suffix = np.isin(label.view("<u8")[:, 0], _SECOND_LEVEL_NUMBERS)
    is_suffix &= (ends - last == _COUNTRY_BYTES) & (counts >= 2)
    return np.where(is_suffix, third, second)


def _is_reverse(content: NDArray[Any], starts: Any, ends: Any) -> NDArray[np.bool_]:
    tails = _cut(content, np.maximum(ends - 5, starts), ends, 8)
    return np.asarray((tails[:, :5] == np.frombuffer(b".arpa", np.uint8)).all(axis=1))


def _cut(content: NDArray[Any], starts: Any, ends: Any, width: int) -> NDArray[np.uint8]:
    """The bytes from *starts* to *ends* as rows of *width*; what is longer loses its end."""
    places = starts[:, None] + np.arange(width)
    is_inside = places < ends[:, None]
    if not len(content):
        return np.zeros((len(starts), width), np.uint8)
    return np.where(is_inside, content[np.minimum(places, len(content) - 1)], 0).astype(np.uint8)
