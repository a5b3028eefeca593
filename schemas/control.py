# SPDX-License-Identifier: Apache-2.0
"""What the agent and the kernel programs tell each other: not events, but shared memory."""

from schemas.layout import U8, U16, U32, U64, Field, Layout, pad

INTERFACE_ENTRY = Layout(
    "interface_entry",
    "What the programs must know of one interface, found by its index.",
    (
        Field("ifindex", U32, "0 where the entry is free; checked, since indexes share entries"),
        Field("ingress_point", U16, "hook point of packets received"),
        Field("egress_point", U16, "hook point of packets sent"),
        Field("link_bytes", U8, "length of the link header: 14 for Ethernet, 0 for layer-3 links"),
        pad(7),
    ),
)

AGENT_CLOCK = Layout(
    "agent_clock",
    "Two clocks read at one moment by the kernel, and when the agent began an interval.",
    (
        Field("jiffies", U64, "jiffies_64 at the reading"),
        Field("monotonic_ns", U64, "CLOCK_MONOTONIC at the reading"),
        Field("interval_jiffies", U32, "low half of the jiffies with which this interval began"),
        pad(4),
    ),
)
