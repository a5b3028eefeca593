# SPDX-License-Identifier: Apache-2.0
"""Random filters that rules can have, random packets, and one rule of each kind."""

from ipaddress import ip_address, ip_network
from typing import Any

from hypothesis import strategies as st

from schemas.rules.decide import Packet
from schemas.rules.rule import Rule

V4 = ("10.0.0.1", "10.0.0.2", "10.1.0.1", "192.168.1.7", "0.0.0.0", "255.255.255.255")
V6 = ("2001:db8::1", "2001:db8:0:1::1", "fe80::1", "::1", "::", "::ffff:10.0.0.1")
PORTS = (0, 1, 53, 80, 443, 8050, 65535)
INTERFACES = ("eth0", "eth1", "veth_1", "wg%0", "e[t]h0")
GLOBS = ("eth0", "eth?", "veth_*", "*", "e[t]h0", "x")


def mapped(text: str) -> int:
    """An address as packets and boxes hold it."""
    address = ip_address(text)
    return int(address) | 0xFFFF << 32 if address.version == 4 else int(address)


def a_rule(name: str = "r", match: str = "tcp port 23", **values: Any) -> Rule:
    return Rule(name=name, match=match, **values)


def a_packet(src: str = "10.0.0.1", dst: str = "10.0.0.2", **values: Any) -> Packet:
    version = ip_address(src).version
    return Packet(src_addr=mapped(src), dst_addr=mapped(dst), version=version, **values)


@st.composite
def packets(draw: st.DrawFn) -> Packet:
    version = draw(st.sampled_from((4, 4, 6)))
    addresses = st.sampled_from(V4 if version == 4 else V6)
    return Packet(
        src_addr=mapped(draw(addresses)),
        dst_addr=mapped(draw(addresses)),
        src_port=draw(st.sampled_from(PORTS)),
        dst_port=draw(st.sampled_from(PORTS)),
        protocol=draw(st.sampled_from((0, 1, 6, 17, 47, 58, 132, 255))),
        version=version,
        tcp_flags=draw(st.integers(0, 255)),
        icmp_type=draw(st.sampled_from((0, 3, 8, 128))),
        icmp_code=draw(st.sampled_from((0, 3, 255))),
        vlan=draw(st.sampled_from((0, 1, 12, 4095))),
        dscp=draw(st.sampled_from((0, 46, 63))),
        interface=draw(st.sampled_from(INTERFACES)),
        direction=draw(st.sampled_from(("ingress", "egress"))),
    )


@st.composite
def _terms(draw: st.DrawFn) -> str:
    form = draw(
        st.sampled_from(
            (
                *("host {ip}", "src host {ip}", "dst {ip}", "net {cidr}", "src or dst net {cidr}"),
                *("src and dst net {cidr}", "port {port}", "src port {port}", "portrange {ports}"),
                *("tcp port {port}", "udp dst portrange {ports}", "tcp", "udp", "icmp", "icmp6"),
                *("proto {protocol}", "ip", "ip6", "arp", "ip proto udp", "vlan", "vlan {vlan}"),
                *("ethertype {ethertype}", "dscp {dscp}", "icmptype {icmp}", "icmpcode {icmp}"),
                *("flag {flag}", "flag (syn or fin)", 'interface "{glob}"', "ingress", "egress"),
                *("port (53 or 80)", "net ::/0", "net 0.0.0.0/0"),
            )
        )
    )
    ip = draw(st.sampled_from(V4 + V6))
    first, last = sorted((draw(st.sampled_from(PORTS)), draw(st.sampled_from(PORTS))))
    return form.format(
        ip=ip,
        cidr=ip_network((ip, draw(st.sampled_from((0, 8, 15, 24, 31, 32)))), strict=False),
        port=draw(st.sampled_from(PORTS)),
        ports=f"{first}-{last}",
        protocol=draw(st.sampled_from((0, 1, 6, 17, 47, 132))),
        ethertype=draw(st.sampled_from(("0x0800", "arp", "0"))),
        vlan=draw(st.sampled_from((0, 1, 12, 4095))),
        dscp=draw(st.sampled_from((0, 46, 63))),
        icmp=draw(st.sampled_from((0, 3, 8, 128))),
        flag=draw(st.sampled_from(("syn", "rst", "cwr"))),
        glob=draw(st.sampled_from(GLOBS)),
    )


def filters() -> st.SearchStrategy[str]:
    """Texts of filters, some levels deep."""
    return st.recursive(
        _terms(),
        lambda parts: st.one_of(
            parts.map(lambda part: f"not ({part})"),
            st.tuples(
                st.sampled_from((" and ", " or ")), st.lists(parts, min_size=2, max_size=3)
            ).map(lambda made: made[0].join(f"({part})" for part in made[1])),
        ),
        max_leaves=6,
    )
