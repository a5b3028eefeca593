# SPDX-License-Identifier: Apache-2.0
"""A captured packet on its way to `hookline capture`, and the books of one capture."""

from schemas import fields as f
from schemas.layout import U16, U32, U64, Field, Layout, pad

# As much of a packet as tcpdump takes by default; the kernel's largest are 64 KiB, or 512 with
# BIG TCP.
CAPTURE_BYTES = 1 << 18
# As many captures can run beside each other.
CAPTURE_SLOTS = 4

CAPTURED_FRAME = Layout(
    "captured_frame",
    "What stands in front of a captured packet's bytes in the ring buffer.",
    (
        f.SEEN_NS,
        f.SRC_ADDR,
        f.DST_ADDR,
        Field("src_port", U16, f.SRC_PORT.doc),
        Field("dst_port", U16, f.DST_PORT.doc),
        Field("point", U16, "hook point, which tells interface and direction"),
        Field("protocol", U16, f.PROTOCOL.doc),
        Field("bytes", U32, "length of the frame, with a VLAN tag that the kernel kept aside"),
        Field("captured_bytes", U32, "how many of them follow"),
        pad(8),
    ),
)

CAPTURE_BOOKS = Layout(
    "capture_books",
    "What one capture has seen at one hook point on one CPU.",
    (
        Field("seen_packets", U64, "packets that the filter was asked about"),
        Field("matched_packets", U64, "packets that it means"),
        Field("lost_packets", U64, "of those, the ones that the ring buffer had no room for"),
        pad(8),
    ),
)
