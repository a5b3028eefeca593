# SPDX-License-Identifier: Apache-2.0
"""A packet: the headers of one that was sampled, or that began a flow."""

from schemas import fields as f
from schemas.layout import U8, U16, U32, Field, Layout, Record, enum8, pad, raw

# Ethernet 14, two VLAN tags 8, IPv4 20 with TCP and its timestamps 32, and room to spare:
# everything but long option lists fits.
HEADER_BYTES = 96

REASONS = {"sampled": 1, "first": 2}
# Of events that become rows of `drops` instead (schemas/refusal.py).
REFUSALS = {"refused": 3, "observed": 4}

REASON = Field(
    "reason",
    enum8(**REASONS),
    "`sampled`: chosen one in N; `first`: began a flow",
)
HOP_LIMIT = Field("hop_limit", U8, "IPv4 time to live or IPv6 hop limit")
CAPTURED_BYTES = Field("header_bytes", U8, "how many bytes of `header` were captured")
HEADER = Field("header", raw(HEADER_BYTES), "the first bytes of the frame, zero filled")

PACKET_EVENT = Layout(
    "packet_event",
    "One packet's headers, as they go through the ring buffer.",
    (
        f.SEEN_NS,
        f.SRC_ADDR,
        f.DST_ADDR,
        Field("src_port_be", U16, "as in a flow's slot"),
        Field("dst_port_be", U16, "as in a flow's slot"),
        Field("lane", U32, "as in a flow's slot"),
        f.PROTOCOL,
        f.TCP_FLAGS,
        HOP_LIMIT,
        REASON,
        f.BYTES.of(U32),
        f.PACKETS.of(U16, "segments, where the packet is a super-packet"),
        CAPTURED_BYTES,
        pad(1),
        Field("rule_slot", U32, "of the rule that refused the packet or would have"),
        HEADER,
    ),
)

PACKET = Record(
    kind="packet",
    table="packets",
    doc="Headers of packets that were sampled one in N, and of the first packet of each flow.",
    fields=(
        f.TIME,
        f.INTERFACE,
        f.DIRECTION,
        f.SRC_ADDR,
        f.DST_ADDR,
        f.SRC_PORT,
        f.DST_PORT,
        f.PROTOCOL,
        f.ETHERTYPE,
        f.VLAN,
        f.DSCP,
        f.ICMP_TYPE,
        f.ICMP_CODE,
        f.TCP_FLAGS,
        HOP_LIMIT,
        REASON,
        f.PACKETS.of(U16, "1, or the segments of a super-packet"),
        f.BYTES.of(U32, "length of the frame; of a super-packet, of all its segments"),
        CAPTURED_BYTES,
        HEADER,
        *f.SURROUNDINGS,
    ),
    order_by="toStartOfMinute(time), node, interface, direction, src_addr, dst_addr, time",
)
