# SPDX-License-Identifier: Apache-2.0
"""What a filter means: a tree of claims about columns.

The grammar knows dozens of words, the tree seven kinds of node, so that each of its forms (SQL
over rows, C over packets) has little to translate.  A column is named as in the table `flows`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

_IPV4_IN_IPV6 = 0xFFFF << 32
_ALL_BITS = (1 << 128) - 1


@dataclass(frozen=True, slots=True)
class Between:
    """A number from *first* to *last*, both included."""

    column: str
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Within:
    """An address of a network.

    Columns hold IPv4 mapped, so ::/0 covers what an IPv4 network does: who means one version asks
    for its ethertype as well.
    """

    column: str
    network: IPv4Network | IPv6Network

    @property
    def first(self) -> int:
        """The first address, mapped."""
        start = int(self.network.network_address)
        return start | _IPV4_IN_IPV6 if self.network.version == 4 else start

    @property
    def mask(self) -> int:
        """The bits of a mapped address that the network fixes."""
        free_bits = self.network.max_prefixlen - self.network.prefixlen
        return _ALL_BITS >> free_bits << free_bits

    @property
    def last(self) -> int:
        """The last address, mapped."""
        return self.first | (_ALL_BITS ^ self.mask)


@dataclass(frozen=True, slots=True)
class Named:
    """The value *name* of a column that has names for its values."""

    column: str
    name: str


@dataclass(frozen=True, slots=True)
class Like:
    """A text that matches a glob, in which * stands for any characters and ? for one."""

    column: str
    glob: str


@dataclass(frozen=True, slots=True)
class HasBits:
    """A number in which at least one of these bits is set."""

    column: str
    bits: int


@dataclass(frozen=True, slots=True)
class Not:
    """The part does not hold."""

    part: "Filter"


@dataclass(frozen=True, slots=True)
class All:
    """Every part holds; without parts, anything does."""

    parts: tuple["Filter", ...] = ()


@dataclass(frozen=True, slots=True)
class Any:
    """At least one part holds; without parts, nothing does."""

    parts: tuple["Filter", ...]


Leaf = Between | Within | Named | Like | HasBits
Filter = Leaf | Not | All | Any
EVERYTHING = All()


def leaves(tree: Filter) -> Iterator[Leaf]:
    """Every claim in the tree, from left to right."""
    match tree:
        case Not(part):
            yield from leaves(part)
        case All(parts) | Any(parts):
            for part in parts:
                yield from leaves(part)
        case _:
            yield tree


def both(*parts: Filter) -> Filter:
    """All of *parts*, without a node that says nothing."""
    told = tuple(part for part in parts if part != EVERYTHING)
    return told[0] if len(told) == 1 else All(told)


def either(column: Callable[[str], Filter]) -> Filter:
    """What *column* makes of `src`, or what it makes of `dst`."""
    return Any((column("src"), column("dst")))
