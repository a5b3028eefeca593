# SPDX-License-Identifier: Apache-2.0
"""What no rule may cut off: the allow list, which wins whatever a rule says.

Who drops packets on a machine far away can drop those that would let him take it back, or those in
which the agent tells of it.  So what manages the machine and what the agent itself talks to passes
before any rule is asked, and whoever writes a rule that means some of it is told.

DHCP and IPv6's neighbour discovery are always on the list: without them the rest has no addresses.
ARP needs no place on it, as rules never touch what is not IP.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any, Self

from schemas.protocols import ICMPV6, PROTOCOLS
from schemas.rules.boxes import (
    ALL_ICMP,
    ALL_PORTS,
    Box,
    boxes_of,
    is_shared,
    sides_of,
    sides_overlap,
)
from schemas.rules.decide import Packet, holds
from schemas.rules.intervals import Network, Prefix
from schemas.rules.rule import Rule, RuleError, network_in, shown
from schemas.rules.spaces import IPV4_BIT, IPV6_BIT

Address = IPv4Address | IPv6Address
Endpoint = tuple[Address, int]

MAX_BOXES = 7
_MAX_ENTRIES = 10_000
_TCP = 1 << PROTOCOLS["tcp"]
_PORT_SIDES = ("src_ports", "dst_ports")
# Linux takes those from 32768 on, others those from 49152 on.
_CLIENT_PORTS = ALL_PORTS >> 32768 << 32768
_DHCP_PORTS = sum(1 << port for port in (67, 68, 546, 547))
_DHCP = Box(protocols=1 << PROTOCOLS["udp"], src_ports=_DHCP_PORTS, dst_ports=_DHCP_PORTS)
# Solicitations, advertisements and redirects of routers and neighbours (RFC 4861).
_DISCOVERY = Box(
    versions=IPV6_BIT,
    protocols=1 << ICMPV6,
    icmp=((1 << 5 * 256) - 1) << (133 << 8),
)
_ALWAYS = (("DHCP", _DHCP), ("IPv6 neighbour discovery", _DISCOVERY))


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that is allowed: what people call it, and its packets in both directions."""

    reason: str
    boxes: tuple[Box, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowed:
    """Everything that is allowed, as plain data.

    *local* has this machine's own addresses, if they are known.  They make no box narrower, since
    they change; they only tell better which rules mean what is allowed.
    """

    networks: tuple[Network, ...] = ()  # from which the machine is managed
    brokers: tuple[Endpoint, ...] = ()
    databases: tuple[Endpoint, ...] = ()
    ssh_peers: tuple[Endpoint, ...] = ()  # the peer's address, and the port here
    local: tuple[Network, ...] = ()

    @property
    def boxes(self) -> tuple[Box, ...]:
        """What the kernel lets pass: never less than the entries, in at most 7 boxes.

        Addresses and ports of one kind come together, so a port of one broker is open at another.
        """
        # The programs let neighbour discovery pass by themselves, where it comes from the link.
        found = [_DHCP]
        for ends in (self.brokers + self.databases, self.ssh_peers):
            if ends:
                addresses = sides_of(tuple(ip_network(address) for address, _ in ends))
                ports = 0
                for _, port in ends:
                    ports |= 1 << port
                found += _both_ways(addresses, ports, is_port_here=ends is self.ssh_peers)
        if self.networks:
            found += _both_ways(sides_of(self.networks), ALL_PORTS)
        return tuple(found)

    @property
    def entries(self) -> tuple[Entry, ...]:
        """What is allowed, one by one."""
        return tuple(self._entries())

    def _entries(self) -> Iterator[Entry]:
        for reason, box in _ALWAYS:
            yield Entry(reason, (box,))
        for network in self.networks:
            yield Entry(f"management network {network}", _between(network, ALL_PORTS))
        kinds = (("Kafka broker", self.brokers), ("ClickHouse", self.databases))
        for kind, ends in kinds:
            for address, port in dict.fromkeys(ends):
                boxes = _between(ip_network(address), 1 << port)
                yield Entry(f"{kind} {_endpoint(address, port)}", boxes)
        for address, port in dict.fromkeys(self.ssh_peers):
            boxes = _between(ip_network(address), 1 << port, is_port_here=True)
            yield Entry(f"SSH from {address} to port {port}", boxes)

    @property
    def reasons(self) -> tuple[str, ...]:
        return tuple(entry.reason for entry in self.entries)

    def to_message(self) -> dict[str, Any]:
        """The list as msgpack holds it."""
        return {
            **{key: [str(one) for one in getattr(self, key)] for key in _NETWORK_KEYS},
            **{
                key: [[str(address), port] for address, port in getattr(self, key)]
                for key in _ENDPOINT_KEYS
            },
        }

    @classmethod
    def from_message(cls, message: object) -> Self:
        """The list in a message.

        Raises:
            RuleError: it is none.
        """
        if not isinstance(message, Mapping) or not set(message) <= {
            *_NETWORK_KEYS,
            *_ENDPOINT_KEYS,
        }:
            raise RuleError(f"{shown(message)} is no allow list; send its own fields alone")
        if not all(isinstance(value, list) for value in message.values()):
            raise RuleError("an allow list holds what is no list; send lists")
        if sum(map(len, message.values())) > _MAX_ENTRIES:
            raise RuleError(f"an allow list is too long; send at most {_MAX_ENTRIES} entries")
        try:
            networks = {key: _networks_in(message.get(key, ())) for key in _NETWORK_KEYS}
            ends = {key: _endpoints_in(message.get(key, ())) for key in _ENDPOINT_KEYS}
        except (ValueError, TypeError) as error:
            raise RuleError(f"an allow list cannot be read: {error}") from None
        return cls(
            networks=networks["networks"],
            local=networks["local"],
            brokers=ends["brokers"],
            databases=ends["databases"],
            ssh_peers=ends["ssh_peers"],
        )


_NETWORK_KEYS = ("networks", "local")
_ENDPOINT_KEYS = ("brokers", "databases", "ssh_peers")


def _networks_in(listed: Iterable[object]) -> tuple[Network, ...]:
    return tuple(map(network_in, listed))


def _endpoints_in(listed: Iterable[Iterable[object]]) -> tuple[Endpoint, ...]:
    return tuple(_endpoint_in(*pair) for pair in listed)


def _endpoint_in(address: object, port: object) -> Endpoint:
    if not isinstance(address, str) or not isinstance(port, int) or not 0 < port <= 0xFFFF:
        raise ValueError(f"{address!r}, {port!r} is no address and port")
    return ip_address(address), port


def _endpoint(address: Address, port: int) -> str:
    return f"{address}:{port}" if address.version == 4 else f"[{address}]:{port}"


def _both_ways(
    addresses: tuple[Prefix, ...], ports: int, *, is_port_here: bool = False
) -> tuple[Box, Box]:
    """What comes from *addresses*, and what goes there; *ports* are theirs, or those of here."""
    protocols = Box().protocols if ports == ALL_PORTS else _TCP
    theirs, ours = (ALL_PORTS, ports) if is_port_here else (ports, ALL_PORTS)
    return (
        Box(src=addresses, src_ports=theirs, dst_ports=ours, protocols=protocols),
        Box(dst=addresses, dst_ports=theirs, src_ports=ours, protocols=protocols),
    )


def _between(network: Network, ports: int, *, is_port_here: bool = False) -> tuple[Box, ...]:
    """As `_both_ways`, of one network and so of one version."""
    versions = IPV4_BIT if network.version == 4 else IPV6_BIT
    boxes = _both_ways(sides_of((network,)), ports, is_port_here=is_port_here)
    return tuple(replace(box, versions=versions) for box in boxes)


def conflicts(rule: Rule, allowed: Allowed) -> list[str]:
    """The reasons of all entries of which *rule* would refuse packets, enforced or not."""
    if rule.action == "pass":
        return []
    boxes = boxes_of(rule)
    local = sides_of(allowed.local) if allowed.local else None
    return [
        entry.reason
        for entry in allowed.entries
        if any(_is_aimed(box, its, local) for box in boxes for its in entry.boxes)
    ]


def _is_aimed(box: Box, allowed: Box, local: tuple[Prefix, ...] | None) -> bool:
    """Whether a rule's box means what is allowed, and not only might.

    Nearly every rule shares some imaginable packet with the list: one that drops a network shares
    what that network sends to a broker.  It matters only where that network is this machine's.
    """
    if not is_shared(box, _as_clients_are(allowed)):
        return False
    if allowed.src is None and allowed.dst is None:
        # DHCP and the like pass under every rule; worth a word where one is about just that.
        return _asks_for(box, allowed)
    its, other = (box.src, box.dst) if allowed.src is not None else (box.dst, box.src)
    if local is not None:
        return sides_overlap(other, local)
    return its is not None or other is None


def _as_clients_are(allowed: Box) -> Box:
    """The box with the ports that systems give to those who call a server."""
    ports = (allowed.src_ports, allowed.dst_ports)
    if ports == (ALL_PORTS, ALL_PORTS):
        return allowed
    src, dst = (_CLIENT_PORTS if its == ALL_PORTS else its for its in ports)
    return replace(allowed, src_ports=src, dst_ports=dst)


def _asks_for(box: Box, allowed: Box) -> bool:
    """Whether all that the box asks for is allowed: nothing would be left for the rule to do."""
    pairs = [(box.icmp, allowed.icmp, ALL_ICMP)]
    pairs += [(getattr(box, side), getattr(allowed, side), ALL_PORTS) for side in _PORT_SIDES]
    asked = [(its, ours) for its, ours, everything in pairs if its != everything]
    return bool(asked) and all(not its & ~ours for its, ours in asked)


def reasons_for(allowed: Allowed, packet: Packet) -> list[str]:
    """The reasons of all entries that let *packet* pass."""
    return [
        entry.reason for entry in allowed.entries if any(holds(box, packet) for box in entry.boxes)
    ]
