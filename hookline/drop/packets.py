# SPDX-License-Identifier: Apache-2.0
"""A packet in words, as `hookline drop explain` takes and prints it.

tcp 10.0.0.1:1234 > 10.0.0.2:80 flags syn,ack vlan 12 on eth0 ingress
udp [2001:db8::1]:53 > [2001:db8::2]:4000
icmp 10.0.0.1 > 10.0.0.2 type 8 code 0
"""

import re
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address
from typing import Any

from hookline import words
from schemas.fields import DIRECTIONS
from schemas.filter.values import ReadError, flag_in, number_in, protocol_in
from schemas.protocols import ICMP, ICMPV6, PROTOCOLS, TCP_FLAGS, WITH_PORTS
from schemas.rules.decide import Packet
from schemas.rules.intervals import prefix_of
from schemas.rules.rule import RuleError, network_in

_EXAMPLE = "tcp 10.0.0.1:1234 > 10.0.0.2:80 flags syn on eth0 ingress"
_END = re.compile(
    r"\[([0-9A-Fa-f:.]+)\](?::(\d{1,5}))?|([0-9.]+)(?::(\d{1,5}))?|([0-9A-Fa-f:]+)", re.ASCII
)


def packet_in(text: str) -> Packet:
    """The packet that *text* says.

    Raises:
        RuleError: it says none.
    """
    said = text.split()
    if len(said) < 4 or said[2] != ">":
        raise RuleError(f"{text!r} is no packet; write {_EXAMPLE}")
    protocol = _read(protocol_in, said[0])
    ends = [_end(word, has_ports=protocol in WITH_PORTS) for word in (said[1], said[3])]
    versions = {version for _, _, version in ends}
    if len(versions) > 1:
        raise RuleError(f"{said[1]!r} and {said[3]!r} are of two IP versions; write two of one")
    return Packet(
        src_addr=ends[0][0],
        dst_addr=ends[1][0],
        src_port=ends[0][1],
        dst_port=ends[1][1],
        protocol=protocol,
        version=versions.pop(),
        **{"interface": "", **_further(said[4:], protocol)},
    )


def _end(word: str, *, has_ports: bool) -> tuple[int, int, int]:
    """Mapped address, port and IP version of one end."""
    found = _END.fullmatch(word)
    if found is None:
        raise RuleError(f"{word!r} is no end of a packet; write 10.0.0.1:80 or [2001:db8::1]:80")
    six, six_port, four, four_port, bare = found.groups()
    try:
        address = ip_address(six or four or bare)
    except ValueError:
        raise RuleError(
            f"{word!r} holds no address; write 10.0.0.1:80 or [2001:db8::1]:80"
        ) from None
    port = six_port or four_port
    if (port is not None) != has_ports:
        fix = "one, as 10.0.0.1:80" if has_ports else "the address alone"
        raise RuleError(f"{word!r} {'lacks a port' if has_ports else 'has a port'}; write {fix}")
    if int(port or 0) > 0xFFFF:
        raise RuleError(f"{word!r} has no such port; write 0 to 65535")
    return prefix_of(network_in(str(address)))[0], int(port or 0), address.version


def _further(said: list[str], protocol: int) -> dict[str, Any]:
    """What stands behind both ends."""
    found: dict[str, Any] = {}
    rest = list(said)
    while rest:
        key = rest.pop(0)
        if key in DIRECTIONS:
            found["direction"] = key
            continue
        if key not in _FIELDS:
            allowed = ", ".join([*_FIELDS, *DIRECTIONS])
            raise RuleError(f"{key!r} is nothing that a packet has; write {allowed}")
        name, read, protocols = _FIELDS[key]
        if protocols is not None and protocol not in protocols:
            raise RuleError(f"{key!r} is nothing that protocol {protocol} has; leave it out")
        if not rest:
            raise RuleError(f"{key!r} lacks a value; write {_EXAMPLE}")
        found[name] = _read(read, rest.pop(0))
    return found


def _flags_in(text: str) -> int:
    bits = 0
    for word in text.split(","):
        bits |= flag_in(word)
    return bits


def _up_to(limit: int) -> Callable[[str], int]:
    return lambda text: number_in(text, limit)


_ICMPS = (ICMP, ICMPV6)
_FIELDS: dict[str, tuple[str, Callable[[str], Any], tuple[int, ...] | None]] = {
    "flags": ("tcp_flags", _flags_in, (PROTOCOLS["tcp"],)),
    "type": ("icmp_type", _up_to(255), _ICMPS),
    "code": ("icmp_code", _up_to(255), _ICMPS),
    "vlan": ("vlan", _up_to(4095), None),
    "dscp": ("dscp", _up_to(63), None),
    "on": ("interface", str, None),
}


def _read(read: Callable[[str], Any], text: str) -> Any:
    try:
        return read(text)
    except ReadError as error:
        raise RuleError(f"{text!r} {error}") from None


def told(packet: Packet) -> str:
    """The packet as `packet_in` reads it."""
    ends = (
        words.endpoint(IPv6Address(address), port, packet.protocol)
        for address, port in (
            (packet.src_addr, packet.src_port),
            (packet.dst_addr, packet.dst_port),
        )
    )
    parts = [words.protocol_name(packet.protocol, 0) if packet.protocol else "0", " > ".join(ends)]
    if packet.protocol == PROTOCOLS["tcp"] and packet.tcp_flags:
        names = [name for name, bit in TCP_FLAGS.items() if packet.tcp_flags & bit]
        parts.append(f"flags {','.join(names)}")
    if packet.protocol in _ICMPS:
        parts.append(f"type {packet.icmp_type} code {packet.icmp_code}")
    parts += [
        f"{name} {getattr(packet, name)}" for name in ("vlan", "dscp") if getattr(packet, name)
    ]
    if packet.interface:
        parts.append(f"on {packet.interface}")
    return " ".join([*parts, packet.direction])
