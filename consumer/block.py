# SPDX-License-Identifier: Apache-2.0
"""Build one ClickHouse Native block from the columns of many records.

Native is the layout in which ClickHouse keeps columns in memory, so the server copies where
every other format parses.  Numbers and addresses of all records are joined as they are; only
columns of names are renumbered, through a table as long as their categories, and texts get their
lengths in front, all at once.  No value of any row becomes a Python object.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.clickhouse import NODE, RUN, SEQ, columns
from schemas.layout import NAME, TEXT, Field, Record
from schemas.wire import Batch, Names, Text, no_text

# LowCardinality in Native: the version of its dictionary, then flags above the index type.
# https://github.com/ClickHouse/ClickHouse/blob/master/src/DataTypes/Serializations/SerializationLowCardinality.cpp
SHARED_DICTIONARIES_VERSION = 1
HAS_ADDITIONAL_KEYS = 1 << 9
NEEDS_NEW_DICTIONARY = 1 << 10
INDEX_TYPES = (np.uint8, np.uint16, np.uint32, np.uint64)  # by their number in the flags

Part = bytes | memoryview


def native_block(record: Record, batches: Sequence[Batch]) -> bytes:
    """The rows of *batches*, all of the kind *record*, as one block.

    A column that a batch does not hold is filled with ClickHouse's own default for its type.
    """
    fields = columns(record)
    parts: list[Part] = [_varint(len(fields)), _varint(sum(batch.rows for batch in batches))]
    for field in fields:
        parts += [_text(field.name), _text(field.kind.clickhouse)]
        if field is NODE:
            parts += _repeated_names([batch.node for batch in batches], batches)
        elif field is RUN:
            parts += _repeated_names([batch.run for batch in batches], batches)
        elif field is SEQ:
            parts.append(_repeated(np.array([batch.seq for batch in batches], "<u8"), batches).data)
        elif field.kind is NAME:
            parts += _names_column([_names(batch, field) for batch in batches])
        elif field.kind is TEXT:
            parts += [_strings(_texts(batch, field)).data for batch in batches]
        else:
            parts += [_values(batch, field).data for batch in batches]
    return b"".join(parts)


def native_columns(columns: Sequence[tuple[str, str, NDArray[Any] | Names]]) -> bytes:
    """Columns of one length, each with its name and ClickHouse's type, as one block."""
    _, _, first = columns[0]
    rows = len(first.codes if isinstance(first, Names) else first)
    parts: list[Part] = [_varint(len(columns)), _varint(rows)]
    for name, kind, column in columns:
        parts += [_text(name), _text(kind)]
        parts += _names_column([column]) if isinstance(column, Names) else [column.data]
    return b"".join(parts)


def joined(field: Field, batches: Sequence[Batch]) -> NDArray[Any] | Names:
    """The column *field*, which holds no texts, of all rows of *batches*."""
    if field is NODE:
        numbers = _numbered(batch.node for batch in batches)
        of_batches = np.array([numbers[batch.node] for batch in batches], _index_type(numbers))
        return Names(_repeated(of_batches, batches), tuple(numbers))
    if field.kind is NAME:
        all_names = [_names(batch, field) for batch in batches]
        numbers = _numbered(name for names in all_names for name in names.categories)
        return Names(np.concatenate(_renumbered(numbers, all_names)), tuple(numbers))
    return np.concatenate([_values(batch, field) for batch in batches])


def _values(batch: Batch, field: Field) -> NDArray[Any]:
    column = batch.columns.get(field.name)
    if isinstance(column, np.ndarray):
        return column
    defaults = np.zeros(batch.rows, field.kind.numpy)
    if field.kind.allowed:
        defaults[:] = min(field.kind.allowed)
    return defaults


def _names(batch: Batch, field: Field) -> Names:
    column = batch.columns.get(field.name)
    if isinstance(column, Names):
        return column
    return Names(np.zeros(batch.rows, np.uint8), ("",))


def _texts(batch: Batch, field: Field) -> Text:
    column = batch.columns.get(field.name)
    return column if isinstance(column, Text) else no_text(batch.rows)


def _strings(texts: Text) -> NDArray[np.uint8]:
    """Native's String: each value's length as LEB128, then its bytes."""
    lengths = texts.lengths.astype(np.int64)
    length_bytes = 1 + (lengths > 0x7F).astype(np.int64) + (lengths > 0x3FFF)
    ends = np.cumsum(length_bytes + lengths)
    starts = ends - lengths - length_bytes
    strings = np.empty(int(ends[-1]) if len(ends) else 0, np.uint8)
    is_content = np.ones(len(strings), np.bool_)
    for number in range(3):
        has_byte = length_bytes > number
        at = starts[has_byte] + number
        seven = lengths[has_byte] >> 7 * number & 0x7F
        strings[at] = seven | (length_bytes[has_byte] > number + 1) << 7
        is_content[at] = False
    strings[is_content] = texts.content
    return strings


def _repeated(of_batches: NDArray[Any], batches: Sequence[Batch]) -> NDArray[Any]:
    """What is said once of each batch, for each of its rows."""
    return np.repeat(of_batches, [batch.rows for batch in batches])


def _repeated_names(names: Sequence[str], batches: Sequence[Batch]) -> list[Part]:
    numbers = _numbered(names)
    codes = np.array([numbers[name] for name in names], _index_type(numbers))
    return _low_cardinality(numbers, [_repeated(codes, batches)])


def _names_column(all_names: Sequence[Names]) -> list[Part]:
    numbers = _numbered(name for names in all_names for name in names.categories)
    return _low_cardinality(numbers, _renumbered(numbers, all_names))


def _renumbered(numbers: dict[str, int], all_names: Sequence[Names]) -> list[NDArray[Any]]:
    index_type = _index_type(numbers)
    return [
        np.array([numbers[name] for name in names.categories], index_type)[names.codes]
        for names in all_names
    ]


def _numbered(names: Iterable[str]) -> dict[str, int]:
    return {name: number for number, name in enumerate(dict.fromkeys(names))}


def _low_cardinality(numbers: dict[str, int], codes: Sequence[NDArray[Any]]) -> list[Part]:
    if not (rows := sum(len(some) for some in codes)):
        return []
    flags = HAS_ADDITIONAL_KEYS | NEEDS_NEW_DICTIONARY | INDEX_TYPES.index(_index_type(numbers))
    header = np.array([SHARED_DICTIONARIES_VERSION, flags, len(numbers)], "<u8")
    return [
        header.data,
        *(_text(name) for name in numbers),
        np.array([rows], "<u8").data,
        *(some.data for some in codes),
    ]


def _index_type(numbers: dict[str, int]) -> type[np.unsignedinteger[Any]]:
    return next(one for one in INDEX_TYPES if len(numbers) <= np.iinfo(one).max + 1)


def _text(text: str) -> bytes:
    encoded = text.encode()
    return _varint(len(encoded)) + encoded


def _varint(number: int) -> bytes:
    # LEB128: seven bits a byte, the lowest first.
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
