# SPDX-License-Identifier: Apache-2.0
"""Rollups: tables of sums that ClickHouse keeps beside the rows, declared once like the records.

A materialized view adds each inserted block to its rollup, by minute or by day.  There are few,
because every one of them costs the insert: one without addresses, for what passed where and when;
one of edges, for who talked to whom; one of addresses, which is made of the edges' sums.  Ports of
clients are in none: they are drawn anew for each connection, and nothing would be left to sum up.

A rollup that is to hold something else is another table with another name: what has been summed up
cannot be summed up otherwise later.
"""

from dataclasses import dataclass

from schemas import fields as f
from schemas.clickhouse import NODE
from schemas.flow import FLOW
from schemas.layout import ADDR, U8, U16, U64, Field, Kind, enum8

# Where it is 0, one side has no port, and there is no telling who serves.
SERVICE_PORT = "if(src_port = 0 OR dst_port = 0, 0, least(src_port, dst_port))"
SERVERS = {"none": 0, "src": 1, "dst": 2}
SERVER = "multiIf(src_port = 0 OR dst_port = 0, 0, src_port < dst_port, 1, 2)"
SIDES = {"src": 1, "dst": 2}
MINUTE_S = 60
DAY_S = 86_400

# ClickHouse makes them of the time; no struct and no record has one.
_MINUTE = Kind("", "", "DateTime('UTC')", 4, 4)
_DATE = Kind("", "", "Date", 2, 2)


@dataclass(frozen=True, slots=True)
class Part:
    """One column of a rollup, and the expression over its source that makes it."""

    field: Field
    sql: str
    function: str = ""  # what joins two values of it; empty for what they are told apart by

    @property
    def type(self) -> str:
        """As ClickHouse declares it."""
        kind = self.field.kind.clickhouse
        return f"SimpleAggregateFunction({self.function}, {kind})" if self.function else kind


@dataclass(frozen=True, slots=True)
class Rollup:
    """One table of sums: of what, by what, and in which order.

    *source* is the table whose inserted blocks are added: that of a record, or another rollup's.
    The first part is the time, in steps of *bucket_s* seconds.
    """

    table: str
    source: str
    doc: str
    bucket_s: int
    parts: tuple[Part, ...]
    order_by: str
    join: str = ""  # more rows than the source has: an ARRAY JOIN of it

    @property
    def view(self) -> str:
        """The name of the materialized view that fills it."""
        return f"{self.table}_view"

    @property
    def time(self) -> Part:
        """The part by which it is partitioned."""
        return self.parts[0]

    @property
    def keys(self) -> frozenset[str]:
        """What its rows are told apart by, the time aside."""
        return frozenset(part.field.name for part in self.parts[1:] if not part.function)


def _same(field: Field) -> Part:
    return Part(field, field.name)


def _sums(flows: str) -> tuple[Part, ...]:
    """Of the rows of the source, which hold *flows* rows of flows each."""
    doc = "rows of `flows` that are summed up"
    return (
        Part(Field("flows", U64, doc, f.COUNTER_CODEC), flows, "sum"),
        Part(f.PACKETS, "packets", "sum"),
        Part(f.BYTES, "bytes", "sum"),
    )


_SERVICE_PORT = Part(
    Field(
        "service_port",
        U16,
        "the lower of both ports, which is the service's where clients take high ones; 0 where"
        " there are no ports",
    ),
    SERVICE_PORT,
)
_SERVER = Part(
    Field(
        "server",
        enum8(**SERVERS),
        "whose port `service_port` is: `dst` in what clients send, `src` in what they get",
    ),
    SERVER,
)
_MINUTES = Part(
    Field("minute", _MINUTE, "in which the rows' `time` is", "Delta(4), ZSTD(1)"),
    "toDateTime(toStartOfMinute(time), 'UTC')",
)
_DAYS = Field("date", _DATE, "day in UTC in which the rows' `time` is")

FLOWS_1M = Rollup(
    table="flows_1m",
    source=FLOW.table,
    doc="What passed an interface in a minute, by protocol and service, without addresses.",
    bucket_s=MINUTE_S,
    parts=(
        _MINUTES,
        *map(_same, (NODE, f.INTERFACE, f.DIRECTION, f.ETHERTYPE, f.PROTOCOL)),
        _SERVICE_PORT,
        *_sums("1"),
    ),
    order_by="node, interface, direction, ethertype, protocol, service_port, minute",
)
EDGES_1D = Rollup(
    table="edges_1d",
    source=FLOW.table,
    doc=(
        "Who talked to whom on a day, by which service and for which process, as a node saw it in"
        " one direction, at all of its interfaces together."
    ),
    bucket_s=DAY_S,
    parts=(
        Part(_DAYS, "toDate(time, 'UTC')"),
        *map(_same, (NODE, f.DIRECTION, f.SRC_ADDR, f.DST_ADDR, f.ETHERTYPE, f.PROTOCOL)),
        _SERVICE_PORT,
        _SERVER,
        *map(_same, (f.COMMAND, f.UNIT)),
        *_sums("1"),
        Part(f.TCP_FLAGS.of(U8, "flags of any of them"), "tcp_flags", "groupBitOr"),
    ),
    order_by=(
        "src_addr, dst_addr, ethertype, protocol, service_port, server, node, direction, unit,"
        " command"
    ),
)
ADDRESSES_1D = Rollup(
    table="addresses_1d",
    source=EDGES_1D.table,
    doc=(
        "What each address sent and received on a day, as all nodes saw it in one direction."
        "  Every row of `flows` is in here twice, once for each side."
    ),
    bucket_s=DAY_S,
    parts=(
        Part(_DAYS, "date"),
        Part(
            Field(
                "side",
                enum8(**SIDES),
                "`src`: as the source, so these are what it sent; `dst`: as the destination",
            ),
            "one.1",
        ),
        _same(f.DIRECTION),
        Part(Field("address", ADDR, "the address; IPv4 is mapped into ::ffff/96"), "one.2"),
        *_sums("flows"),
    ),
    order_by="side, direction, address",
    join="ARRAY JOIN [(1, src_addr), (2, dst_addr)] AS one",
)
ROLLUPS = (FLOWS_1M, EDGES_1D, ADDRESSES_1D)
