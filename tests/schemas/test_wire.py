# SPDX-License-Identifier: Apache-2.0
import json
from contextlib import suppress
from pathlib import Path

import msgpack
import msgpack.fallback
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas import wire
from schemas.catalogue import RECORD_OF_KIND, RECORDS
from schemas.layout import NAME, TEXT, TIME_NS
from tests.schemas.batches import a_batch, plain_texts, same_columns, text_column

VECTORS = Path(__file__).parent / "vectors"
KINDS = [record.kind for record in RECORDS]
A_FLOW = wire.encode(a_batch("flow", rows=2))
A_DNS = wire.encode(a_batch("dns", rows=2))


def changed(**changes: object) -> bytes:
    """The payload of a flow batch with some of its keys replaced."""
    return msgpack.packb({**msgpack.unpackb(A_FLOW), **changes})


def with_column(name: str, column: object) -> bytes:
    return changed(cols={**msgpack.unpackb(A_FLOW)["cols"], name: column})


@st.composite
def batches(draw: st.DrawFn) -> wire.Batch:
    kind = draw(st.sampled_from(KINDS))
    rows = draw(st.integers(0, 20))
    texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)
    columns: dict[str, wire.Column] = {}
    for field in RECORD_OF_KIND[kind].fields:
        if field.kind is NAME:
            categories = tuple(draw(st.lists(texts, min_size=1, max_size=5)))
            codes = draw(
                st.lists(st.integers(0, len(categories) - 1), min_size=rows, max_size=rows)
            )
            columns[field.name] = wire.Names(
                np.array(codes, draw(st.sampled_from(["|u1", "<u2"]))), categories
            )
        elif field.kind is TEXT:
            columns[field.name] = text_column(
                draw(st.lists(st.binary(max_size=300), min_size=rows, max_size=rows))
            )
        elif field.kind.allowed:
            numbers = st.lists(st.sampled_from(field.kind.allowed), min_size=rows, max_size=rows)
            columns[field.name] = np.array(draw(numbers), "|u1")
        elif field.kind is TIME_NS and field.name == "time":
            times = st.lists(st.integers(0, wire.LATEST_TIME_NS - 1), min_size=rows, max_size=rows)
            columns[field.name] = np.array(draw(times), "<i8")
        else:
            width = rows * field.kind.size_bytes
            columns[field.name] = np.frombuffer(
                draw(st.binary(min_size=width, max_size=width)), field.kind.numpy
            )
    return a_batch(
        kind,
        rows,
        columns=columns,
        node=draw(texts),
        boot_id=draw(texts),
        run=draw(texts),
        seq=draw(st.integers(0, (1 << 63) - 1)),
        anchor={"monotonic_ns": draw(st.integers(0, 1 << 60))},
    )


@given(batches())
def test_what_is_encoded_is_decoded(batch):
    decoded = wire.decode(wire.encode(batch))

    assert same_columns(decoded, batch)
    for name in ("kind", "node", "boot_id", "run", "seq", "anchor", "rows"):
        assert getattr(decoded, name) == getattr(batch, name)
    assert decoded.unknown == ()


@given(st.binary(max_size=200))
@example(b"")
@example(b"\x81" * 2000)
@example(b"\xc7\x0c\xff" + b"\xff" * 12)
def test_arbitrary_bytes_are_rejected_and_nothing_else_happens(payload):
    with pytest.raises(wire.WireError):
        wire.decode(payload)


@given(
    st.lists(
        st.tuples(st.integers(0, len(A_FLOW) - 1), st.integers(0, 255)), min_size=1, max_size=4
    ),
    st.integers(0, len(A_FLOW)),
)
def test_a_damaged_record_is_decoded_or_rejected_and_nothing_else_happens(damage, length):
    payload = bytearray(A_FLOW)
    for at, value in damage:
        payload[at] = value

    for damaged in (bytes(payload), bytes(payload[:length])):
        with suppress(wire.WireError):
            assert isinstance(wire.decode(damaged), wire.Batch)


anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@given(st.sampled_from([*msgpack.unpackb(A_FLOW)]), anything)
def test_any_value_under_any_key_is_decoded_or_rejected(key, value):
    with suppress(wire.WireError):
        assert isinstance(wire.decode(changed(**{key: value})), wire.Batch)


