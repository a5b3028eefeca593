# SPDX-License-Identifier: Apache-2.0
"""Whatever somebody writes into a topic, unpacking it takes bounded memory and time."""

import copy
import struct
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import wire
from schemas.payload import (
    MAX_LISTS,
    MAX_MAP_ENTRIES,
    MAX_MAPS,
    MAX_PAYLOAD_BYTES,
    PayloadError,
    unpack,
)
from tests.schemas.batches import a_batch

# Less than the largest, as watching every allocation takes its time.
ROOM = 1 << 19


def array_of(item: bytes) -> bytes:
    """A list of as many of these as a payload may hold."""
    count = ROOM // len(item)
    return b"\xdd" + struct.pack(">I", count) + item * count


def nested(opening: bytes) -> bytes:
    """Each inside the last entry of the one before, as deep as may be."""
    depth = min(ROOM // len(opening), 500)
    return opening * depth + b"\xc0"


KEYS = b"".join(msgpack.packb(f"{at:02x}") + b"\xc0" for at in range(MAX_MAP_ENTRIES - 1))
HOSTILE = {
    "empty maps": array_of(b"\x80"),
    "empty lists": array_of(b"\x90"),
    "nothings": array_of(b"\xc0"),
    "numbers": array_of(b"\xcd\x0f\xff"),
    "fractions": array_of(b"\xcb" + struct.pack(">d", 0.1)),
    "short texts": array_of(b"\xa4" + "äö".encode()),
    "short bytes": array_of(b"\xc4\x02ab"),
    "times": array_of(b"\xd6\xff\0\0\0\1"),
    "own types": array_of(b"\xd4\x05a"),
    "own types of no length": array_of(b"\xc7\0\5"),
    "deep maps": nested(b"\xde" + struct.pack(">H", MAX_MAP_ENTRIES) + KEYS + b"\xa1x"),
    "deep lists": nested(b"\xdc" + struct.pack(">H", 8000) + b"\xc0" * 7999),
    "a map of too many": b"\xdf" + struct.pack(">I", ROOM // 2) + b"\xa0\xc0" * (ROOM // 2),
    "a length that lies": b"\xdd\xff\xff\xff\xff\xc0",
    "bytes that are not there": b"\xc6\xff\xff\xff\xff",
    "too deep": b"\x91" * ROOM,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_payload_takes_no_more_memory_than_forty_times_its_size(name):
    payload = HOSTILE[name]
    tracemalloc.start()
    try:
        with suppress(PayloadError):
            unpack(payload)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak_bytes < 40 * len(payload) + (1 << 16)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (bytes(MAX_PAYLOAD_BYTES + 1), f"payload has {MAX_PAYLOAD_BYTES + 1} bytes, more than"),
        (msgpack.packb([{}] * (MAX_MAPS + 1)), f"payload holds more than {MAX_MAPS} maps"),
        (msgpack.packb([[]] * (MAX_LISTS + 1)), f"payload holds more than {MAX_LISTS} lists"),
        (b"\x82\xa1a\x01\xa1a\x02", "payload holds a map in which a key stands twice"),
        (b"\x81\xc4\x01a\x01", "payload holds a key that is no text"),
        (b"\x81\x01\x01", "payload is no msgpack: int is not allowed for map key"),
        (b"\xc7\0\5", "payload holds a value of the extension type 5"),
        (b"\xd6\xff\0\0\0\1", "payload is no msgpack: 5 exceeds max_ext_len"),
    ],
)
def test_what_no_record_holds_is_refused_with_the_reason(payload, reason):
    with pytest.raises(PayloadError, match=reason):
        unpack(payload)


# Changes to the structure of a record, which leave it msgpack.

CONTENT = msgpack.unpackb(wire.encode(a_batch("flow", rows=3)))
COLUMNS = sorted(CONTENT["cols"])
Change = Callable[[dict[str, Any]], None]


def _set_rows(rows: int) -> Change:
    return lambda content: content.update(n=rows)


def _set_part(column: str, part: int, value: object) -> Change:
    def change(content: dict[str, Any]) -> None:
        parts = content["cols"][column]
        parts[part % len(parts)] = value

    return change


def _swap(one: str, other: str) -> Change:
    def change(content: dict[str, Any]) -> None:
        columns = content["cols"]
        columns[one], columns[other] = columns[other], columns[one]

    return change


def _add_columns(count: int) -> Change:
    return lambda content: content["cols"].update({f"future_{at}": [] for at in range(count)})


column_names = st.sampled_from(COLUMNS)
scalars = st.none() | st.integers(-(1 << 63), (1 << 64) - 1) | st.text(max_size=9) | st.binary()
values = scalars | st.lists(scalars, max_size=9) | st.dictionaries(st.text(max_size=3), scalars)
types = st.sampled_from(["<u8", ">u8", "|u1", "<u2", "<i8", "|V16", "|O", "|S4", "<M8[ns]", "u8"])
changes = st.one_of(
    st.builds(_set_rows, st.integers(-1, 1 << 21)),
    st.builds(_set_part, column_names, st.integers(0, 2), values | types),
    st.builds(_set_part, column_names, st.just(1), st.binary(max_size=100)),
    st.builds(_swap, column_names, column_names),
    st.builds(_add_columns, st.integers(0, MAX_MAP_ENTRIES)),
)


@given(st.lists(changes, max_size=4))
def test_a_record_of_another_structure_is_decoded_or_rejected(many):
    content = copy.deepcopy(CONTENT)
    for change in many:
        change(content)

    with suppress(wire.WireError):
        decoded = wire.decode(msgpack.packb(content))
        assert all(len(one) == decoded.rows for one in _arrays(decoded))


def _arrays(batch: wire.Batch) -> list[Any]:
    lengths = {wire.Names: lambda one: one.codes, wire.Text: lambda one: one.lengths}
    return [lengths.get(type(one), lambda one: one)(one) for one in batch.columns.values()]
