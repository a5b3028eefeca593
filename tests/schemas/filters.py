# SPDX-License-Identifier: Apache-2.0
"""Random filters, random rows, and what a filter says of a row, worked out one row at a time."""

import random
from collections.abc import Sequence
from fnmatch import fnmatchcase
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any

from schemas.filter.tree import All, Between, Filter, HasBits, Like, Named, Not, Within
from schemas.filter.tree import Any as AnyOf

Row = dict[str, Any]
V4 = ["10.0.0.1", "10.0.0.2", "10.1.0.1", "192.168.1.7"]
V6 = ["2001:db8::1", "2001:db8:0:1::1", "fe80::1", "::1"]
PORTS = [0, 22, 53, 80, 443, 8000, 8050, 8100, 65535]
INTERFACES = ["eth0", "eth1", "veth_1", "vethx1", "wg%0"]
NODES = ["alpha", "be\\ta", "al'pha"]
WITH_PORTS = {6, 17, 33, 132, 136}
TERMS = [
    *("host {ip}", "src host {ip}", "dst {ip}", "net {cidr}", "src or dst net {cidr}"),
    *("src and dst net {cidr}", "port {port}", "src port {port}", "portrange {ports}"),
    *("tcp port {port}", "udp dst portrange {ports}", "tcp", "udp", "icmp", "icmp6", "gre"),
    *("proto {protocol}", "ip", "ip6", "arp", "ip proto udp", "ip6 src net 2001:db8::/32"),
    *("ethertype {ethertype}", "vlan", "vlan {vlan}", "dscp {dscp}", "icmptype {icmp}"),
    *("icmpcode {icmp}", "flag {flag}", "flag (syn or fin)", "interface {interface}"),
    *("interface (eth0 or veth*)", "ingress", "egress", "port (22 or 80)"),
    *("innervlan", "innervlan {vlan}", "tunnel", "tunnel {tunnel}", "vni {vni}"),
    *("outer net {cidr}", "outer src host {ip}"),
]
ROW_TERMS = [
    *TERMS,
    *("node {node}", "process cu*", "unit web.service", "pid 33", "uid 0"),
]
TUNNELS = ["none", "none", "vxlan", "gre"]


def holds(tree: Filter, row: Row) -> bool:
    """Whether the filter means this row."""
    match tree:
        case All(parts):
            return all(holds(part, row) for part in parts)
        case AnyOf(parts):
            return any(holds(part, row) for part in parts)
        case Not(part):
            return not holds(part, row)
        case Between(column, first, last):
            return first <= row[column] <= last
        case Within(column, network):
            return _is_in(row[column], network)
        case Named(column, name):
            return row[column] == name
        case Like(column, glob):
            return fnmatchcase(row[column], glob.replace("[", "[[]"))
        case HasBits(column, bits):
            return bool(row[column] & bits)


def _is_in(address: IPv6Address, network: Any) -> bool:
    if network.version == 6:
        return address in network
    return address.ipv4_mapped is not None and address.ipv4_mapped in network


def a_filter(draw: random.Random, terms: Sequence[str] = TERMS, depth: int = 0) -> str:
    """The text of a random filter made of *terms*."""
    kind = draw.random()
    if depth > 3 or kind < 0.35:
        return _a_term(draw, terms)
    if kind < 0.5:
        return f"not {_grouped(draw, terms, depth)}"
    parts = [_grouped(draw, terms, depth) for _ in range(draw.choice([2, 2, 3]))]
    return draw.choice([" and ", " or "]).join(parts)


def _grouped(draw: random.Random, terms: Sequence[str], depth: int) -> str:
    if draw.random() < 0.5:
        return _a_term(draw, terms)
    return f"({a_filter(draw, terms, depth + 1)})"


def _a_term(draw: random.Random, terms: Sequence[str]) -> str:
    ip = draw.choice(V4 + V6)
    first, last = sorted(draw.choices(PORTS, k=2))
    return draw.choice(terms).format(
        ip=ip,
        cidr=ip_network((ip, draw.choice([0, 8, 15, 24, 31, 32])), strict=False),
        port=draw.choice(PORTS),
        ports=f"{first}-{last}",
        protocol=draw.choice([0, 1, 6, 17, 47, 132]),
        ethertype=draw.choice(["0x0800", "arp", "2054", "0"]),
        vlan=draw.choice([0, 1, 12, 4095]),
        tunnel=draw.choice(["vxlan", "gre", "6in4"]),
        vni=draw.choice([0, 7]),
        dscp=draw.choice([0, 46, 63]),
        icmp=draw.choice([0, 3, 8, 128]),
        flag=draw.choice(["syn", "rst", "cwr"]),
        interface=draw.choice(["eth0", "eth?", "veth_*", "wg%*", "*", "x"]),
        node=draw.choice(["alpha", "al*", "be\\ta", "?l'pha"]),
    )


def a_row(draw: random.Random, number: int) -> Row:
    """A random row of `flows`; *number* stands in its column `packets`."""
    ethertype = draw.choice([0x0800, 0x0800, 0x86DD, 0x86DD, 0x0806, 0x88CC, 0])
    is_ip = ethertype in (0x0800, 0x86DD)
    protocol = draw.choice([0, 1, 6, 6, 17, 17, 47, 58, 132]) if is_ip else 0
    has_ports, is_icmp = protocol in WITH_PORTS, protocol in (1, 58)
    tunnel = draw.choice(TUNNELS) if is_ip else "none"
    outer = 0 if tunnel == "none" else draw.choice([0x0800, 0x86DD])
    return {
        "inner_vlan": draw.choice([0, 0, 1, 12]),
        "tunnel": tunnel,
        "vni": draw.choice([0, 7]) if outer else 0,
        "outer_src_addr": _an_address(draw, outer),
        "outer_dst_addr": _an_address(draw, outer),
        "command": draw.choice(["", "curl", "cupsd", "sshd"]),
        "unit": draw.choice(["", "web.service"]),
        "pid": draw.choice([0, 33]),
        "uid": draw.choice([0, 1000]),
        "packets": number,
        "src_addr": _an_address(draw, ethertype),
        "dst_addr": _an_address(draw, ethertype),
        "src_port": draw.choice(PORTS) if has_ports else 0,
        "dst_port": draw.choice(PORTS) if has_ports else 0,
        "protocol": protocol,
        "ethertype": ethertype,
        "vlan": draw.choice([0, 0, 1, 12, 4095]),
        "dscp": draw.choice([0, 46, 63]) if is_ip else 0,
        "icmp_type": draw.choice([0, 3, 8, 128]) if is_icmp else 0,
        "icmp_code": draw.choice([0, 3]) if is_icmp else 0,
        "tcp_flags": draw.randrange(256) if protocol == 6 else 0,
        "interface": draw.choice(INTERFACES),
        "direction": draw.choice(["ingress", "egress"]),
        "node": draw.choice(NODES),
    }


def _an_address(draw: random.Random, ethertype: int) -> IPv6Address:
    if ethertype == 0x86DD:
        return IPv6Address(draw.choice(V6))
    if ethertype == 0x0800:
        return IPv6Address(f"::ffff:{draw.choice(V4)}")
    return IPv6Address("::")


def mapped(text: str) -> IPv6Address:
    """An address as columns hold it."""
    address = ip_address(text)
    return IPv6Address(f"::ffff:{text}") if address.version == 4 else address
