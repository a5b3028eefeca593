# SPDX-License-Identifier: Apache-2.0
"""Batches of plausible rows for tests."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from schemas import wire
from schemas.catalogue import RECORD_OF_KIND
from schemas.layout import NAME, TEXT, TIME_NS, Field

NAMES = ("eth0", "lo", "wg-office")


def a_batch(kind: str = "flow", rows: int = 3, **changes: Any) -> wire.Batch:
    """A batch whose every column is filled; *changes* replace parts of it, or columns in it."""
    columns = {
        field.name: a_column(field, rows, salt)
        for salt, field in enumerate(RECORD_OF_KIND[kind].fields)
    }
    columns |= changes.pop("columns", {})
    parts = {
        "kind": kind,
        "node": "web-1",
        "boot_id": "5a1f",
        "run": "r-1",
        "seq": 0,
        "anchor": {"monotonic_ns": 12, "wall_ns": 34},
        "rows": rows,
        "columns": columns,
    }
    return wire.Batch(**{**parts, **changes})


def a_column(field: Field, rows: int, salt: int) -> wire.Column:
    """Values that differ from row to row and from column to column."""
    numbers = np.arange(rows, dtype=np.uint64) * 7 + salt
    if field.kind is NAME:
        return wire.Names((numbers % len(NAMES)).astype("|u1"), NAMES)
    if field.kind is TEXT:
        return text_column([b"x" * int(number % 300) for number in numbers])
    if field.kind is TIME_NS:
        # Recent, because ClickHouse deletes what is older than the retention.
        return (time.time_ns() + numbers.astype(np.int64)).astype("<i8")
    if field.kind.allowed:
        return np.array(field.kind.allowed, "|u1")[numbers.astype(int) % len(field.kind.allowed)]
    if field.kind.numpy.startswith("|V"):
        width = field.kind.size_bytes
        # Ends in zeros, as addresses do and as numpy's own text type would strip.
        content = np.zeros((rows, width), np.uint8)
        content[:, : width - 2] = (numbers[:, None] + np.arange(width - 2)[None, :]) % 251
        return content.view(field.kind.numpy).reshape(rows)
    return (numbers % 251).astype(field.kind.numpy)


def text_column(values: Sequence[bytes]) -> wire.Text:
    """A column of these texts."""
    content = np.frombuffer(b"".join(values), np.uint8)
    return wire.Text(np.array([len(value) for value in values], "<u2"), content)


def plain_texts(column: wire.Text) -> list[bytes]:
    """The texts of a column."""
    ends = np.cumsum(column.lengths, dtype=int)
    content = column.content.tobytes()
    return [content[end - length : end] for end, length in zip(ends, column.lengths, strict=True)]


def same_columns(one: wire.Batch, other: wire.Batch) -> bool:
    """Whether two batches hold equal columns."""
    return one.columns.keys() == other.columns.keys() and all(
        _same(one.columns[name], other.columns[name]) for name in one.columns
    )


def _same(one: wire.Column, other: wire.Column) -> bool:
    if isinstance(one, wire.Names) or isinstance(other, wire.Names):
        return (
            isinstance(one, wire.Names)
            and isinstance(other, wire.Names)
            and one.categories == other.categories
            and bool((one.codes == other.codes).all())
        )
    if isinstance(one, wire.Text) or isinstance(other, wire.Text):
        return (
            isinstance(one, wire.Text)
            and isinstance(other, wire.Text)
            and plain_texts(one) == plain_texts(other)
        )
    return one.dtype == other.dtype and one.tobytes() == other.tobytes()
