# SPDX-License-Identifier: Apache-2.0
import pytest

from consumer.record import Record, Rejected
from consumer.rejection import rejection
from schemas import wire
from schemas.rejection import REJECTION
from tests.schemas.batches import plain_texts


def row(
    key: bytes | None = b"web-1", reason: str = "bad", timestamp_ms: int = 1234
) -> dict[str, object]:
    """The row of a rejected record as it arrives at a consumer."""
    record = Record("hookline.flow.v1", 3, 17, timestamp_ms, key, b"garbage")
    sent = rejection(Rejected(record, reason), partition=1, offset=99, time_ms=5000)
    got = wire.decode(wire.encode(sent))
    assert got.rows == 1
    assert got.columns.keys() == {field.name for field in REJECTION.fields}
    return {"node": got.node, **{name: plain(one) for name, one in got.columns.items()}}


def plain(column: wire.Column) -> object:
    if isinstance(column, wire.Names):
        return column.categories[int(column.codes[0])]
    if isinstance(column, wire.Text):
        return plain_texts(column)[0].decode()
    return int(column[0])


def test_a_row_says_what_the_letter_says():
    assert row() == {
        "node": "web-1",
        "time": 5_000_000_000,
        "letter_partition": 1,
        "letter": 99,
        "topic": "hookline.flow.v1",
        "record_partition": 3,
        "record_offset": 17,
        "record_time": 1_234_000_000,
        "payload_bytes": 7,
        "reason": "bad",
    }


def test_a_record_that_is_rejected_again_has_the_same_row():
    rejected = Rejected(Record("hookline.flow.v1", 3, 17, 0, None, None), "bad")

    first = rejection(rejected, partition=0, offset=1, time_ms=1)
    again = rejection(rejected, partition=0, offset=2, time_ms=2)

    assert (first.node, first.run, first.kind, first.seq) == (
        again.node,
        again.run,
        again.kind,
        again.seq,
    )


@pytest.mark.parametrize(
    ("key", "node"),
    [
        (None, "unknown"),
        (b"", "unknown"),
        (b"\xff", "\\xff"),
        ("ü".encode() * 300, "ü" * 128),
        (b"x" * 1024, "x" * 256),
    ],
)
def test_whatever_the_key_is_the_row_has_a_node(key, node):
    assert row(key=key)["node"] == node


@pytest.mark.parametrize("timestamp_ms", [-1, -(1 << 63), (1 << 63) - 1])
def test_whatever_the_timestamp_is_the_row_has_a_time(timestamp_ms):
    assert 0 <= row(timestamp_ms=timestamp_ms)["record_time"] < wire.LATEST_TIME_NS


def test_a_reason_of_any_length_fits():
    assert row(reason="ü" * 100_000)["reason"] == "ü" * 500
