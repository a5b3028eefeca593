# SPDX-License-Identifier: Apache-2.0
"""What a filter means of IP packets: a union of spaces, each a set of values in every dimension.

A filter is brought there in one pass.  A negation moves to the leaves; a leaf, or what it leaves
out, is one space or two; `or` puts unions together and `and` cuts each with each, dimension by
dimension.  What can hold nothing goes at once, and two that differ in one dimension become one, so
that `port 53 or port 80` makes two spaces, not four.

Columns say 0 where a protocol has no such field, and a filter may ask for 0: `not port 53` holds
for ICMP.  So what asks for ports, an ICMP type or TCP flags makes a space of the protocols that
have them and, if it holds for 0, another of all those that have not.
"""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from itertools import product
from typing import Any as Value
from typing import NamedTuple

from schemas.fields import DIRECTIONS
from schemas.filter.tree import (
    All,
    Any,
    Between,
    Filter,
    HasBits,
    Leaf,
    Like,
    Named,
    Not,
    Within,
    leaves,
)
from schemas.protocols import ICMP, ICMPV6, IPV4, IPV6, PROTOCOLS, WITH_PORTS
from schemas.rules.intervals import (
    ANYWHERE,
    IPV4_ALONE,
    Intervals,
    complement,
    covers,
    intersection,
    united,
)

IPV4_BIT, IPV6_BIT = 1, 2
INGRESS_BIT, EGRESS_BIT = 1, 2
# On the way to few spaces there may be more; whoever sends a rule may not make us work for long.
_MAX_UNDER_WAY = 128
_MAX_CUTS = 1024

Glob = tuple[str, bool]  # and whether the interface's name must match it, or must not


class MeaningError(ValueError):
    """A filter that cannot be asked in a rule; the text says why and what to write."""


def _all(count: int) -> int:
    return (1 << count) - 1


def _bits(numbers: Iterable[int]) -> int:
    return sum(1 << number for number in numbers)


def _bits_between(first: int, last: int) -> int:
    return _all(last - first + 1) << first


class Space(NamedTuple):
    """Packets whose value in each dimension is one of a set; sets of numbers are ints, as bits."""

    src: Intervals = ANYWHERE
    dst: Intervals = ANYWHERE
    versions: int = IPV4_BIT | IPV6_BIT
    protocols: int = _all(256)
    src_ports: int = _all(1 << 16)
    dst_ports: int = _all(1 << 16)
    icmp: int = _all(1 << 16)  # type << 8 | code
    flags: int = _all(256)  # values of the whole byte
    vlans: int = _all(4096)
    dscps: int = _all(64)
    directions: int = INGRESS_BIT | EGRESS_BIT
    interfaces: frozenset[Glob] = frozenset()


EVERYWHERE = Space()
_TCP = 1 << PROTOCOLS["tcp"]
_PORTED = _bits(WITH_PORTS)
_ICMPS = _bits((ICMP, ICMPV6))
# Dimension of a column, and the protocols that have such a field at all.
_DIMENSIONS = {
    "ethertype": ("versions", EVERYWHERE.protocols),
    "protocol": ("protocols", EVERYWHERE.protocols),
    "src_port": ("src_ports", _PORTED),
    "dst_port": ("dst_ports", _PORTED),
    "icmp_type": ("icmp", _ICMPS),
    "icmp_code": ("icmp", _ICMPS),
    "tcp_flags": ("flags", _TCP),
    "vlan": ("vlans", EVERYWHERE.protocols),
    "dscp": ("dscps", EVERYWHERE.protocols),
    "direction": ("directions", EVERYWHERE.protocols),
}
# Terms of filters that rules do not have, by column, and what does; a tree that asks for one of a
# tunnel's fields asks for the tunnel too.
_TUNNEL_ADVICE = (
    "rules ask of the packet that flows tell of, which of a tunnel is the one inside; use host, net"
    " or port"
)
_NOT_IN_RULES = {
    "inner_vlan": ("innervlan", "rules know the outer tag alone; use vlan"),
    "vni": ("vni", _TUNNEL_ADVICE),
    "outer_src_addr": ("outer", _TUNNEL_ADVICE),
    "outer_dst_addr": ("outer", _TUNNEL_ADVICE),
    "tunnel": ("tunnel", _TUNNEL_ADVICE),
}


def spaces_of(tree: Filter) -> list[Space]:
    """The spaces that *tree* means of IP packets; none if it means no such packet.

    Raises:
        MeaningError: it asks what rules cannot, or is too involved.
    """
    asked = {leaf.column for leaf in leaves(tree)}
    for column, (term, advice) in _NOT_IN_RULES.items():
        if column in asked:
            raise MeaningError(f"{term!r} cannot be asked in rules: {advice}")
    return merged([narrowed(space) for space in _spaces(tree, is_wanted=True)])


def _spaces(tree: Filter, *, is_wanted: bool) -> list[Space]:
    match tree:
        case Not(part):
            return _spaces(part, is_wanted=not is_wanted)
        case All(parts) | Any(parts):
            unions = [_spaces(part, is_wanted=is_wanted) for part in parts]
            if isinstance(tree, All) == is_wanted:
                return common(unions)
            return merged([space for union in unions for space in union])
        case _:
            return _leaf(tree, is_wanted=is_wanted)


