# SPDX-License-Identifier: Apache-2.0
"""The terms of the filter language: what each is called, takes and means.

The parser, the error that lists what is allowed, and the reference page all read TERMS.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Network, IPv6Network

from schemas.fields import DIRECTIONS, TUNNELS
from schemas.filter import values
from schemas.filter.cursor import Cursor
from schemas.filter.tree import Any, Between, Filter, HasBits, Like, Named, Not, Within, both
from schemas.filter.words import fault
from schemas.protocols import ETHERTYPES, ICMP, ICMPV6, IPV4, IPV6, PROTOCOLS, WITH_PORTS

_SIDES = ("src", "dst")
_PORTS = ("port", "portrange")
_PLACES = ("host", "net", *_PORTS)
_CONTAINER_DIGITS = 64


@dataclass(frozen=True, slots=True)
class Term:
    """One term: the word it begins with, how it is written, and what it claims."""

    key: str
    form: str
    doc: str
    example: str
    read: Callable[[Cursor], Filter]
    # A packet does not know everything that a row of the history does.
    only_flows: bool = False


def is_equal(column: str, number: int) -> Filter:
    return Between(column, number, number)


def is_one_of(column: str, numbers: Iterable[int]) -> Filter:
    return Any(tuple(is_equal(column, number) for number in numbers))


def within(network: IPv4Network | IPv6Network, sides: tuple[str, str, str]) -> Filter:
    """Packets of the network's own IP version, one side or both of which are in it."""
    ethertype = IPV4 if network.version == 4 else IPV6
    claim = _sided(lambda side: Within(f"{side}_addr", network), sides)
    return both(is_equal("ethertype", ethertype), claim)


def on_ports(ports: tuple[int, int], sides: tuple[str, str, str]) -> Filter:
    """Packets of a protocol with ports, one of which, or both, are among *ports*."""
    claim = _sided(lambda side: Between(f"{side}_port", *ports), sides)
    # The columns hold 0 where there are no ports.
    return claim if ports[0] else both(is_one_of("protocol", WITH_PORTS), claim)


EITHER = ("src", "or", "dst")


def _sided(claim: Callable[[str], Filter], sides: tuple[str, str, str]) -> Filter:
    first, joint, second = sides
    if not second:
        return claim(first)
    parts = (claim(first), claim(second))
    return both(*parts) if joint == "and" else Any(parts)


def _read_sides(cursor: Cursor) -> tuple[str, str, str]:
    """`src`, `dst`, `src or dst`, `src and dst`; nothing stands for the third."""
    first = cursor.takes(*_SIDES)
    if not first:
        return EITHER
    other = "dst" if first == "src" else "src"
    for joint in ("or", "and"):
        # `src or dst port 53` goes on with a place; `src 10.0.0.1 or ...` does not get here.
        if cursor.looks_ahead(joint, other):
            cursor.at += 2
            return first, joint, other
    return first, "", ""


def _place(cursor: Cursor, *, allowed: tuple[str, ...] = _PLACES) -> Filter:
    """`[src|dst] host|net|port ...`; without the word in the middle, an address or CIDR."""
    sides = _read_sides(cursor)
    is_bare = cursor.key not in _PLACES and "net" in allowed and _looks_like_address(cursor)
    if cursor.key not in allowed and not is_bare:
        raise fault(cursor.next, "cannot stand here", allowed)
    place = cursor.takes(*_PLACES)
    if place in _PORTS:
        claim = partial(on_ports, sides=sides)
        return cursor.values(values.ports_in, claim, expected="443 or 8000-8100")
    read = values.address_in if place == "host" else values.network_in
    return cursor.values(read, partial(within, sides=sides), expected="an address")


def _looks_like_address(cursor: Cursor) -> bool:
    return bool(cursor.next) and term_of(cursor.key) is None


def _protocol(cursor: Cursor, *, name: str) -> Filter:
    """`tcp`, or `tcp [src|dst] port ...`."""
    number = values.protocol_in(name)
    claim = is_equal("protocol", number)
    if cursor.key not in (*_SIDES, *_PLACES):
        return claim
    if number not in WITH_PORTS:
        raise fault(cursor.next, f"cannot follow {name}", f"{name} and {cursor.key}")
    return _all_of(claim, cursor, _place(cursor, allowed=_PORTS))


def _ethertype(cursor: Cursor, *, name: str) -> Filter:
    """`ip`, `ip [src|dst] host|net ...`, `ip proto ...`; of others the name alone."""
    claim = is_equal("ethertype", ETHERTYPES[name])
    if name not in ("ip", "ip6"):
        return claim
    if cursor.takes("proto"):
        return _all_of(claim, cursor, _proto(cursor))
    if cursor.key in (*_SIDES, *_PLACES):
        return _all_of(claim, cursor, _place(cursor))
    return claim


