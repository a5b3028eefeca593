# SPDX-License-Identifier: Apache-2.0
"""A flow: the counters of one five-tuple at one interface and direction over one interval.

The kernel keeps each flow in a slot of one cache line.  What identifies it fills 41 bytes;
interface and direction (together a *hook point*), VLAN and DSCP share the 32-bit lane, so
that looking a flow up compares six words.
"""

from schemas import fields as f
from schemas.layout import TIME_NS, U8, U16, U32, U64, Bits, Field, Layout, Record, pad

LANE = Bits(
    "lane",
    "where a packet was seen and how it was marked: the part of a flow's key beside addresses,"
    " ports and protocol",
    (("point", 12), ("vlan", 12), ("dscp", 6), ("shape", 2)),
)

# What the rest of the key means.  Where a packet has two tags or came in a tunnel, the lane has the
# number of a context in place of VLAN and DSCP.
SHAPES = {"other": 0, "ipv4": 1, "ipv6": 2, "context": 3}
CONTEXT_LANE = Bits(
    "context_lane",
    "the lane of a flow whose shape is `context`",
    (("point", 12), ("context", 18), ("shape", 2)),
)

FLOW_CONTEXT = Layout(
    "flow_context",
    "What surrounds the packets of a flow, where it is more than one VLAN tag.",
    (
        f.OUTER_SRC_ADDR,
        f.OUTER_DST_ADDR,
        f.VNI,
        f.VLAN,
        f.INNER_VLAN,
        f.TUNNEL,
        Field("shape", U8, "that of the packet which gave the flow its addresses"),
        f.DSCP,
        Field("is_copy", U8, "1 where another flow counts the same packets"),
        pad(4),
    ),
)

FLOW_SLOT = Layout(
    "flow_slot",
    "One live flow on one CPU: exactly one cache line.",
    (
        f.SRC_ADDR,
        f.DST_ADDR,
        Field(
            "src_port_be",
            U16,
            "source port; ICMP: type, then code; shape `other`: the ethertype",
        ),
        Field("dst_port_be", U16, "destination port; ICMP: the id of an echo; 0 for none"),
        Field("lane", U32, LANE.doc),
        f.PROTOCOL,
        f.TCP_FLAGS.of(U8, "OR of the flags in this interval"),
        Field("generation", U16, "changes with the identity; odd while it is being replaced"),
        f.PACKETS.of(U32, "packets since the slot was taken, modulo 2^32"),
        f.BYTES.of(U64, "bytes since the slot was taken"),
        Field("last_jiffies", U32, "jiffies of the latest packet, modulo 2^32"),
        Field("min_bytes", U16, "smallest packet in this interval"),
        Field("max_bytes", U16, "largest packet in this interval"),
    ),
)

FLOW_ORIGIN = Layout(
    "flow_origin",
    "What a flow writes once an interval, kept off the hot cache line.",
    (
        Field("first_ns", U64, "CLOCK_MONOTONIC of the first packet in this interval"),
        Field("before_min_bytes", U16, "smallest packet in the flow's interval before, else 65535"),
        Field("before_max_bytes", U16, "largest packet in the flow's interval before, else 0"),
        Field("before_tcp_flags", U8, "OR of the flags in the flow's interval before, else 0"),
        pad(3),
    ),
)

FLOW_EVICTION = Layout(
    "flow_eviction",
    "A flow that had to make room, as it goes through the ring buffer.",
    (
        *FLOW_SLOT.fields,
        *FLOW_ORIGIN.fields,
        Field("slot_index", U32, "which slot of the flow cache it left"),
        pad(4),
    ),
)

FLOW = Record(
    kind="flow",
    table="flows",
    doc=(
        "What one five-tuple did at one interface and direction in one interval.  Packets"
        " without a five-tuple are rows with zero addresses under their ethertype or protocol,"
        " so that `sum(packets)` is always the whole truth."
    ),
    fields=(
        f.TIME.coded(f.MINUTE_TIME_CODEC),
        # Agents tell it in whole milliseconds, so what T64 gets is a millionth of its range.
        f.END.coded(f"GCD, {f.MINUTE_TIME_CODEC}").of(
            TIME_NS,
            "wall time of the end, nanoseconds since the epoch; known to a tick of the kernel, so"
            " rounded up to the millisecond",
        ),
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
        f.PACKETS,
        f.BYTES,
        Field(
            "min_bytes",
            U16,
            "smallest packet, in bytes; 65535 also stands for larger",
            f.COUNTER_CODEC,
        ),
        Field(
            "max_bytes",
            U16,
            "largest packet, in bytes; 65535 also stands for larger",
            f.COUNTER_CODEC,
        ),
        *f.SURROUNDINGS,
        Field(
            "inner_packets",
            U64,
            "packets in a tunnel that the row of the outer packet counts (`--tunnels both`)",
            f.COUNTER_CODEC,
        ),
        Field("inner_bytes", U64, "bytes of `inner_packets`", f.COUNTER_CODEC),
        *f.OWNER,
    ),
    # Five minutes rather than one: runs of one address, port and owner are longer, which saves more
    # than the times lose, and a question about a moment reads little more.
    order_by="toStartOfFiveMinutes(time), node, interface, direction, src_addr, dst_addr, time",
)
