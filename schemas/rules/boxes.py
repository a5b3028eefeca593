# SPDX-License-Identifier: Apache-2.0
"""A rule as the kernel's tables hold it: a union of boxes.

A box is a conjunction: in each dimension a set, and a packet is in the box if each of its values is
in the set.  Rules are about IP packets alone, so no box holds ARP or anything else that is not IP.
"""

from dataclasses import dataclass
from functools import cache, lru_cache

from schemas.rules.intervals import (
    ANYWHERE,
    Intervals,
    Network,
    Prefix,
    addresses_of,
    overlap,
    prefixes_of,
)
from schemas.rules.rule import Rule, meaning_of
from schemas.rules.spaces import EVERYWHERE, Glob, Space, cut, narrowed

ALL_PORTS = EVERYWHERE.src_ports
ALL_ICMP = EVERYWHERE.icmp
ALL_PROTOCOLS = EVERYWHERE.protocols
ALL_FLAGS = EVERYWHERE.flags
ALL_VLANS = EVERYWHERE.vlans
ALL_DSCPS = EVERYWHERE.dscps
ALL_VERSIONS = EVERYWHERE.versions
ALL_DIRECTIONS = EVERYWHERE.directions


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """Packets whose value in each dimension is one of a set; a set of numbers is an int, as bits.

    A box with a condition on ports holds protocols with ports alone, one on ICMP holds ICMP and
    ICMPv6 alone, one on flags TCP alone.
    """

    src: tuple[Prefix, ...] | None = None  # disjoint and sorted; None is any address
    dst: tuple[Prefix, ...] | None = None
    versions: int = ALL_VERSIONS  # bit 0 IPv4, bit 1 IPv6
    protocols: int = ALL_PROTOCOLS
    src_ports: int = ALL_PORTS
    dst_ports: int = ALL_PORTS
    icmp: int = ALL_ICMP  # bit type << 8 | code
    flags: int = ALL_FLAGS  # values of the whole byte
    vlans: int = ALL_VLANS
    dscps: int = ALL_DSCPS
    directions: int = ALL_DIRECTIONS  # bit 0 ingress, bit 1 egress
    interfaces: tuple[Glob, ...] = ()  # all of which must hold


def boxes_of(rule: Rule) -> tuple[Box, ...]:
    """The boxes that *rule* means, 16 at most; none if its lists and its match share nothing."""
    lists = EVERYWHERE._replace(
        src=addresses_of(rule.src) if rule.src else ANYWHERE,
        dst=addresses_of(rule.dst) if rule.dst else ANYWHERE,
    )
    cuts = [cut(space, lists) for space in meaning_of(rule.match)]
    return boxes_from([narrowed(space) for space in cuts if space])


def boxes_from(spaces: list[Space]) -> tuple[Box, ...]:
    """The boxes of *spaces*."""
    # Several share one long list.
    prefixes = cache(_prefixes_or_any)
    return tuple(
        Box(
            src=prefixes(space.src),
            dst=prefixes(space.dst),
            interfaces=tuple(sorted(space.interfaces)),
            **{name: _shared(getattr(space, name)) for name in Space._fields[2:-1]},
        )
        for space in spaces
    )


@lru_cache(maxsize=1024)
def _shared(numbers: int) -> int:
    """The same set as others have it: one has up to 8 KiB, and thousands of rules have the same."""
    return numbers


def _prefixes_or_any(addresses: Intervals) -> tuple[Prefix, ...] | None:
    return None if addresses == ANYWHERE else prefixes_of(addresses)


def sides_of(networks: tuple[Network, ...]) -> tuple[Prefix, ...]:
    """*networks* as one side of a box."""
    return prefixes_of(addresses_of(networks))


def is_shared(one: Box, other: Box) -> bool:
    """Whether a packet can be in both, whatever its interface is called."""
    numbers = Space._fields[2:-1]
    return (
        all(getattr(one, name) & getattr(other, name) for name in numbers)
        and sides_overlap(one.src, other.src)
        and sides_overlap(one.dst, other.dst)
    )


def sides_overlap(one: tuple[Prefix, ...] | None, other: tuple[Prefix, ...] | None) -> bool:
    """Whether an address is in both sides."""
    return one is None or other is None or overlap(one, other)
