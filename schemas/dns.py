# SPDX-License-Identifier: Apache-2.0
"""A DNS message: who asked whom for which name, what came back, and how long it took.

The kernel copies the beginning of each message, which holds its header and its first question
whatever their length; the rest of a message is only counted, by the header's own numbers.
"""

from schemas import fields as f
from schemas.layout import TEXT, U8, U16, U32, U64, Field, Layout, Record, pad, raw

# A header of 12 bytes, a name of at most 255 (RFC 1035), type and class; to a multiple of 8.
DNS_MESSAGE_BYTES = 272

MESSAGE_BYTES = Field("message_bytes", U16, "length of the message; over TCP, what its prefix says")

DNS_EVENT = Layout(
    "dns_event",
    "The beginning of one DNS message, as it goes through the buffer.",
    (
        f.SEEN_NS,
        f.SRC_ADDR,
        f.DST_ADDR,
        Field("src_port_be", U16, "source port"),
        Field("dst_port_be", U16, "destination port"),
        Field("lane", U32, "as in a flow's slot"),
        f.PROTOCOL,
        pad(1),
        MESSAGE_BYTES,
        Field("captured_bytes", U16, "how many bytes of `message` were captured"),
        pad(2),
        Field("message", raw(DNS_MESSAGE_BYTES), "the first bytes; what is behind them is junk"),
    ),
)

DNS = Record(
    kind="dns",
    table="dns",
    doc=(
        "DNS messages, one row each, as seen at an interface; with `--dns yes`.  A message of"
        " which not even the header is there has no row, and is counted as rejected in the ledger."
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
        Field("id", U16, "the number by which a response names its query"),
        Field("is_response", U8, "0 for a query, 1 for a response"),
        Field("opcode", U8, "kind of query (IANA DNS OpCodes): 0 query, 4 notify, 5 update"),
        Field(
            "response_code",
            U8,
            "IANA DNS RCODE of the header: 0 no error, 2 server failure, 3 no such name, 5 refused",
        ),
        Field("flags", U16, "the header's second word, of which the columns beside are parts"),
        Field("is_truncated", U8, "1 where the sender has cut the message off (TC)"),
        Field(
            "query_name",
            TEXT,
            "name of the first question, without the last dot; `.` for the root.  Bytes that are"
            " not printable are `\\DDD`, dots and backslashes inside labels have a backslash in"
            " front (RFC 4343); case is as on the wire",
        ),
        Field("query_type", U16, "IANA DNS RR type of the first question: 1 A, 28 AAAA, 65 HTTPS"),
        Field("query_class", U16, "class of the first question: 1 for the Internet"),
        Field("answers", U16, "records in the answer section, by the header"),
        Field("authorities", U16, "records in the authority section, by the header"),
        Field("additionals", U16, "records in the additional section, by the header"),
        MESSAGE_BYTES,
        Field(
            "latency_ns",
            U64,
            "of a response: since the first query with its addresses, ports, id and name at this"
            " interface; 0 where none was seen",
            "T64, ZSTD(1)",
        ),
        Field("is_malformed", U8, "1 where the question is damaged or cut off"),
    ),
    order_by="toStartOfMinute(time), node, interface, direction, query_name, time",
)
