# SPDX-License-Identifier: Apache-2.0
"""A Kafka record's value: one msgpack map of columns, which any msgpack library reads.

    {"v": 1, "kind": "flow", "node": "web-1", "boot_id": "…", "run": "…", "seq": 17,
     "anchor": {"monotonic_ns": …, "wall_ns": …}, "n": 2,
     "cols": {"bytes": ["<u8", bin], "interface": ["|u1", bin, ["eth0", "eth1"]], …}}

A column is its numpy type and its little-endian bytes, *n* values long.  A column of names has
the list of its categories third, and its values are indexes into that list; a column of texts has
all texts in one piece third, and its values are their lengths.  Columns are only ever appended to
a kind: a reader ignores those that it does not know, and fills those that it
misses.  What comes off a topic is untrusted: everything is checked before it is used.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from schemas.catalogue import RECORD_OF_KIND
from schemas.layout import NAME, TEXT, Field, Record
from schemas.payload import PayloadError, unpack

VERSION = 1
MAX_ROWS = 1 << 20
MAX_NAME_BYTES = 256
MAX_CATEGORIES = 1 << 16
LATEST_TIME_NS = 7_258_118_400_000_000_000  # 2200-01-01


class WireError(Exception):
    """A payload that is no valid record; the text is the reason given to the dead letter."""


@dataclass(frozen=True, slots=True)
class Names:
    """A column of repeating text: unsigned codes into a list of categories."""

    codes: NDArray[Any]
    categories: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Text:
    """A column of text that seldom repeats: the length of each, and all bytes in a row."""

    lengths: NDArray[np.uint16]
    content: NDArray[np.uint8]

    def cut(self, start: int, stop: int) -> "Text":
        """The texts of the rows from *start* up to *stop*."""
        first = int(self.lengths[:start].sum(dtype=np.int64))
        lengths = self.lengths[start:stop]
        return Text(lengths, self.content[first : first + int(lengths.sum(dtype=np.int64))])


def no_text(rows: int) -> Text:
    """As many empty texts."""
    return Text(np.zeros(rows, "<u2"), np.empty(0, np.uint8))


Column = NDArray[Any] | Names | Text


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of one kind from one node, as columns.

    `(node, boot_id, run, kind, seq)` names the batch for ever.  *unknown* are the columns that
    the payload held and this version of the schema does not.
    """

    kind: str
    node: str
    boot_id: str
    run: str
    seq: int
    anchor: Mapping[str, int]
    rows: int
    columns: Mapping[str, Column]
    unknown: tuple[str, ...] = field(default=())

    @property
    def record(self) -> Record:
        return RECORD_OF_KIND[self.kind]


def encode(batch: Batch) -> bytes:
    """The payload of *batch*, whose columns already have the types of their fields."""
    return msgpack.packb(  # type: ignore[no-any-return]
        {
            "v": VERSION,
            "kind": batch.kind,
            "node": batch.node,
            "boot_id": batch.boot_id,
            "run": batch.run,
            "seq": batch.seq,
            "anchor": dict(batch.anchor),
            "n": batch.rows,
            "cols": {name: _encode_column(column) for name, column in batch.columns.items()},
        }
    )


def _encode_column(column: Column) -> list[object]:
    if isinstance(column, Names):
        return [*_encode_values(column.codes), list(column.categories)]
    if isinstance(column, Text):
        return [*_encode_values(column.lengths), np.ascontiguousarray(column.content).data]
    return _encode_values(column)


def _encode_values(values: NDArray[Any]) -> list[object]:
    return [values.dtype.str, np.ascontiguousarray(values).view(np.uint8).data]


def decode(payload: bytes) -> Batch:
    """The batch in *payload*; its columns are views of what msgpack unpacked, not copies.

    Raises:
        WireError: the payload is not a record of this version, or is inconsistent.
    """
    content = _unpack(payload)
    if (version := content.get("v")) != VERSION:
        raise WireError(f"version is {str(version)[:40]}, this consumer reads {VERSION}")
    kind = _text(content, "kind")
    if kind not in RECORD_OF_KIND:
        raise WireError(f"kind {kind!r} is unknown")
    rows = _whole_number(content, "n", MAX_ROWS)
    known, unknown = _decode_columns(RECORD_OF_KIND[kind], content.get("cols"), rows)
    return Batch(
        kind=kind,
        node=_text(content, "node"),
        boot_id=_text(content, "boot_id"),
        run=_text(content, "run"),
        seq=_whole_number(content, "seq", (1 << 63) - 1),
        anchor=_anchor(content),
        rows=rows,
        columns=known,
        unknown=unknown,
    )


def _unpack(payload: bytes) -> dict[str, Any]:
    try:
        content = unpack(payload)
    except PayloadError as error:
        raise WireError(str(error)) from None
    if not isinstance(content, dict):
        raise WireError(f"payload is a {type(content).__name__}, not a map")
    return content


