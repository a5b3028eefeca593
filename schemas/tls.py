# SPDX-License-Identifier: Apache-2.0
"""A TLS ClientHello: which server a client asks for by name, and what it offers.

Keys that withstand quantum computers have made a ClientHello longer than a packet, and its
extensions come in random order.  So the kernel copies it in chunks, of one packet or of several,
and the agent puts them together again.
"""

from schemas import fields as f
from schemas.layout import TEXT, U8, U16, U32, Field, Layout, Record, pad, raw

# What a segment of TCP carries over Ethernet fits into one chunk: 1460 bytes at most.
TLS_CHUNK_BYTES = 1472
# A ClientHello with hybrid keys, ECH and a session ticket stays below this.
TLS_HELLO_BYTES = 4096

TLS_EVENT = Layout(
    "tls_event",
    "A part of one ClientHello, as it goes through the buffer.",
    (
        f.SEEN_NS,
        f.SRC_ADDR,
        f.DST_ADDR,
        Field("src_port_be", U16, "source port"),
        Field("dst_port_be", U16, "destination port"),
        Field("lane", U32, "as in a flow's slot"),
        Field("sequence", U32, "TCP sequence number of the first byte"),
        Field("captured_bytes", U16, "how many bytes of `chunk` were captured"),
        Field("is_start", U8, "1 where a ClientHello begins here, 0 where one goes on"),
        pad(1),
        Field("chunk", raw(TLS_CHUNK_BYTES), "the bytes; what is behind them is junk"),
    ),
)

TLS = Record(
    kind="tls",
    table="tls",
    doc=(
        "ClientHellos of TLS over TCP, on whatever port, one row each, as seen at an interface;"
        " with `--tls yes`."
    ),
    fields=(
        f.TIME,
        f.INTERFACE,
        f.DIRECTION,
        f.SRC_ADDR,
        f.DST_ADDR,
        f.SRC_PORT,
        f.DST_PORT,
        f.PROTOCOL,
        Field(
            "server_name",
            TEXT,
            "name that the client asks for (SNI), empty where it does not say; bytes that are not"
            " printable are `\\DDD`",
        ),
        Field(
            "alpn",
            TEXT,
            "protocols that the client offers (ALPN), in its order, with commas between",
        ),
        Field("legacy_version", U16, "version in the ClientHello: 771 is TLS 1.2, also in TLS 1.3"),
        Field("version", U16, "highest version offered: 769 TLS 1.0, 771 TLS 1.2, 772 TLS 1.3"),
        Field(
            "is_ech_offered",
            U8,
            "1 where an encrypted ClientHello is offered, or what looks like one (GREASE)",
        ),
        Field("hello_bytes", U32, "length of the ClientHello, by its own header"),
        Field(
            "is_malformed",
            U8,
            "1 where it could not be read to its end: damaged, longer than 4096 bytes, or a part"
            " of it was not seen",
        ),
    ),
    order_by="toStartOfMinute(time), node, interface, direction, server_name, time",
)
