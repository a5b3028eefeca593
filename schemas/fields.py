# SPDX-License-Identifier: Apache-2.0
"""Fields that more than one event kind uses, each written once."""

from schemas.layout import ADDR, NAME, TIME_NS, U8, U16, U32, U64, Field, enum8

# Rows arrive nearly sorted by time, so neighbours differ by little.
TIME_CODEC = "Delta(8), ZSTD(1)"
# Where rows of a minute are sorted by something else, times are random within it: what their bits
# have in common is left out, and nothing else can be.
MINUTE_TIME_CODEC = "T64('bit'), ZSTD(1)"
COUNTER_CODEC = "T64, ZSTD(1)"

DIRECTIONS = {"ingress": 1, "egress": 2}

TIME = Field("time", TIME_NS, "wall time of the start, nanoseconds since the epoch", TIME_CODEC)
END = Field("end", TIME_NS, "wall time of the end, nanoseconds since the epoch", TIME_CODEC)
SEEN_NS = Field("seen_ns", U64, "CLOCK_MONOTONIC when the hook saw the packet")
INTERFACE = Field("interface", NAME, "name of the network interface")
DIRECTION = Field(
    "direction",
    enum8(**DIRECTIONS),
    "`ingress`: received by the interface; `egress`: sent by it",
)
SRC_ADDR = Field("src_addr", ADDR, "source address; IPv4 is mapped into ::ffff/96")
DST_ADDR = Field("dst_addr", ADDR, "destination address; IPv4 is mapped into ::ffff/96")
SRC_PORT = Field("src_port", U16, "source port, 0 where the protocol has none")
DST_PORT = Field("dst_port", U16, "destination port, 0 where the protocol has none")
PROTOCOL = Field("protocol", U8, "IANA protocol number; 0 where the packet is not IP")
ETHERTYPE = Field(
    "ethertype",
    U16,
    "IEEE ethertype behind any VLAN tag; 4 for IEEE 802.2 frames, which carry a length instead;"
    " 0 for totals whose packets were not told apart",
)
VLAN = Field("vlan", U16, "VLAN id of the outer 802.1Q tag, 0 where there is none")
INNER_VLAN = Field("inner_vlan", U16, "VLAN id of the second tag (QinQ), 0 where there is none")
TUNNELS = {"none": 0, "vxlan": 1, "geneve": 2, "gre": 3, "ipip": 4, "6in4": 5}
TUNNEL = Field(
    "tunnel",
    enum8(**TUNNELS),
    "the tunnel that the packet came in; addresses, ports and DSCP are those inside it",
)
OUTER_SRC_ADDR = Field("outer_src_addr", ADDR, "source address of the tunnel's outer packet")
OUTER_DST_ADDR = Field("outer_dst_addr", ADDR, "destination address of the tunnel's outer packet")
VNI = Field("vni", U32, "network id of VXLAN and GENEVE, key of GRE, 0 where there is none")
DSCP = Field("dscp", U8, "differentiated services code point (RFC 2474)")
ICMP_TYPE = Field("icmp_type", U8, "ICMP or ICMPv6 type, 0 for other protocols")
ICMP_CODE = Field("icmp_code", U8, "ICMP or ICMPv6 code, 0 for other protocols")
ICMP_ID = Field("icmp_id", U16, "id of an ICMP or ICMPv6 echo, 0 for everything else")
# Of a packet with two tags or in a tunnel, and the id of an echo.
SURROUNDINGS = (INNER_VLAN, ICMP_ID, TUNNEL, OUTER_SRC_ADDR, OUTER_DST_ADDR, VNI)
TCP_FLAGS = Field(
    "tcp_flags", U8, "TCP flags FIN 1, SYN 2, RST 4, PSH 8, ACK 16, URG 32, ECE 64, CWR 128"
)
PID = Field("pid", U32, "process that has the socket, 0 where unknown", "ZSTD(3)")
UID = Field("uid", U32, "user who has it; 0, which is root's, where `pid` and `cgroup` are unknown")
COMMAND = Field("command", NAME, "the process's name, of at most 15 bytes")
CGROUP = Field("cgroup", NAME, "path of its cgroup; empty where unknown")
UNIT = Field("unit", NAME, "systemd unit: the innermost service or scope of the cgroup's path")
CONTAINER = Field("container", NAME, "id of its container, 64 hexadecimal digits, else empty")
OWNER = (PID, UID, COMMAND, CGROUP, UNIT, CONTAINER)
PACKETS = Field("packets", U64, "packets, as many as a wire carries", COUNTER_CODEC)
BYTES = Field("bytes", U64, "layer-2 bytes without the frame check sequence", COUNTER_CODEC)
