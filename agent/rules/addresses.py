# SPDX-License-Identifier: Apache-2.0
"""What rules say of the addresses of one side, and where on the way through all addresses it changes.

What holds for a prefix holds for all prefixes in it, so they are laid over each other, the shortest
first.  IPv4 is apart, as it is looked up apart; what is around it holds for it too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from schemas.dtype import dtype_from_layout
from schemas.refusal import RULE_KNOWN
from schemas.rules.intervals import ADDRESS_BITS, Prefix

# IPv4 is mapped into ::ffff/96.
_MAPPED_BITS = 96
_MAPPED = 0xFFFF
_IPV4_BITS = 32
_IPV4_FIRST = _MAPPED << _IPV4_BITS
_IPV4_LAST = (1 << _IPV4_BITS) - 1
_WORD_BITS = 64
_WORD = (1 << _WORD_BITS) - 1
# An address, or what comes behind the last one, as bytes.
_KEY_BYTES = ADDRESS_BITS // 8 + 1
_KEY = f"S{_KEY_BYTES}"
_NO_RANK = 0xFFFF_FFFF


@dataclass(slots=True)
class Known:
    """What is known of *n* prefixes or runs of addresses: `boxes` (n, 2), `ranks` (n, 2).

    Ranks are those of the first rule that is enforced, and of the first that is observed; without
    one `_NO_RANK`.
    """

    boxes: NDArray[np.uint64]
    ranks: NDArray[np.uint32]

    @classmethod
    def of(cls, count: int, boxes: int = 0) -> Self:
        """The same boxes *count* times, and no rank."""
        return cls(np.tile(mask(boxes), (count, 1)), np.full((count, 2), _NO_RANK, np.uint32))

    def __len__(self) -> int:
        return len(self.boxes)

    def at(self, places: Any) -> "Known":
        return Known(self.boxes[places], self.ranks[places])

    def lay_over(self, places: NDArray[np.intp], other: "Known") -> None:
        """Have what *other* says hold at *places* too, each of which is named once."""
        self.boxes[places] |= other.boxes
        self.ranks[places] = np.minimum(self.ranks[places], other.ranks)

    def merged(self, firsts: NDArray[np.intp]) -> "Known":
        """One of all from each of *firsts* to the next."""
        if not len(firsts):
            return self
        return Known(
            np.bitwise_or.reduceat(self.boxes, firsts), np.minimum.reduceat(self.ranks, firsts)
        )

    def unique(self) -> tuple["Known", NDArray[np.intp]]:
        """Everything that is known once, and which of that is known of each."""
        columns = np.column_stack([self.boxes, self.ranks.view(np.uint64)])
        order = np.lexsort(columns.T)
        is_other = np.ones(len(order), bool)
        is_other[1:] = (columns[order[1:]] != columns[order[:-1]]).any(axis=1)
        places = np.empty(len(order), np.intp)
        places[order] = np.cumsum(is_other) - 1
        return self.at(order[is_other]), places

    def rows(self) -> NDArray[np.void]:
        """The same as the kernel has it, (n,) of RULE_KNOWN."""
        rows = np.zeros(len(self), dtype_from_layout(RULE_KNOWN))
        rows["boxes"] = np.ascontiguousarray(self.boxes).view("V16")[:, 0]
        ranks = np.where(self.ranks == _NO_RANK, 0, self.ranks)
        rows["enforced"], rows["observed"] = ranks.T
        return rows


def mask(boxes: int) -> NDArray[np.uint64]:
    """Bits of boxes as two words."""
    return np.array([boxes & _WORD, boxes >> _WORD_BITS & _WORD], np.uint64)


@dataclass(frozen=True, slots=True)
class Addresses:
    """What is known of the addresses of one side.

    Of IPv4 it changes at each of `starts`, (n,), the first of which is 0.  Of IPv6 there are
    prefixes: `firsts` (m,) of 16 bytes, `lengths` (m,); what they do not cover is as `elsewhere`.
    """

    starts: NDArray[np.uint64]
    ipv4: Known
    firsts: NDArray[np.void]
    lengths: NDArray[np.uint32]
    ipv6: Known
    elsewhere: Known


class Side:
    """The prefixes of one side, as boxes and rules ask for them."""

    def __init__(self) -> None:
        self._any = 0
        self._prefixes: list[Prefix] = []
        # By what asks for so many of them: the bit of a box, or a rank of either kind.
        self._counts: list[int] = []
        self._boxes: list[int] = []
        self._ranks: list[tuple[int, int]] = []

    def accept_any(self, number: int) -> None:
        self._any |= 1 << number

    def accept(self, prefixes: Sequence[Prefix], number: int) -> None:
        self._add(prefixes, 1 << number, (_NO_RANK, _NO_RANK))

    def stand(self, prefixes: Sequence[Prefix], rank: int, *, is_observed: bool) -> None:
        self._add(prefixes, 0, (_NO_RANK, rank) if is_observed else (rank, _NO_RANK))

    def _add(self, prefixes: Sequence[Prefix], boxes: int, ranks: tuple[int, int]) -> None:
        self._prefixes += prefixes
        self._counts.append(len(prefixes))
        self._boxes.append(boxes)
        self._ranks.append(ranks)

    def addresses(self) -> Addresses:
        is_ipv4 = np.array([_is_ipv4(*prefix) for prefix in self._prefixes], bool)
        ipv4 = list(compress(self._prefixes, is_ipv4))
        ipv6 = list(compress(self._prefixes, ~is_ipv4))
        known, elsewhere = self._asked(), Known.of(1, self._any)
        above = _laid(*_spans_of_ipv6(ipv6), _lengths(ipv6), known.at(~is_ipv4), elsewhere)
        around = np.searchsorted(above.edges, _key(_IPV4_FIRST), "right") - 1
        below = _laid(
            *_spans_of_ipv4(ipv4), _lengths(ipv4), known.at(is_ipv4), above.runs.at([around])
        )
        # Without the byte that only what comes behind the last address needs.
        firsts = above.firsts.view(np.uint8).reshape(-1, _KEY_BYTES)[:, 1:]
        return Addresses(
            starts=below.edges,
            ipv4=below.runs,
            firsts=np.ascontiguousarray(firsts).view("V16").reshape(-1),
            lengths=above.lengths,
            ipv6=above.known,
            elsewhere=elsewhere,
        )

    def _asked(self) -> Known:
        """What is asked of each prefix, in the order in which they were added."""
        words = [(boxes & _WORD, boxes >> _WORD_BITS) for boxes in self._boxes]
        boxes = np.array(words, np.uint64).reshape(-1, 2)
        ranks = np.array(self._ranks, np.uint32).reshape(-1, 2)
        return Known(np.repeat(boxes, self._counts, 0), np.repeat(ranks, self._counts, 0))


@dataclass(frozen=True, slots=True)
class _Laid:
    """Prefixes, each of them once, with what holds in them; and all addresses, cut at `edges`."""

    firsts: NDArray[Any]
    lengths: NDArray[np.uint32]
    known: Known
    edges: NDArray[Any]
    runs: Known


def _laid(
    firsts: NDArray[Any],
    ends: NDArray[Any],
    lengths: NDArray[np.uint32],
    known: Known,
    around: Known,
) -> _Laid:
    """Lay prefixes over each other, and all of them over what is known around them.

    The last of *ends* is that of all addresses, and the last of *firsts* the first one.
    """
    beyond = ends[-1]
    edges = np.sort(np.concatenate([firsts, ends]))
    edges = edges[np.append(edges[1:] != edges[:-1], True) & (edges != beyond)]
    runs = around.at(np.zeros(len(edges), np.intp))
    begins = np.searchsorted(edges, firsts[:-1])
    ends_at = np.searchsorted(edges, ends[:-1])
    order = np.lexsort((begins, lengths))
    known = known.at(order)
    lengths, begins, ends_at = lengths[order], begins[order], ends_at[order]
    # One may be asked for several times.
    is_first = np.ones(len(order), bool)
    is_first[1:] = (lengths[1:] != lengths[:-1]) | (begins[1:] != begins[:-1])
    places = np.flatnonzero(is_first)
    known = known.merged(places)
    lengths, begins, ends_at = lengths[places], begins[places], ends_at[places]
    for length in np.unique(lengths):
        low, high = np.searchsorted(lengths, [length, length + 1])
        counts = ends_at[low:high] - begins[low:high]
        owners = np.repeat(np.arange(low, high), counts)
        within = np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)
        runs.lay_over(begins[owners] + within, known.at(owners))
        known.lay_over(np.arange(low, high), runs.at(begins[low:high]))
    return _Laid(edges[begins], lengths, known, edges, runs)


def _lengths(prefixes: Sequence[Prefix]) -> NDArray[np.uint32]:
    return np.array([length for _, length in prefixes], np.uint32)


def _spans_of_ipv4(prefixes: Sequence[Prefix]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Where prefixes begin and end, and all of IPv4 does."""
    begins = np.array([first & _IPV4_LAST for first, _ in prefixes] + [0], np.uint64)
    sizes = np.append(ADDRESS_BITS - _lengths(prefixes), _IPV4_BITS).astype(np.uint64)
    return begins, begins + (np.uint64(1) << sizes)


def _spans_of_ipv6(prefixes: Sequence[Prefix]) -> tuple[NDArray[np.bytes_], NDArray[np.bytes_]]:
    """Where prefixes begin and end, and all addresses do; as bytes, which compare as numbers do."""
    all_of_them = [*prefixes, (0, 0)]
    firsts = b"".join(first.to_bytes(_KEY_BYTES, "big") for first, _ in all_of_them)
    ends = b"".join(
        (first + (1 << ADDRESS_BITS - length)).to_bytes(_KEY_BYTES, "big")
        for first, length in all_of_them
    )
    return np.frombuffer(firsts, _KEY), np.frombuffer(ends, _KEY)


def _key(address: int) -> np.bytes_:
    return np.bytes_(address.to_bytes(_KEY_BYTES, "big"))


def _is_ipv4(first: int, length: int) -> bool:
    return length >= _MAPPED_BITS and first >> _IPV4_BITS == _MAPPED