def _all_of(claim: Filter, cursor: Cursor, rest: Filter) -> Filter:
    # What stands before a value holds for the values after it too: `tcp port 80 or 443`.
    meaning = cursor.meaning
    if meaning is not None:
        cursor.meaning = lambda word: both(claim, meaning(word))
    return both(claim, rest)


def _proto(cursor: Cursor) -> Filter:
    return cursor.values(values.protocol_in, partial(is_equal, "protocol"), expected="a protocol")


def _ethertype_value(cursor: Cursor) -> Filter:
    return cursor.values(
        values.ethertype_in, partial(is_equal, "ethertype"), expected="an ethertype"
    )


def _ether(cursor: Cursor) -> Filter:
    cursor.require(("proto",), "cannot follow ether")
    return _ethertype_value(cursor)


def _number(cursor: Cursor, *, column: str, limit: int, guard: Filter | None = None) -> Filter:
    def claim(number: int) -> Filter:
        found = is_equal(column, number)
        return both(guard, found) if guard else found

    return cursor.values(partial(values.number_in, limit=limit), claim, expected=f"0 to {limit}")


def _vlan(cursor: Cursor, *, column: str) -> Filter:
    if cursor.next and cursor.next.text.isdigit():
        return _number(cursor, column=column, limit=4095)
    return Between(column, 1, 4095)


def _tunnel(cursor: Cursor) -> Filter:
    kind = cursor.takes(*(name for name in TUNNELS if name != "none"))
    return Named("tunnel", kind) if kind else _IS_TUNNELLED


def _outer(cursor: Cursor) -> Filter:
    """`outer [src|dst] host|net ...`: the addresses of the tunnel itself."""
    sides = _read_sides(cursor)
    cursor.require(("host", "net"), "cannot follow outer")

    def claim(network: IPv4Network | IPv6Network) -> Filter:
        # Nothing tells the version of the outer packet but its addresses.
        own = () if network.version == 4 else (Not(Within(f"outer_{sides[0]}_addr", _MAPPED)),)
        sided = _sided(lambda side: Within(f"outer_{side}_addr", network), sides)
        return both(_IS_TUNNELLED, *own, sided)

    return cursor.values(values.network_in, claim, expected="an address")


def _flag(cursor: Cursor) -> Filter:
    return cursor.values(values.flag_in, partial(HasBits, "tcp_flags"), expected="a TCP flag")


def _glob(cursor: Cursor, *, column: str) -> Filter:
    return cursor.values(str, partial(Like, column), expected="a name, with * and ?")


def owned_by(process: str) -> Filter:
    """Rows of the process of that number, or of those that are called so."""
    if process.isdecimal() and process.isascii():
        return is_equal("pid", values.number_in(process, limit=0xFFFFFFFF))
    return Like("command", process)


def in_container(id_: str) -> Filter:
    """Rows of the container whose id begins so, as short ids do."""
    is_short = len(id_) < _CONTAINER_DIGITS and not set(id_) & set("*?")
    return Like("container", f"{id_}*" if is_short else id_)


def _process(cursor: Cursor) -> Filter:
    return cursor.values(str, owned_by, expected="a process by name or number")


def _container(cursor: Cursor) -> Filter:
    return cursor.values(str, in_container, expected="the id of a container, or its beginning")


def _direction(_: Cursor, *, name: str) -> Filter:
    return Named("direction", name)


_IS_TUNNELLED = Not(Named("tunnel", "none"))
_MAPPED = IPv6Network("::ffff:0:0/96")
_IS_IP = is_one_of("ethertype", (IPV4, IPV6))
_IS_ICMP = is_one_of("protocol", (ICMP, ICMPV6))


def _back(read: Callable[[Cursor], Filter]) -> Callable[[Cursor], Filter]:
    """For terms whose first word is read again by what they share with others."""

    def read_again(cursor: Cursor) -> Filter:
        cursor.at -= 1
        return read(cursor)

    return read_again


def _named(term: Callable[..., Filter], key: str, name: str, doc: str) -> Term:
    return Term(key, key, doc, key, partial(term, name=name))


