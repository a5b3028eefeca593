# SPDX-License-Identifier: Apache-2.0
"""The numbers of the Internet and of Ethernet that people know by name."""

# IANA protocol numbers.
PROTOCOLS = {
    "icmp": 1,
    "igmp": 2,
    "ipip": 4,
    "tcp": 6,
    "udp": 17,
    "dccp": 33,
    "6in4": 41,
    "gre": 47,
    "esp": 50,
    "ah": 51,
    "icmpv6": 58,
    "ospf": 89,
    "vrrp": 112,
    "sctp": 132,
    "udplite": 136,
}
# Those whose header begins with a source and a destination port.
WITH_PORTS = tuple(PROTOCOLS[name] for name in ("tcp", "udp", "dccp", "sctp", "udplite"))
ICMP = PROTOCOLS["icmp"]
ICMPV6 = PROTOCOLS["icmpv6"]

# IEEE 802 numbers.
ETHERTYPES = {
    "ip": 0x0800,
    "arp": 0x0806,
    "ip6": 0x86DD,
    "mpls": 0x8847,
    "pppoe": 0x8864,
    "eapol": 0x888E,
    "lldp": 0x88CC,
    "ptp": 0x88F7,
}
IPV4 = ETHERTYPES["ip"]
IPV6 = ETHERTYPES["ip6"]

# Bits of the TCP header's flags.
TCP_FLAGS = {
    "fin": 1,
    "syn": 2,
    "rst": 4,
    "psh": 8,
    "ack": 16,
    "urg": 32,
    "ece": 64,
    "cwr": 128,
}
