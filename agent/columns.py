# SPDX-License-Identifier: Apache-2.0
"""From what the kernel wrote to the columns of records: whole arrays, never row by row."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.clock import Anchor
from agent.flowcache import Counted
from agent.owners import OwnerLookup
from agent.points import HookPoints
from agent.rows import Rows
from agent.surroundings import copies, surroundings
from schemas.dtype import unpack
from schemas.flow import FLOW, LANE, SHAPES
from schemas.layout import NAME, TEXT, Record
from schemas.packet import PACKET
from schemas.wire import Column, Names, Text, no_text

_ETHERTYPE_OF_SHAPE = {SHAPES["ipv4"]: 0x0800, SHAPES["ipv6"]: 0x86DD}
_ICMP = 1
_ICMPV6 = 58

Columns = Mapping[str, Column]


def flow_columns(
    counted: Counted,
    points: HookPoints,
    contexts: Rows,
    anchor: Anchor,
    owners: OwnerLookup | None = None,
) -> Columns:
    """The columns of `flow` records, with those of their owners where they are looked up."""
    slots = counted.slots
    is_copy = copies(slots["lane"], contexts)
    start_ns = anchor.wall_from_monotonic(counted.first_ns)
    # The start is exact, the end is known to the tick; a row never ends before it starts.
    end_ns = np.maximum(anchor.wall_from_jiffies(slots["last_jiffies"]), start_ns)
    columns: dict[str, Any] = {
        "time": start_ns,
        "end": anchor.known_end(end_ns),
        **identity(slots, points, contexts),
        "packets": np.where(is_copy, 0, counted.packets),
        "bytes": np.where(is_copy, 0, counted.bytes),
        "inner_packets": np.where(is_copy, counted.packets, 0),
        "inner_bytes": np.where(is_copy, counted.bytes, 0),
        "min_bytes": slots["min_bytes"],
        "max_bytes": slots["max_bytes"],
    }
    if owners is not None:
        columns |= owners.flow_columns(columns, anchor.wall_ns - anchor.monotonic_ns)
    return typed(FLOW, columns)


def total_columns(
    point: NDArray[Any],
    packets: NDArray[np.uint64],
    in_bytes: NDArray[np.uint64],
    points: HookPoints,
    *,
    start_ns: int,
    end_ns: int,
) -> Columns:
    """The columns of `flow` records for totals by hook point whose flows are not known."""
    return typed(
        FLOW,
        {
            "time": np.full(len(point), start_ns, np.int64),
            "end": np.full(len(point), end_ns, np.int64),
            **points.columns(point),
            "packets": packets,
            "bytes": in_bytes,
        },
    )


def packet_columns(contexts: Rows, events: Rows, points: HookPoints, anchor: Anchor) -> Columns:
    """The columns of `packet` records."""
    return typed(
        PACKET,
        {
            "time": anchor.wall_from_monotonic(events["seen_ns"]),
            **identity(events, points, contexts),
            **{
                name: events[name]
                for name in ("hop_limit", "reason", "packets", "bytes", "header_bytes", "header")
            },
        },
    )


def identity(rows: Rows, points: HookPoints, contexts: Rows) -> dict[str, Any]:
    """The columns that a slot's or an event's key holds."""
    around = surroundings(rows["lane"], contexts)
    shape = around.pop("shape")
    protocol = rows["protocol"]
    is_icmp = (shape != SHAPES["other"]) & ((protocol == _ICMP) | (protocol == _ICMPV6))
    is_other = shape == SHAPES["other"]
    first, second = rows["src_port_be"].byteswap(), rows["dst_port_be"].byteswap()
    type_and_code = np.where(is_icmp, first, 0)
    return {
        **points.columns(unpack(LANE, "point", rows["lane"])),
        "src_addr": rows["src_addr"],
        "dst_addr": rows["dst_addr"],
        "src_port": np.where(is_icmp | is_other, 0, first),
        "dst_port": np.where(is_icmp, 0, second),
        "protocol": protocol,
        "ethertype": _ethertype(shape, first),
        "icmp_type": type_and_code >> 8,
        "icmp_code": type_and_code & 0xFF,
        "icmp_id": np.where(is_icmp, second, 0),
        "tcp_flags": rows["tcp_flags"],
        **around,
    }


def _ethertype(shape: NDArray[np.uint16], first: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """By the shape of the key; where that is `other`, the key holds the ethertype itself."""
    ethertype = first.copy()
    for known, number in _ETHERTYPE_OF_SHAPE.items():
        ethertype[shape == known] = number
    return ethertype


def typed(record: Record, columns: Mapping[str, Any]) -> dict[str, Column]:
    """The columns in the order and types of *record*; those not given are zero."""
    rows = len(columns["time"])
    typed: dict[str, Column] = {}
    for field in record.fields:
        values = columns.get(field.name)
        if field.kind is NAME:
            typed[field.name] = values if isinstance(values, Names) else _no_names(rows)
        elif field.kind is TEXT:
            typed[field.name] = values if isinstance(values, Text) else no_text(rows)
        elif values is None:
            typed[field.name] = np.zeros(rows, field.kind.numpy)
        else:
            typed[field.name] = np.ascontiguousarray(values, np.dtype(field.kind.numpy))
    return typed


def _no_names(rows: int) -> Names:
    return Names(np.zeros(rows, np.uint8), ("",))
