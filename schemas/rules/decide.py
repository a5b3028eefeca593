# SPDX-License-Identifier: Apache-2.0
"""Which rule decides about a packet.

This reads the filters themselves, one claim after the other, and knows nothing of boxes: so it can
say whether boxes, and the kernel's tables made of them, are right.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from schemas.fields import DIRECTIONS
from schemas.filter.grammar import parse
from schemas.filter.tree import All, Any, Between, Filter, HasBits, Leaf, Like, Named, Not, Within
from schemas.protocols import ICMP, ICMPV6, IPV4, IPV6, PROTOCOLS, WITH_PORTS
from schemas.rules.boxes import Box
from schemas.rules.intervals import Network, is_within, last_of, prefix_of
from schemas.rules.rule import Rule
from schemas.rules.spaces import are_met

_MAPPED = 0xFFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class Packet:
    """What rules can ask of an IP packet; IPv4 addresses are mapped."""

    src_addr: int
    dst_addr: int
    src_port: int = 0
    dst_port: int = 0
    protocol: int = PROTOCOLS["tcp"]
    version: int = 4
    tcp_flags: int = 0
    icmp_type: int = 0
    icmp_code: int = 0
    vlan: int = 0
    dscp: int = 0
    interface: str = "eth0"
    direction: str = "ingress"

    def number(self, column: str) -> int:
        """What the column of that name says: 0 where the protocol has no such field."""
        if column == "ethertype":
            return IPV4 if self.version == 4 else IPV6
        if column == "direction":
            return DIRECTIONS[self.direction]
        owners = _OWNERS.get(column)
        value: int = getattr(self, column)
        return value if owners is None or self.protocol in owners else 0


_OWNERS = {
    **dict.fromkeys(("src_port", "dst_port"), WITH_PORTS),
    **dict.fromkeys(("icmp_type", "icmp_code"), (ICMP, ICMPV6)),
    "tcp_flags": (PROTOCOLS["tcp"],),
}


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of a packet: nothing decides, and it passes, or a rule does.

    *observed* is the observed rule that would have decided before.
    """

    deciding: Rule | None
    observed: Rule | None


def decide(rules: Iterable[Rule], packet: Packet, now_ns: int) -> Decision:
    """What *rules* do about *packet* at wall time *now_ns*."""
    observed = None
    for rule in in_order(rules):
        if rule.is_over(now_ns) or not is_meant(rule, packet):
            continue
        if not rule.is_observed:
            return Decision(rule, observed)
        observed = observed or rule
    return Decision(None, observed)


def in_order(rules: Iterable[Rule]) -> list[Rule]:
    """The order in which rules are asked: by priority, the higher first, then by name."""
    return sorted(rules, key=lambda rule: (-rule.priority, rule.name))


def is_meant(rule: Rule, packet: Packet) -> bool:
    """Whether *rule* means *packet*, by its match and its lists, whatever the time."""
    return (
        means(_tree_of(rule.match), packet)
        and _is_listed(rule.src, packet.src_addr)
        and _is_listed(rule.dst, packet.dst_addr)
    )


@lru_cache(maxsize=1024)
def _tree_of(match: str) -> Filter:
    return parse(match, for_packets=True)


def _is_listed(networks: tuple[Network, ...], address: int) -> bool:
    return not networks or any(_is_in(address, network) for network in networks)


def _is_in(address: int, network: Network) -> bool:
    # Networks of IPv6 do not mean what IPv4 is mapped to, not even ::/0.
    if (address >> 32 == _MAPPED) != (network.version == 4):
        return False
    prefix = prefix_of(network)
    return prefix[0] <= address <= last_of(prefix)


def means(tree: Filter, packet: Packet) -> bool:
    """Whether the filter *tree* means *packet*."""
    match tree:
        case All(parts):
            return all(means(part, packet) for part in parts)
        case Any(parts):
            return any(means(part, packet) for part in parts)
        case Not(part):
            return not means(part, packet)
        case _:
            return _is_so(tree, packet)


def _is_so(leaf: Leaf, packet: Packet) -> bool:
    match leaf:
        case Between(column, first, last):
            return first <= packet.number(column) <= last
        case Within(column):
            return bool(leaf.first <= packet.number(column) <= leaf.last)
        case Named(column, name):
            return packet.number(column) == DIRECTIONS[name]
        case HasBits(column, bits):
            return bool(packet.number(column) & bits)
        case Like(_, glob):
            return are_met([(glob, True)], packet.interface)


def holds(box: Box, packet: Packet) -> bool:
    """Whether *packet* is in *box*."""
    return (
        all(getattr(box, name) >> value & 1 for name, value in _places(packet))
        and (box.src is None or is_within(packet.src_addr, box.src))
        and (box.dst is None or is_within(packet.dst_addr, box.dst))
        and are_met(box.interfaces, packet.interface)
    )


def _places(packet: Packet) -> list[tuple[str, int]]:
    """The packet's bit in each of a box's sets."""
    return [
        ("versions", packet.version == 6),
        ("protocols", packet.protocol),
        ("src_ports", packet.number("src_port")),
        ("dst_ports", packet.number("dst_port")),
        ("icmp", packet.number("icmp_type") << 8 | packet.number("icmp_code")),
        ("flags", packet.number("tcp_flags")),
        ("vlans", packet.vlan),
        ("dscps", packet.dscp),
        ("directions", packet.number("direction") - 1),
    ]
