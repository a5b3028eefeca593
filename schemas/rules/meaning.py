# SPDX-License-Identifier: Apache-2.0
"""What a filter means of IP packets: a union of spaces, found in one pass over its tree.

A negation moves to the leaves; a leaf, or what it leaves out, is one space or two; `or` puts unions
together and `and` cuts each with each.  So `port 53 or port 80` makes two spaces, not four.

Columns say 0 where a protocol has no such field, and a filter may ask for 0: `not port 53` holds
for ICMP.  So what asks for ports, an ICMP type or TCP flags makes a space of the protocols that
have them and, if it holds for 0, another of all those that have not.
"""

import re
from collections.abc import Iterable
from socket import inet_aton
from typing import Any as Value

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
from schemas.rules.intervals import Intervals, complement
from schemas.rules.spaces import (
    EVERYWHERE,
    IPV4_BIT,
    IPV6_BIT,
    MeaningError,
    Space,
    common,
    merged,
    narrowed,
)


def _bits(numbers: Iterable[int]) -> int:
    return sum(1 << number for number in numbers)


def _bits_between(first: int, last: int) -> int:
    return ((1 << (last - first + 1)) - 1) << first


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
_IPV4_FIRST = 0xFFFF << 32
_OCTET = r"(?:0|[1-9][0-9]{0,2})"
_PLAIN = re.compile(
    rf"(src|dst) (?:host (?!.*/)|net )({_OCTET}\.{_OCTET}\.{_OCTET}\.{_OCTET})(?:/([1-9][0-9]?))?"
)
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


def plain_space(match: str) -> Space | None:
    """The space of what most rules are about, one address or network of IPv4; None: it is another.

    The same as the filter's grammar makes of it, in a tenth of the time.
    """
    found = _PLAIN.fullmatch(match)
    if found is None:
        return None
    side, address, bits = found.groups()
    try:
        packed = inet_aton(address)
    except OSError:
        return None
    length = int(bits) if bits else 32
    if not 0 < length <= 32:
        return None
    first = _IPV4_FIRST | int.from_bytes(packed, "big") >> 32 - length << 32 - length
    last = first | (1 << 32 - length) - 1
    return _with(side, ((first, last),))._replace(versions=IPV4_BIT)


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
