# SPDX-License-Identifier: Apache-2.0
"""Rows as agents report them, for detectors to look at: some traffic in a few words."""

from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any

import numpy as np

from consumer.alerts.alert import Sighting
from consumer.alerts.detector import Detector
from consumer.alerts.rows import NS_PER_S, Rows
from schemas import wire
from schemas.catalogue import RECORD_OF_KIND
from schemas.layout import ADDR, NAME, TEXT, Field
from tests.schemas.batches import text_column

# A day on which nothing happened.
BEGIN_S = 1_790_000_000
SYN, ACK, RST, SYN_ACK, WHOLE = 2, 16, 4, 18, 27


def raw(text: str) -> bytes:
    """The 16 bytes of an address."""
    address = ip_address(text)
    return address.packed if address.version == 6 else b"\0" * 10 + b"\xff\xff" + address.packed


def many(numbers: Any, net: str = "0.0.0.0") -> Any:
    """IPv4 addresses: *net* and the numbers added to it."""
    values = (np.asarray(numbers, np.uint64) + int(ip_address(net))).astype(">u4")
    octets = np.zeros((len(values), 16), np.uint8)
    octets[:, 10:12] = 255
    octets[:, 12:] = values.view(np.uint8).reshape(-1, 4)
    return octets.reshape(-1).view("|V16")


def batch(
    kind: str = "flow",
    *,
    rows: int = 1,
    node: str = "web-1",
    run: str = "r",
    seq: int = 0,
    begin_s: float = BEGIN_S,
    **columns: Any,
) -> wire.Batch:
    """Rows of one kind; what is not given is zero, or eth0 and ingress.

    *time* is in seconds after *begin_s*; a text is an address, a name or a DNS name.
    """
    columns = {"interface": "eth0", "direction": 1, "protocol": 6, "packets": 1, **columns}
    if kind == "flow":
        columns = {"bytes": 60 * np.asarray(columns["packets"]), **columns}
    fields = RECORD_OF_KIND[kind].fields
    times = columns.pop("time", 0.0)
    columns["time"] = _ns(begin_s, times)
    if "end" in {field.name for field in fields}:
        columns["end"] = _ns(begin_s, columns.pop("end", times))
    return wire.Batch(
        kind=kind,
        node=node,
        boot_id="b",
        run=run,
        seq=seq,
        anchor={},
        rows=rows,
        # A column that is not there is zero to every reader.
        columns={
            field.name: _column(field, columns[field.name], rows)
            for field in fields
            if field.name in columns
        },
    )


def _ns(begin_s: float, seconds: Any) -> Any:
    return ((begin_s + np.asarray(seconds, float)) * NS_PER_S).astype("<i8")


def _column(field: Field, value: Any, rows: int) -> wire.Column:
    if field.kind is NAME:
        names = [value or ""] * rows if isinstance(value, str | None) else list(value)
        categories = tuple(dict.fromkeys(names))
        codes = {name: code for code, name in enumerate(categories)}
        return wire.Names(np.array([codes[one] for one in names], "<u2"), categories)
    if field.kind is TEXT:
        texts = [value or ""] * rows if isinstance(value, str | None) else value
        return text_column([text.encode() for text in texts])
    if field.kind is ADDR:
        return np.frombuffer(raw(value) * rows, "|V16") if isinstance(value, str) else value
    filled = np.empty(rows, field.kind.numpy)
    filled[:] = value
    return filled


def show(detector: Detector, *batches: wire.Batch, now: float) -> list[Sighting]:
    """What a detector sees in *batches* of one kind, *now* seconds after the begin."""
    now_ns = int((BEGIN_S + now) * NS_PER_S)
    return [*detector.take(Rows(batches), now_ns), *detector.look(now_ns)]


def look(detector: Detector, *, now: float) -> Sequence[Sighting]:
    return detector.look(int((BEGIN_S + now) * NS_PER_S))