def _leaf(leaf: Leaf, *, is_wanted: bool) -> list[Space]:
    match leaf:
        case Like("interface", glob):
            return [EVERYWHERE._replace(interfaces=frozenset({(glob, is_wanted)}))]
        case Within(column):
            side: Intervals = ((leaf.first, leaf.last),)
            chosen = side if is_wanted else complement(side)
            return [_with(column.removesuffix("_addr"), chosen)] if chosen else []
    if leaf.column not in _DIMENSIONS:
        raise MeaningError(f"{leaf.column!r} cannot be asked in rules: no packet has one")
    dimension, protocols = _DIMENSIONS[leaf.column]
    everything = getattr(EVERYWHERE, dimension)
    bits = _bits_of(leaf) & everything
    if not is_wanted:
        bits ^= everything
    found = [_with(dimension, bits)] if bits else []
    if protocols == EVERYWHERE.protocols:
        return found
    found = [space._replace(protocols=protocols) for space in found]
    if bits & 1:  # it holds for 0, which columns say where there is no such field
        found.append(_with("protocols", EVERYWHERE.protocols ^ protocols))
    return merged(found)


def _with(dimension: str, values: Value) -> Space:
    return EVERYWHERE._replace(**{dimension: values})


def _bits_of(leaf: Leaf) -> int:
    """The values for which the leaf holds, as a set of its dimension."""
    match leaf:
        case Named("direction", name):
            return 1 << (DIRECTIONS[name] - 1)
        case HasBits(_, bits):
            return _bits(number for number in range(256) if number & bits)
        case Between("ethertype", first, last):
            is_four, is_six = (first <= number <= last for number in (IPV4, IPV6))
            return IPV4_BIT * is_four | IPV6_BIT * is_six
        case Between("icmp_type", first, last):
            return _bits_between(first << 8, last << 8 | 255)
        case Between("icmp_code", first, last):
            return sum(_bits_between(first, last) << (number << 8) for number in range(256))
        case Between(_, first, last):
            return _bits_between(first, last)
        case _:
            raise MeaningError(f"{leaf.column!r} cannot be asked in rules: no packet has one")


def common(unions: Iterable[Sequence[Space]]) -> list[Space]:
    """What is in every one of *unions*.

    Raises:
        MeaningError: too many spaces.
    """
    found = [EVERYWHERE]
    for union in unions:
        if len(found) * len(union) > _MAX_CUTS:
            raise MeaningError("is too involved; split it into several rules")
        cuts = (cut(*pair) for pair in product(found, union))
        found = merged([space for space in cuts if space])
    return found


def cut(one: Space, other: Space) -> Space | None:
    """What both hold, or None if they share nothing."""
    numbers = (mine & its for mine, its in zip(one[2:-1], other[2:-1], strict=True))
    sides = (intersection(one.src, other.src), intersection(one.dst, other.dst))
    both = Space._make((*sides, *numbers, one.interfaces | other.interfaces))
    return both if all(both[:-1]) and _is_possible(both) else None


def _is_possible(space: Space) -> bool:
    """Whether there can be packets of its IP version, on an interface of that name."""
    if space.versions == IPV4_BIT:
        sides = (space.src, space.dst)
        if not all(intersection(side, IPV4_ALONE) for side in sides):
            return False
    plain = {
        glob for glob, is_wanted in space.interfaces if is_wanted and not set(glob) & set("*?")
    }
    if len(plain) > 1:
        return False
    if not plain:
        return not any((glob, not is_wanted) in space.interfaces for glob, is_wanted in space[-1])
    return are_met(space.interfaces, plain.pop())


def are_met(globs: Iterable[Glob], name: str) -> bool:
    """Whether the interface *name* is as all of *globs* want it."""
    return all(fnmatchcase(name, _escaped(glob)) is is_wanted for glob, is_wanted in globs)


def _escaped(glob: str) -> str:
    return glob.replace("[", "[[]")


def narrowed(space: Space) -> Space:
    """The same packets without addresses that those of its version cannot have."""
    if space.versions != IPV4_BIT:
        return space
    sides = (intersection(side, IPV4_ALONE) for side in (space.src, space.dst))
    src, dst = (ANYWHERE if side == IPV4_ALONE else side for side in sides)
    return space._replace(src=src, dst=dst)


def merged(spaces: Sequence[Space]) -> list[Space]:
    """The same packets in fewer spaces, where that is easily seen.

    Raises:
        MeaningError: too many are left.
    """
    found = list(dict.fromkeys(spaces))
    count = 0
    while len(found) > 1 and len(found) != count:
        count = len(found)
        for dimension in Space._fields[:-1]:
            found = _merged_in(found, dimension)
        if len(found) > _MAX_UNDER_WAY:
            raise MeaningError("is too involved; split it into several rules")
        found = _without_parts(found)
    return found


def _merged_in(spaces: list[Space], dimension: str) -> list[Space]:
    """Put those together that differ in this dimension alone."""
    everything = getattr(EVERYWHERE, dimension)
    alike: dict[Space, list[Space]] = {}
    for space in spaces:
        alike.setdefault(space._replace(**{dimension: everything}), []).append(space)
    if len(alike) == len(spaces):
        return spaces
    found = []
    for rest, group in alike.items():
        values = [getattr(space, dimension) for space in group]
        found.append(rest._replace(**{dimension: _union(values)}))
    return found


def _union(values: list[Value]) -> Value:
    if isinstance(values[0], int):
        whole = 0
        for value in values:
            whole |= value
        return whole
    return united(interval for value in values for interval in value)


def _without_parts(spaces: list[Space]) -> list[Space]:
    """Leave out what another holds too."""
    return [
        space
        for at, space in enumerate(spaces)
        if not any(_contains(other, space) for index, other in enumerate(spaces) if index != at)
    ]


def _contains(one: Space, other: Space) -> bool:
    # Most pairs differ in what is compared soonest: what is small, or the same object.
    numbers = zip(one[2:-1], other[2:-1], strict=True)
    return (
        one.interfaces <= other.interfaces
        and all(mine is its or mine & its == its for mine, its in reversed(list(numbers)))
        and covers(one.src, other.src)
        and covers(one.dst, other.dst)
    )