def _text(content: Mapping[str, Any], key: str) -> str:
    value = content.get(key)
    if not isinstance(value, str) or not value or len(value.encode()) > MAX_NAME_BYTES:
        raise WireError(f"{key} is not a text of 1 to {MAX_NAME_BYTES} bytes")
    return value


def _whole_number(content: Mapping[str, Any], key: str, most: int) -> int:
    value = content.get(key)
    if type(value) is not int or not 0 <= value <= most:
        raise WireError(f"{key} is {str(value)[:40]}, not a whole number from 0 to {most}")
    return value


def _anchor(content: Mapping[str, Any]) -> dict[str, int]:
    anchor = content.get("anchor")
    if not isinstance(anchor, dict) or not all(type(value) is int for value in anchor.values()):
        raise WireError("anchor is not a map of whole numbers")
    return anchor


def _decode_columns(
    record: Record, columns: object, rows: int
) -> tuple[dict[str, Column], tuple[str, ...]]:
    if not isinstance(columns, dict):
        raise WireError("cols is not a map")
    known = {
        one.name: decode_column(one, columns[one.name], rows)
        for one in record.fields
        if one.name in columns
    }
    if "time" not in known:
        raise WireError("column time is missing")
    return known, tuple(str(name) for name in columns if name not in known)


def decode_column(one: Field, encoded: object, rows: int) -> Column:
    """One column, as msgpack unpacked it.

    Raises:
        WireError: it is not *rows* values of the field *one*.
    """
    if one.kind is NAME:
        return _decode_names(one.name, encoded, rows)
    if one.kind is TEXT:
        return _decode_text(one.name, encoded, rows)
    values = _decode_values(one.name, encoded, one.kind.numpy, rows)
    _check_allowed(one, values)
    if one.name == "time":
        _check_time(values)
    return values


def _check_allowed(one: Field, values: NDArray[Any]) -> None:
    # ClickHouse stores a number that its enum has no name for, and then fails each query.
    if one.kind.allowed and not (named := _has_name(one.kind.allowed)[values]).all():
        raise WireError(f"column {one.name} has value {values[~named][0]}, which has no name")


@cache
def _has_name(allowed: tuple[int, ...]) -> NDArray[np.bool_]:
    """Of each number of one byte, whether it is in *allowed*."""
    # Most batches are small, and to look it up takes a fraction of what a search does.
    return np.isin(np.arange(256), allowed)


def _check_time(times: NDArray[Any]) -> None:
    """Refuse times that no clock shows: a partition of the table would be made for each."""
    if not len(times):
        return
    for wrong in (int(times.min()), int(times.max())):
        if not 0 <= wrong < LATEST_TIME_NS:
            raise WireError(f"column time holds {wrong}, which is not between 1970 and 2200")


def _decode_names(name: str, encoded: object, rows: int) -> Names:
    if not isinstance(encoded, list) or len(encoded) != 3:
        raise WireError(f"column {name} is not [type, bytes, categories]")
    numpy_type, content, categories = encoded
    if numpy_type not in ("|u1", "<u2"):
        raise WireError(f"column {name} has codes of type {str(numpy_type)[:40]}, not |u1 or <u2")
    codes = _decode_values(name, [numpy_type, content], numpy_type, rows)
    if not isinstance(categories, list) or len(categories) > MAX_CATEGORIES:
        raise WireError(f"column {name} has no list of at most {MAX_CATEGORIES} categories")
    for category in categories:
        if not isinstance(category, str) or len(category.encode()) > MAX_NAME_BYTES:
            raise WireError(f"column {name} has a category that is no short text")
    if rows and int(codes.max()) >= len(categories):
        raise WireError(f"column {name} has code {int(codes.max())} of {len(categories)}")
    return Names(codes, tuple(categories))


def _decode_text(name: str, encoded: object, rows: int) -> Text:
    if not isinstance(encoded, list) or len(encoded) != 3:
        raise WireError(f"column {name} is not [type, bytes, content]")
    numpy_type, lengths, content = encoded
    values = _decode_values(name, [numpy_type, lengths], "<u2", rows)
    if not isinstance(content, bytes) or len(content) != int(values.sum(dtype=np.int64)):
        raise WireError(f"column {name} has content of another length than its texts")
    return Text(values, np.frombuffer(content, np.uint8))


def _decode_values(name: str, encoded: object, numpy_type: str, rows: int) -> NDArray[Any]:
    if not isinstance(encoded, list) or len(encoded) != 2:
        raise WireError(f"column {name} is not [type, bytes]")
    given, content = encoded
    if given != numpy_type:
        raise WireError(f"column {name} has type {str(given)[:40]}, not {numpy_type}")
    dtype = np.dtype(numpy_type)
    if not isinstance(content, bytes) or len(content) != rows * dtype.itemsize:
        raise WireError(f"column {name} does not hold {rows} values of {dtype.itemsize} bytes")
    return np.frombuffer(content, dtype)
