# SPDX-License-Identifier: Apache-2.0
"""Say addresses, protocols and amounts as people do."""

from ipaddress import IPv6Address

# IANA protocol numbers and IEEE ethertypes that people know by name.
_PROTOCOLS = {
    1: "icmp",
    2: "igmp",
    4: "ipip",
    6: "tcp",
    17: "udp",
    41: "6in4",
    47: "gre",
    50: "esp",
    51: "ah",
    58: "icmp6",
    89: "ospf",
    103: "pim",
    112: "vrrp",
    132: "sctp",
    136: "udplite",
}
_ETHERTYPES = {
    0: "not told apart",
    0x0004: "802.2",
    0x0800: "ipv4",
    0x0806: "arp",
    0x86DD: "ipv6",
    0x8847: "mpls",
    0x888E: "eapol",
    0x88CC: "lldp",
    0x88F7: "ptp",
}
_STEPS = ("", "k", "M", "G", "T", "P")


def address(addr: IPv6Address) -> str:
    """An address as it was on the wire: IPv4 without its mapping."""
    return str(addr.ipv4_mapped or addr)


def endpoint(addr: IPv6Address, port: int) -> str:
    """Address and port, `-` for packets that have no addresses."""
    if not int(addr) and not port:
        return "-"
    if not port:
        return address(addr)
    return f"{addr.ipv4_mapped}:{port}" if addr.ipv4_mapped else f"[{addr}]:{port}"


def protocol_name(protocol: int, ethertype: int) -> str:
    """`tcp`, `icmp6`, `arp`, or the number where there is no well-known name."""
    if protocol:
        return _PROTOCOLS.get(protocol, f"protocol {protocol}")
    return _ETHERTYPES.get(ethertype, f"ethertype {ethertype:#06x}")


def bits_per_second(in_bytes: int, seconds: float) -> str:
    return amount(in_bytes * 8 / seconds if seconds else 0.0, "bit/s")


def amount(value: float, unit: str) -> str:
    """Three digits and a decimal prefix, such as `1.25 Mbit/s`."""
    for step in _STEPS:
        if value < 999.5 or step == _STEPS[-1]:
            digits = f"{value:.3g}" if step else f"{value:.0f}"
            return f"{digits} {step}{unit}"
        value /= 1000
    raise AssertionError  # the last step returns
