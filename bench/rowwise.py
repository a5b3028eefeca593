# SPDX-License-Identifier: Apache-2.0
"""Flow rows in the formats in which others put them into Kafka: what a peer reads.

Native is ClickHouse's own, column by column; MsgPack and JSONEachRow are what producers send that
know no columns: one row after the other.
"""

import json
from collections.abc import Callable
from ipaddress import IPv6Address
from typing import Any

import msgpack

from consumer.block import native_block
from schemas import wire
from schemas.clickhouse import columns
from schemas.flow import FLOW
from schemas.layout import TIME_NS


def _native(batch: wire.Batch) -> bytes:
    return native_block(FLOW, [batch])


def _msgpack(batch: wire.Batch) -> bytes:
    """One value after the other, as MsgPack of ClickHouse reads them."""
    pack = msgpack.Packer().pack
    rows = zip(*_lists(batch).values(), strict=True)
    return b"".join(pack(value) for row in rows for value in row)


def _json(batch: wire.Batch) -> bytes:
    """Times and enums as numbers, addresses as text: what JSON has, and ClickHouse reads fastest."""
    lists = _lists(batch)
    for field in FLOW.fields:
        if field.kind is TIME_NS:
            lists[field.name] = [f"{at // 10**9}.{at % 10**9:09}" for at in lists[field.name]]
        elif field.kind.numpy.startswith("|V"):
            lists[field.name] = [str(IPv6Address(value)) for value in lists[field.name]]
    rows = zip(*lists.values(), strict=True)
    return b"\n".join(json.dumps(dict(zip(lists, row, strict=True))).encode() for row in rows)


def _lists(batch: wire.Batch) -> dict[str, list[Any]]:
    """The values of each column of the table."""
    named = {"node": batch.node, "run": batch.run, "seq": batch.seq}
    lists: dict[str, list[Any]] = {}
    for field in columns(FLOW):
        column = batch.columns.get(field.name)
        if column is None:
            lists[field.name] = [named[field.name]] * batch.rows
        elif isinstance(column, wire.Names):
            lists[field.name] = [column.categories[code] for code in column.codes]
        elif column.dtype.kind == "V":
            lists[field.name] = [value.tobytes() for value in column]
        else:
            lists[field.name] = column.tolist()
    return lists


FORMATS: dict[str, Callable[[wire.Batch], bytes]] = {
    "Native": _native,
    "MsgPack": _msgpack,
    "JSONEachRow": _json,
}
