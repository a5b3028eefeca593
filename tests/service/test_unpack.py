# SPDX-License-Identifier: Apache-2.0
"""Record batches are read as the client library reads them, within limits that it does not have."""

import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from hypothesis import example, given
from hypothesis import strategies as st

from service.unpack import MAX_RECORDS, Allowance, Batch, Batches, Unreadable
from tests.services.bombs import CODECS, batch, bomb, record

HEADER_BYTES = 61
ATTRIBUTES_AT = 21


def built(records, *, codec="none", headers=()) -> bytes:
    """A batch as a producer makes it; *records* are times, keys and values."""
    builder = DefaultRecordBatchBuilder(2, CODECS[codec], 0, -1, -1, 0, 1 << 24)
    for at, (time_ms, key, value) in enumerate(records):
        builder.append(at, time_ms, key, value, list(headers))
    return bytes(builder.build())


def read(content: bytes, allowance: Allowance | None = None) -> list[Batch]:
    batches = Batches(allowance or Allowance(), content)
    assert batches.has_next() in (True, False)
    found = []
    while batches.has_next():
        found.append(batches.next_batch())
    return found


def records_of(content: bytes) -> list[object]:
    return [one for each in read(content) for one in each]


def plain(one: object) -> tuple[object, ...]:
    return one.offset, one.timestamp, one.timestamp_type, one.key, one.value


def by_library(content: bytes) -> list[tuple[object, ...]]:
    batches = MemoryRecords(content)
    found = []
    while batches.has_next():
        each = batches.next_batch()
        assert each.validate_crc()
        found += [plain(one) for one in each]
    return found


contents = st.none() | st.binary(max_size=200)
some_records = st.lists(
    st.tuples(st.integers(0, 1 << 42), contents, contents), min_size=1, max_size=20
)


@given(st.lists(st.tuples(some_records, st.sampled_from([*CODECS])), min_size=1, max_size=3))
def test_what_producers_write_is_read_as_the_library_reads_it(many):
    content = b"".join(built(records, codec=codec) for records, codec in many)

    assert [plain(one) for one in records_of(content)] == by_library(content)
    assert all(each.validate_crc() for each in read(content))


def test_headers_are_passed_over():
    content = built([(1, b"k", b"v")] * 3, headers=[("trace", b"1"), ("", None)])

    assert [one.value for one in records_of(content)] == [b"v"] * 3


def test_an_answer_that_ends_in_the_middle_of_a_batch_has_those_before():
    whole = built([(1, None, b"v")])

    for missing in (1, len(whole) - 5, len(whole) - 15):
        assert len(read(whole + whole[:-missing])) == 1


@pytest.mark.parametrize("codec", ["gzip", "lz4", "snappy", "zstd"])
def test_what_becomes_too_large_is_one_record_that_says_so(codec, monkeypatch):
    monkeypatch.setattr("service.unpack.MAX_BATCH_BYTES", 1 << 20)

    fits = records_of(bomb(codec, (1 << 20) - 100))
    (too_large,) = records_of(bomb(codec, 1 << 20))

    assert [len(one.value) for one in fits] == [(1 << 20) - 100]
    assert isinstance(too_large.value, Unreadable)
    assert too_large.value.reason == (
        "batch of offsets 0 to 0 cannot be unpacked: it holds more than 1048576 bytes"
    )


def test_one_that_cannot_be_read_stands_for_all_its_offsets():
    several = b"".join(part for at in range(3) for part in record(0, offset_delta=at))
    damaged = bytearray(batch(several, count=3))
    damaged[HEADER_BYTES] = 0xFF
    (each,) = read(bytes(damaged))

    (only,) = each

    assert (only.offset, only.value.first_offset, each.next_offset) == (2, 0, 3)
    assert only.value.shown == damaged


def test_a_number_of_records_that_would_fill_memory_is_refused():
    one = b"".join(record(0))

    (many,) = records_of(batch(one, count=MAX_RECORDS + 1))
    (too_few,) = records_of(batch(one, count=2))

    assert many.value.reason.endswith(f"{MAX_RECORDS + 1} records, and {MAX_RECORDS} may be")
    assert too_few.value.reason.endswith("it ends in the middle")


@pytest.mark.parametrize("offset_delta", [1, -1, 1 << 40])
def test_an_offset_outside_of_its_batch_is_refused(offset_delta):
    (lying,) = records_of(batch(b"".join(record(0, offset_delta=offset_delta))))

    assert lying.value.reason.endswith(f"a record has offset {offset_delta}")


def test_a_codec_and_a_format_that_nobody_knows_are_refused():
    of_seven = bytearray(batch(b"".join(record(0))))
    of_seven[ATTRIBUTES_AT + 1] = 7
    ancient = bytearray(of_seven)
    ancient[16] = 1

    for content, reason in ((of_seven, "codec 7"), (ancient, "no record batch of Kafka 0.11")):
        (refused,) = records_of(bytes(content))
        assert reason in refused.value.reason


def test_what_is_left_of_an_answer_waits_once_enough_is_unpacked():
    whole = built([(1, None, bytes(1000))])
    allowance = Allowance(2000)
    batches = Batches(allowance, whole * 4)

    # Asked as the answer arrives, when nobody wants records yet.
    allowance.left_bytes = 0
    assert batches.has_next()
    assert not batches.has_next()
    allowance.renew()
    unpacked = 0
    while batches.has_next():
        unpacked += len(list(batches.next_batch()))

    assert unpacked == 2
    allowance.renew()
    assert batches.has_next()


A_BATCH = {codec: built([(1, b"k", b"value" * 20)] * 4, codec=codec) for codec in CODECS}


@given(
    st.sampled_from([*CODECS]),
    st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), max_size=6),
    st.integers(0, 400),
)
@example("none", [(HEADER_BYTES, 0xFF)], 400)
def test_a_damaged_answer_is_read_as_far_as_it_goes_and_nothing_else_happens(codec, damage, length):
    content = bytearray(A_BATCH[codec] * 2)
    for at, value in damage:
        content[at % len(content)] = value

    for one in records_of(bytes(content[:length])):
        assert isinstance(one.value, bytes | Unreadable | None)
        assert -(1 << 63) <= one.timestamp < 1 << 64