@given(st.sampled_from([*msgpack.unpackb(A_FLOW)["cols"]]), anything)
def test_any_value_as_any_column_is_decoded_or_rejected(name, column):
    with suppress(wire.WireError):
        assert isinstance(wire.decode(with_column(name, column)), wire.Batch)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"not msgpack", "no msgpack"),
        (msgpack.packb([1, 2]), "a list, not a map"),
        (changed(v=2), "version is 2, this consumer reads 1"),
        (changed(kind="dnx"), "kind 'dnx' is unknown"),
        (changed(node=""), "node is not a text of 1 to 256 bytes"),
        (changed(node="n" * 257), "node is not a text of 1 to 256 bytes"),
        (changed(n=-1), "n is -1, not a whole number"),
        (changed(n=True), "n is True, not a whole number"),
        (changed(seq=1 << 63), "seq is 9223372036854775808, not a whole number"),
        (changed(anchor=[1]), "anchor is not a map"),
        (changed(cols=None), "cols is not a map"),
        (changed(cols={}), "column time is missing"),
        (with_column("bytes", ["<u4", bytes(8)]), "column bytes has type <u4, not <u8"),
        (with_column("bytes", ["<u8", bytes(15)]), "bytes does not hold 2 values of 8 bytes"),
        (with_column("bytes", ["<u8"]), r"bytes is not \[type, bytes\]"),
        (with_column("interface", ["|u1", bytes(2), []]), "interface has code 0 of 0"),
        (with_column("interface", ["|u1", b"\0\1", ["lo"]]), "interface has code 1 of 1"),
        (with_column("interface", ["<i1", bytes(2), ["lo"]]), "codes of type <i1"),
        (with_column("interface", ["|u1", bytes(2), [7]]), "category that is no short text"),
        (with_column("direction", ["|u1", b"\1\7"]), "direction has value 7, which has no name"),
    ],
)
def test_a_bad_record_is_rejected_with_its_reason(payload, reason):
    with pytest.raises(wire.WireError, match=reason):
        wire.decode(payload)


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        (["<u2", bytes(4)], r"query_name is not \[type, bytes, content\]"),
        (["|u1", bytes(2), b""], "query_name has type |u1, not <u2"),
        (["<u2", bytes(3), b""], "query_name does not hold 2 values of 2 bytes"),
        (["<u2", b"\1\0\2\0", b"ab"], "query_name has content of another length"),
        (["<u2", b"\1\0\2\0", ["abc"]], "query_name has content of another length"),
    ],
)
def test_texts_that_do_not_fit_their_lengths_are_rejected(column, reason):
    content = msgpack.unpackb(A_DNS)
    content["cols"]["query_name"] = column

    with pytest.raises(wire.WireError, match=reason):
        wire.decode(msgpack.packb(content))


def test_an_unknown_column_is_ignored_and_named():
    batch = wire.decode(with_column("as_number", ["<u4", bytes(8)]))

    assert batch.unknown == ("as_number",)
    assert "as_number" not in batch.columns


def test_a_missing_column_is_left_out():
    columns = msgpack.unpackb(A_FLOW)["cols"]
    del columns["dscp"]

    assert "dscp" not in wire.decode(changed(cols=columns)).columns


def test_a_record_without_rows_is_a_record():
    assert wire.decode(wire.encode(a_batch(rows=0))).rows == 0


@pytest.mark.parametrize("vector", sorted(VECTORS.glob("*.msgpack")), ids=lambda path: path.stem)
def test_a_committed_record_is_decoded_as_it_always_was(vector):
    expected = json.loads(vector.with_suffix(".json").read_text())
    payload = vector.read_bytes()

    if "rejected" in expected:
        with pytest.raises(wire.WireError, match=expected["rejected"]):
            wire.decode(payload)
    else:
        assert plain(wire.decode(payload)) == expected


def plain(batch: wire.Batch) -> dict[str, object]:
    """A batch in the words of the committed expectations."""
    return {
        "kind": batch.kind,
        "node": batch.node,
        "boot_id": batch.boot_id,
        "run": batch.run,
        "seq": batch.seq,
        "anchor": dict(batch.anchor),
        "n": batch.rows,
        "unknown": list(batch.unknown),
        "columns": {name: plain_column(column) for name, column in batch.columns.items()},
    }


def plain_column(column: wire.Column) -> list[object]:
    if isinstance(column, wire.Names):
        return [column.categories[code] for code in column.codes]
    if isinstance(column, wire.Text):
        return [text.decode() for text in plain_texts(column)]
    if column.dtype.kind == "V":
        return [value.tobytes().hex() for value in column]
    return column.tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_any_msgpack_library_reads_a_record(kind):
    batch = a_batch(kind, rows=4)

    # Another implementation than the one that wrote it: msgpack's own, in plain Python.
    content = msgpack.fallback.Unpacker(None, max_buffer_size=1 << 20)
    content.feed(wire.encode(batch))
    record = content.unpack()

    assert (record["v"], record["kind"], record["node"], record["n"]) == (1, kind, "web-1", 4)
    named = next(one.name for one in RECORD_OF_KIND[kind].fields if one.kind is NAME)
    numpy_type, values, *categories = record["cols"][named]
    codes = np.frombuffer(values, numpy_type)
    assert [categories[0][code] for code in codes] == plain_column(batch.columns[named])
    times = np.frombuffer(record["cols"]["time"][1], record["cols"]["time"][0])
    assert times.tolist() == plain_column(batch.columns["time"])


def test_every_kind_begins_with_the_time_of_its_rows():
    assert all(record.fields[0].name == "time" for record in RECORDS)
    assert all(record.fields[0].kind is TIME_NS for record in RECORDS)


@pytest.mark.parametrize("time_ns", [-1, wire.LATEST_TIME_NS, -(1 << 63), (1 << 63) - 1])
def test_a_time_that_no_clock_shows_is_rejected(time_ns):
    payload = with_column("time", ["<i8", np.array([0, time_ns], "<i8").tobytes()])

    with pytest.raises(wire.WireError, match=f"column time holds {time_ns}, which is not between"):
        wire.decode(payload)