TERMS = (
    Term(
        *("host", "[src|dst] host ADDR", "the address of one side, or of the side named"),
        *("src host 10.0.0.7", _back(_place)),
    ),
    Term(
        *("net", "[src|dst] net CIDR", "a network of one side, or of the side named"),
        *("net 2001:db8::/32", _back(_place)),
    ),
    Term(
        *("port", "[src|dst] port N", "a port of one side; also a range, as `8000-8100`"),
        *("dst port 53", _back(_place)),
    ),
    Term(
        *("portrange", "[src|dst] portrange A-B", "the same as `port`"),
        *("portrange 8000-8100", _back(_place)),
    ),
    Term(
        *("src", "src ADDR", "an address or CIDR, without `host` or `net`"),
        *("src 10.0.0.0/8", _back(_place)),
    ),
    Term(
        *("dst", "dst ADDR", "likewise; `src or dst`, `src and dst` may stand before a place"),
        *("src and dst net 10.0.0.0/8", _back(_place)),
    ),
    *(
        Term(
            *(name, f"{name} [[src|dst] port N]", f"protocol {number}, and its ports"),
            *(f"{name} port 443", partial(_protocol, name=name)),
        )
        for name, number in PROTOCOLS.items()
        if number in WITH_PORTS
    ),
    *(
        _named(_protocol, name, name, f"protocol {number}")
        for name, number in PROTOCOLS.items()
        if number not in WITH_PORTS
    ),
    _named(_protocol, "icmp6", "icmpv6", "the same as `icmpv6`, as tcpdump calls it"),
    Term(
        *("proto", "proto NAME", "an IP protocol by name or number, behind extension headers"),
        *("proto 47", _proto),
    ),
    *(
        Term(
            *(name, f"{name} [proto P | [src|dst] host|net ...]", f"ethertype 0x{number:04x}"),
            *(f"{name} proto 17", partial(_ethertype, name=name)),
        )
        if name in ("ip", "ip6")
        else _named(_ethertype, name, name, f"ethertype 0x{number:04x}")
        for name, number in ETHERTYPES.items()
    ),
    Term(
        *("ethertype", "ethertype N", "an ethertype by name or number, behind VLAN tags"),
        *("ethertype 0x88cc", _ethertype_value),
    ),
    Term("ether", "ether proto N", "the same as `ethertype`", "ether proto 0x88cc", _ether),
    Term(
        *("vlan", "vlan [ID]", "the outer VLAN tag's id; without one, any but 0"),
        *("vlan 12", partial(_vlan, column="vlan")),
    ),
    Term(
        *("innervlan", "innervlan [ID]", "likewise of the second tag (QinQ)"),
        *("innervlan 100", partial(_vlan, column="inner_vlan")),
    ),
    Term(
        *("tunnel", "tunnel [KIND]", f"in a tunnel; KIND is {', '.join(list(TUNNELS)[1:])}"),
        *("tunnel vxlan", _tunnel),
    ),
    Term(
        *("vni", "vni N", "in a tunnel of that network id (VXLAN, GENEVE) or key (GRE)", "vni 7"),
        partial(_number, column="vni", limit=0xFFFFFFFF, guard=_IS_TUNNELLED),
    ),
    Term(
        *("outer", "outer [src|dst] host|net ...", "an address of the tunnel itself"),
        *("outer src host 192.0.2.1", _outer),
    ),
    Term(
        *("dscp", "dscp N", "IP packets of that differentiated services code point", "dscp 46"),
        partial(_number, column="dscp", limit=63, guard=_IS_IP),
    ),
    Term(
        *("icmptype", "icmptype N", "ICMP or ICMPv6 of that type", "icmptype 8"),
        partial(_number, column="icmp_type", limit=255, guard=_IS_ICMP),
    ),
    Term(
        *("icmpcode", "icmpcode N", "ICMP or ICMPv6 of that code", "icmpcode 3"),
        partial(_number, column="icmp_code", limit=255, guard=_IS_ICMP),
    ),
    Term(
        *("flag", "flag NAME", "a TCP flag is set; of a flow, in some packet"),
        *("flag (syn or rst)", _flag),
    ),
    Term(
        *("interface", "interface GLOB", "the interface's name, with `*` and `?`"),
        *("interface veth*", partial(_glob, column="interface")),
    ),
    *(
        _named(_direction, name, name, f"{verb} by the interface")
        for name, verb in zip(DIRECTIONS, ("received", "sent"), strict=True)
    ),
    *(
        Term(key, f"{key} GLOB", doc, example, partial(_glob, column=column), only_flows=True)
        for key, column, doc, example in (
            ("node", "node", "the node, as its agent calls it", "node web-*"),
            ("cgroup", "cgroup", "the path of its cgroup", "cgroup /user.slice/*"),
        )
    ),
    *(
        Term(
            *(key, f"{key} N", doc, f"{key} 33", partial(_number, column=key, limit=0xFFFFFFFF)),
            only_flows=True,
        )
        for key, doc in (("pid", "the number of the process"), ("uid", "the user who has it"))
    ),
    Term(
        *("process", "process NAME|N", "the process, by its command with `*` and `?`, or number"),
        *("process nginx", _process),
        only_flows=True,
    ),
    Term(
        *("unit", "unit GLOB", "the systemd unit of the process", "unit nginx.service"),
        partial(_glob, column="unit"),
        only_flows=True,
    ),
    Term(
        *("container", "container ID", "the container, by its id or the beginning of it"),
        *("container 4f66ad9a0b2e", _container),
        only_flows=True,
    ),
)
_BY_KEY = {term.key: term for term in TERMS}


def term_of(key: str) -> Term | None:
    """The term that begins with this word."""
    return _BY_KEY.get(key)
