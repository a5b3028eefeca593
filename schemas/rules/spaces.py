# SPDX-License-Identifier: Apache-2.0
"""Sets of packets: a space has a set of values in every dimension, and unions have several spaces.

Two spaces cut each other dimension by dimension.  What can hold nothing goes at once, and two that
differ in one dimension alone become one.
"""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from itertools import product
from typing import Any, NamedTuple

from schemas.rules.intervals import (
    ANYWHERE,
    IPV4_ALONE,
    Intervals,
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
    """What a rule cannot mean; the text says why and what to write."""


def _all(count: int) -> int:
    return (1 << count) - 1


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
    # Most are the same object in both; others than that are long to make.
    numbers = (
        mine if mine is its else mine & its
        for mine, its in zip(one[2:-1], other[2:-1], strict=True)
    )
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
    if len(spaces) < 2:  # to tell it from others takes longer than all the rest
        return list(spaces)
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


def _union(values: list[Any]) -> Any:
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
