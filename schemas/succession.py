# SPDX-License-Identifier: Apache-2.0
"""What an agent keeps beside what the kernel counts, for the agent that comes after it.

It lives in BPF maps that are pinned with those of the programs, so it is there exactly as long as
they are, whatever becomes of the process.  The kernel programs do not know of it.
"""

from schemas import fields as f
from schemas.layout import U8, U16, U32, U64, Field, Layout, pad, raw

FLOW_REPORTED = Layout(
    "flow_reported",
    "What has been reported of the flow in one slot of the flow cache.",
    (
        Field("first_ns", U64, "`flow_origin.first_ns` of the interval that was reported last"),
        f.BYTES.of(U64, "bytes reported since the flow took the slot"),
        f.PACKETS.of(U32, "packets reported, modulo 2^32"),
        Field("lane", U32, "the flow's lane"),
        Field("generation", U16, "the slot's generation when it was reported"),
        Field("min_bytes", U16, "smallest packet reported of that interval"),
        Field("max_bytes", U16, "largest packet reported of that interval"),
        f.TCP_FLAGS.of(U8, "flags reported of that interval"),
        pad(1),
    ),
)

NAME_BYTES = 256
PAIR_STATES = {"free": 0, "taken": 1, "settling": 2}

HOOK_PAIR = Layout(
    "hook_pair",
    "Whose packets the two hook points of a pair count, and by which programs.",
    (
        Field("ingress_packets", U64, "what the interface had received when it came to the pair"),
        Field("ingress_bytes", U64, "bytes of those"),
        Field("egress_packets", U64, "what the interface had sent when it came to the pair"),
        Field("egress_bytes", U64, "bytes of those"),
        Field("netns", U64, "inode of the interface's network namespace, 0 for the agent's own"),
        Field("ifindex", U32, "index of the interface, in that namespace"),
        Field("state", U8, "free, taken, or settling since its interface has gone"),
        Field("ingress_hook", U8, "where packets received are counted; 0 until that is known"),
        Field("egress_hook", U8, "where packets sent are counted; 0 until that is known"),
        Field("is_qdisc_ours", U8, "1 where the clsact qdisc was made by an agent"),
        Field("is_jumbo", U8, "1 where the XDP program is the one for frames of several buffers"),
        Field("link_bytes", U8, "length of its link header"),
        pad(6),
        Field("mac", raw(32), "its link-layer address as text"),
        Field("name", raw(NAME_BYTES), "its name, behind that of its namespace and a slash"),
    ),
)
