# SPDX-License-Identifier: Apache-2.0
"""Sets of addresses: intervals over 128 bits, with IPv4 mapped into ::ffff:0:0/96.

A set is a tuple of (first, last), both included, sorted, with a gap between any two.  What tables
in the kernel hold are prefixes, which a set becomes at the very end.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network, IPv6Network

Interval = tuple[int, int]
Intervals = tuple[Interval, ...]
# First address and length in bits of a mapped network: an IPv4 /24 has 120.
Prefix = tuple[int, int]
Network = IPv4Network | IPv6Network

ADDRESS_BITS = 128
ANYWHERE: Intervals = ((0, (1 << ADDRESS_BITS) - 1),)
_IPV4_FIRST = 0xFFFF << 32
IPV4_ALONE: Intervals = ((_IPV4_FIRST, _IPV4_FIRST | 0xFFFF_FFFF),)


def prefix_of(network: Network) -> Prefix:
    """A network as mapped addresses have it."""
    first = int(network.network_address)
    if network.version == 4:
        return _IPV4_FIRST | first, network.prefixlen + 96
    return first, network.prefixlen


def last_of(prefix: Prefix) -> int:
    """The last address of a prefix."""
    first, length = prefix
    return first | ((1 << (ADDRESS_BITS - length)) - 1)


def addresses_of(networks: Iterable[Network]) -> Intervals:
    """The addresses of *networks*; those of IPv6 leave out where IPv4 is mapped to."""
    sets: dict[int, list[Interval]] = {4: [], 6: []}
    for network in networks:
        prefix = prefix_of(network)
        sets[network.version].append((prefix[0], last_of(prefix)))
    beyond = intersection(united(sets[6]), complement(IPV4_ALONE))
    return united([*sets[4], *beyond])


def united(intervals: Iterable[Interval]) -> Intervals:
    """The set of what any of *intervals* holds; they may overlap and stand in any order."""
    found: list[Interval] = []
    for first, last in sorted(intervals):
        if found and first <= found[-1][1] + 1:
            if last > found[-1][1]:
                found[-1] = found[-1][0], last
        else:
            found.append((first, last))
    return tuple(found)


def intersection(one: Intervals, other: Intervals) -> Intervals:
    """What both hold."""
    if one == ANYWHERE:
        return other
    if other == ANYWHERE:
        return one
    if len(one) > len(other):
        one, other = other, one
    found = []
    for first, last in one:
        # The first of the others that may reach into this one; they are as sorted by their ends.
        at = bisect_right(other, first, key=_first)
        at -= at > 0 and other[at - 1][1] >= first
        while at < len(other) and other[at][0] <= last:
            found.append((max(first, other[at][0]), min(last, other[at][1])))
            at += 1
    return tuple(found)


def complement(one: Intervals) -> Intervals:
    """Every address that it does not hold."""
    found = []
    start = 0
    for first, last in one:
        if first > start:
            found.append((start, first - 1))
        start = last + 1
    if start >> ADDRESS_BITS == 0:
        found.append((start, ANYWHERE[0][1]))
    return tuple(found)


def covers(one: Intervals, other: Intervals) -> bool:
    """Whether *one* holds all of *other*."""
    return one == ANYWHERE or intersection(one, other) == other


def prefixes_of(one: Intervals) -> tuple[Prefix, ...]:
    """The fewest prefixes that hold the same, sorted and disjoint."""
    return tuple(prefix for interval in one for prefix in _prefixes(*interval))


def _prefixes(first: int, last: int) -> Iterator[Prefix]:
    while first <= last:
        # As large as where it begins lets it be, and as what is left.
        aligned = (first & -first).bit_length() - 1 if first else ADDRESS_BITS
        free_bits = min(aligned, (last - first + 1).bit_length() - 1)
        yield first, ADDRESS_BITS - free_bits
        first += 1 << free_bits


def is_within(address: int, prefixes: tuple[Prefix, ...]) -> bool:
    """Whether one of disjoint, sorted *prefixes* holds the mapped *address*."""
    at = bisect_right(prefixes, address, key=_first)
    return at > 0 and address <= last_of(prefixes[at - 1])


def overlap(one: tuple[Prefix, ...], other: tuple[Prefix, ...]) -> bool:
    """Whether an address is in both of two sets of disjoint, sorted prefixes."""
    if len(one) > len(other):
        one, other = other, one
    for prefix in one:
        at = bisect_right(other, last_of(prefix), key=_first)
        if at > 0 and last_of(other[at - 1]) >= prefix[0]:
            return True
    return False


def _first(pair: tuple[int, int]) -> int:
    return pair[0]
