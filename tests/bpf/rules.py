# SPDX-License-Identifier: Apache-2.0
"""Rules in force on programs that are attached nowhere, and packets that ask about them."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from ipaddress import ip_address

import numpy as np
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6Unknown, IPv6
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet as Layers

from agent.clock import Anchor, KernelClock
from agent.maps import mapped_array
from agent.rows import Rows
from agent.rules.kernel import KernelRules
from agent.rules.tables import Placed, Points, Tables, tables_of
from schemas.fields import DIRECTIONS
from schemas.refusal import RULE_BOOKS, RULE_SLOTS
from schemas.rules.boxes import Box, boxes_of
from schemas.rules.decide import Packet, in_order
from schemas.rules.rule import Rule, RuleError
from tests.bpf.programs import Programs

XDP_DROP, XDP_PASS = 1, 2
TC_ACT_SHOT = 2
PASSES_TC = 0xFFFFFFFF
INTERFACE = "eth7"
MAPPED = 0xFFFF << 32


@dataclass(slots=True)
class Judge:
    """The rules of loaded programs."""

    programs: Programs
    kernel: KernelRules = field(init=False)
    books: Rows = field(init=False)
    slots: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        pins, sizes = self.programs.plan.pins, self.programs.plan.sizes
        self.kernel = KernelRules(pins, sizes, partial(mapped_array, pins))
        books = mapped_array(pins, "rule_books", RULE_BOOKS, sizes.cpus * RULE_SLOTS)
        self.books = books.reshape(sizes.cpus, RULE_SLOTS)

    @property
    def anchor(self) -> Anchor:
        return KernelClock(self.programs.plan.pins, self.programs.maps.clock).anchor()

    def put(self, *rules: Rule, allowed: Sequence[Box] = ()) -> Tables:
        """Put these in force."""
        for rule in rules:
            if rule.name not in self.slots:
                self.slots[rule.name] = len(self.slots) + 1
                self.kernel.clear(self.slots[rule.name])
        placed = [Placed(rule, boxes_of(rule), self.slots[rule.name]) for rule in in_order(rules)]
        points = Points(
            ["", INTERFACE, INTERFACE], np.array([1, *DIRECTIONS.values(), 1], np.uint8)
        )
        tables = tables_of(allowed, placed, points, self.anchor.jiffies_at)
        self.kernel.put(tables)
        return tables

    def is_refused(self, frame: bytes, hook: str = "hook_xdp") -> bool:
        verdict = self.programs.run(frame, hook=hook)
        refused, passed = (XDP_DROP, XDP_PASS) if "xdp" in hook else (TC_ACT_SHOT, PASSES_TC)
        assert verdict in (refused, passed), verdict
        return verdict == refused

    def count(self, name: str, counter: str) -> int:
        """A counter of a rule, all CPUs together."""
        return int(self.books[counter][:, self.slots[name]].sum())


def frame_of(packet: Packet, payload_bytes: int = 0) -> bytes:
    """The packet on a wire."""
    addresses = {
        "src": str(_address(packet.src_addr, packet.version)),
        "dst": str(_address(packet.dst_addr, packet.version)),
    }
    ip = (
        IP(**addresses, proto=packet.protocol, tos=packet.dscp << 2)
        if packet.version == 4
        else IPv6(**addresses, nh=packet.protocol, tc=packet.dscp << 2)
    )
    tag = Dot1Q(vlan=packet.vlan) if packet.vlan else None
    link = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    frame = link / tag / ip if tag else link / ip
    return bytes(frame / _transport(packet) / bytes(payload_bytes))


def _address(address: int, version: int) -> object:
    return ip_address(address & 0xFFFFFFFF) if version == 4 else ip_address(address.to_bytes(16))


def _transport(packet: Packet) -> Layers | bytes:
    ports = {"sport": packet.src_port, "dport": packet.dst_port}
    match packet.protocol:
        case 6:
            return TCP(**ports, flags=packet.tcp_flags)
        case 17:
            return UDP(**ports)
        case 1:
            return ICMP(type=packet.icmp_type, code=packet.icmp_code)
        case 58:
            return ICMPv6Unknown(type=packet.icmp_type, code=packet.icmp_code, msgbody=bytes(4))
        case _:
            return bytes(20)


def mapped(text: str) -> int:
    """An address as rules have it."""
    address = ip_address(text)
    return int(address) | MAPPED if address.version == 4 else int(address)


class Draw:
    """Rules and packets at random that meet often."""

    def __init__(self, seed: int) -> None:
        self._draw = random.Random(seed)
        self._v4 = [f"10.{a}.{b}.{c}" for a in (0, 1) for b in (0, 2) for c in (1, 2, 77)]
        self._v6 = [f"2001:db8:{a}::{b:x}" for a in (0, 1) for b in (1, 2, 0x77)]

    def packet(self) -> Packet:
        draw = self._draw
        version = draw.choice((4, 4, 6))
        addresses = self._v4 if version == 4 else self._v6
        protocol = draw.choice((6, 6, 17, 1 if version == 4 else 58, 89))
        ports = {}
        if protocol in (6, 17):
            ports = {name: draw.choice((53, 80, 443, 8080)) for name in ("src_port", "dst_port")}
        icmp = {}
        if protocol in (1, 58):
            icmp = {"icmp_type": draw.choice((3, 8, 128)), "icmp_code": draw.choice((0, 1))}
        return Packet(
            src_addr=mapped(draw.choice(addresses)),
            dst_addr=mapped(draw.choice(addresses)),
            protocol=protocol,
            version=version,
            tcp_flags=draw.choice((2, 18, 16, 4, 0, 0xC2)) if protocol == 6 else 0,
            vlan=draw.choice((0, 0, 0, 7, 12)),
            dscp=draw.choice((0, 0, 46)),
            interface=INTERFACE,
            direction="ingress",
            **ports,
            **icmp,
        )

    def rule(self, number: int, *, until_ns: int = 0) -> Rule:
        """One that some packet may meet."""
        try:
            return self._rule(number, until_ns)
        except RuleError:  # it contradicts itself
            return self.rule(number, until_ns=until_ns)

    def _rule(self, number: int, until_ns: int) -> Rule:
        draw = self._draw
        return Rule(
            name=f"r{number}",
            match=self._match(),
            action=draw.choice(("drop", "drop", "pass")),
            is_observed=draw.random() < 0.3,
            priority=draw.choice((1, 100, 100, 200)),
            until_ns=until_ns,
        )

    def _match(self) -> str:
        draw = self._draw
        return draw.choice(
            (
                f"src host {self._host()}",
                f"dst net {self._net()}",
                f"net {self._net()}",
                f"src net {self._net()} and {self._part()}",
                f"host {self._host()} and not {self._part()}",
                f"not src net {self._net()} and {self._part()}",
                f"{self._part()} and {self._part()}",
                f"({self._part()} or {self._part()}) and dst net {self._net()}",
            )
        )

    def _host(self) -> str:
        return self._draw.choice(self._v4 + self._v6)

    def _net(self) -> str:
        draw = self._draw
        return draw.choice(
            (
                f"10.{draw.choice((0, 1))}.0.0/16",
                f"10.0.{draw.choice((0, 2))}.0/24",
                *("10.0.0.0/8", "0.0.0.0/0", "2001:db8::/32", "2001:db8:1::/48"),
            )
        )

    def _part(self) -> str:
        draw = self._draw
        return draw.choice(
            (
                *("tcp", "udp", "icmp or icmp6", "proto 89", "ip6", "vlan 7", "vlan", "dscp 46"),
                *("port 53", "dst port 80", "src portrange 50-100", "tcp dst port 443"),
                *("icmptype 8", "icmptype 3 and icmpcode 1", "flag syn", "not flag ack"),
                *("interface eth*", "interface lo", "ingress", "egress"),
            )
        ).join("()")
