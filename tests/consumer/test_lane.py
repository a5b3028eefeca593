# SPDX-License-Identifier: Apache-2.0
from collections.abc import Sequence

import numpy as np

from consumer import lane as lanes
from consumer.lane import Block, Lane
from consumer.plan import Plan
from consumer.record import Accepted, Record, Rejected
from schemas import wire
from tests.consumer.process import FLOWS
from tests.schemas.batches import a_batch

FLOWS_0 = (FLOWS, 0)
FLOWS_1 = (FLOWS, 1)
TOKEN = "0123456789abcdef"


def a_record(offset: int, *, rows: int = 3, partition: int = 0) -> Record:
    payload = wire.encode(a_batch(rows=rows, seq=offset))
    return Record(FLOWS, partition, offset, 0, b"web-1", payload)


def a_lane(max_rows: int = 10, max_age_s: float = 2.0, **begin: object) -> Lane:
    lane = Lane(max_rows, max_age_s)
    lane.begin(FLOWS_0, 0, log_end=100, **begin)
    lane.begin(FLOWS_1, 0, log_end=100)
    return lane


def offsets(block: Block | None) -> Sequence[int]:
    assert block
    return [one.record.offset for one in block.verdicts]


def test_nothing_is_due_where_nothing_waits():
    assert a_lane().take(now=1e9) is None
    assert a_lane().due_in(now=0.0) == float("inf")


def test_a_block_is_due_once_it_holds_max_rows():
    lane = a_lane()

    assert not lane.add(a_record(0, rows=9), now=100.0)
    assert lane.take(now=100.0) is None
    assert lane.add(a_record(1, rows=1), now=100.0)
    assert offsets(lane.take(now=100.0)) == [0, 1]
    assert lane.take(now=1e9) is None


def test_a_block_is_due_once_its_oldest_record_reaches_max_age():
    lane = a_lane()
    lane.add(a_record(0), now=100.0)
    lane.add(a_record(1), now=101.5)

    assert lane.take(now=101.9) is None
    assert lane.due_in(now=101.5) == 0.5
    assert offsets(lane.take(now=102.0)) == [0, 1]


def test_a_block_is_of_one_partition_and_goes_on_where_the_last_one_ended():
    lane = a_lane()
    lane.add(a_record(0, rows=10), now=0.0)
    first = lane.take(now=0.0)
    lane.add(a_record(4), now=0.0)
    lane.add(a_record(0, partition=1), now=0.0)

    lane.flush()
    second, third = lane.take(now=0.0), lane.take(now=0.0)
    assert first
    assert second
    assert third
    assert (first.partition, first.start, first.end) == (FLOWS_0, 0, 1)
    # What is missing between them was lost.
    assert (second.partition, second.start, second.end) == (FLOWS_0, 1, 5)
    assert (third.partition, third.start, third.end) == (FLOWS_1, 0, 1)


def test_a_record_that_cannot_be_decoded_brings_no_rows_but_its_offset_and_its_age():
    lane = a_lane()
    lane.add(Record(FLOWS, 0, 7, 0, None, b"\xc1"), now=10.0)

    block = lane.take(now=12.0)
    assert block
    assert (block.end, block.rows) == (8, 0)
    assert [type(one) for one in block.verdicts] == [Rejected]
    assert [one.record.offset for one in block.settle_rejected()] == [7]
    assert block.verdicts == []


def test_there_is_no_room_once_all_blocks_together_hold_max_rows_and_the_largest_is_due():
    lane = a_lane()
    lane.add(a_record(0, rows=4), now=0.0)
    assert lane.has_room_for(a_record(0, partition=1))

    assert lane.add(a_record(0, rows=6, partition=1), now=0.0)

    assert not lane.has_room_for(a_record(1))
    assert lane.rows == 10
    block = lane.take(now=0.0)
    assert block
    assert block.partition == FLOWS_1
    assert lane.has_room_for(a_record(1))
    assert lane.take(now=0.0) is None


def test_records_take_room_however_few_rows_they_have(monkeypatch):
    monkeypatch.setattr(lanes, "MAX_BLOCK_BYTES", 100 * lanes.RECORD_BYTES)
    lane = a_lane()

    for offset in range(200):
        if not lane.has_room_for(a_record(offset, rows=0)):
            break
        lane.add(a_record(offset, rows=0), now=0.0)

    assert 50 < offset <= 100
    assert lane.take(now=0.0)


def test_names_take_room_though_they_are_short_and_no_row_has_them(monkeypatch):
    monkeypatch.setattr(lanes, "MAX_BLOCK_BYTES", 1 << 20)
    names = wire.Names(np.empty(0, "|u1"), tuple(map(str, range(200))))
    batch = a_batch("interface", rows=0)
    batch.columns["interface"] = names
    payload = wire.encode(batch)
    topic = batch.record.topic
    lane = Lane(10, 2.0)
    lane.begin((topic, 0), 0, log_end=1000)
    room = (1 << 20) // (200 * lanes.CATEGORY_BYTES)
    for offset in range(room):
        record = Record(topic, 0, offset, 0, b"web-1", payload)
        if not lane.has_room_for(record):
            break
        lane.add(record, now=0.0)

    assert not lane.has_room_for(record)


def test_the_partition_that_waits_longest_has_its_turn_first():
    lane = a_lane()
    lane.add(a_record(0, partition=1), now=0.0)
    lane.add(a_record(0), now=1.0)

    taken = [lane.take(now=9.0), lane.take(now=9.0)]

    assert [block.partition for block in taken if block] == [FLOWS_1, FLOWS_0]


def test_a_block_that_is_put_back_in_two_comes_before_what_has_arrived_since():
    lane = a_lane()
    for offset in range(4):
        lane.add(a_record(offset), now=0.0)
    block = lane.take(now=0.0)
    assert block
    lane.add(a_record(4), now=0.0)

    lane.put_back(block.split_at(1))

    assert offsets(lane.take(now=0.0)) == [0]
    rest = lane.take(now=0.0)
    assert rest
    assert (rest.start, rest.end, rest.rows, offsets(rest)) == (1, 4, 9, [1, 2, 3])
    assert lane.take(now=0.0) is None
    assert offsets(lane.take(now=9.0)) == [4]


def test_a_planned_block_is_due_when_its_last_record_is_there_and_stays_as_it_is_until_then():
    lane = a_lane(plan=Plan(0, 3, TOKEN))
    for offset in range(2):
        # It may be larger than ours are, and nothing would make room for it.
        assert lane.has_room_for(a_record(offset))
        assert not lane.add(a_record(offset, rows=10), now=0.0)
    lane.flush()
    assert lane.take(now=1e9) is None
    assert lane.rows == 0

    assert lane.add(a_record(2), now=0.0)

    block = lane.take(now=0.0)
    assert block
    assert [one.offset for one in block.records] == [0, 1, 2]
    assert block.verdicts == []
    lane.add(a_record(3), now=0.0)
    assert offsets(lane.take(now=0.0)) == [3]


def test_a_planned_block_whose_last_records_are_gone_ends_with_the_next_one():
    lane = a_lane(plan=Plan(0, 3, TOKEN))
    lane.add(a_record(0), now=0.0)

    assert lane.add(a_record(5), now=0.0)

    block = lane.take(now=0.0)
    assert block
    assert (block.start, block.end) == (0, 3)
    block.judge_all()
    assert [type(one) for one in block.verdicts] == [Accepted]
    assert block.is_doubtful


def test_offsets_that_begin_anew_begin_a_block():
    lane = a_lane()
    lane.add(a_record(5), now=0.0)

    lane.add(a_record(2), now=0.0)

    lane.flush()
    blocks = [lane.take(now=0.0), lane.take(now=0.0)]
    assert [(block.start, block.end) for block in blocks if block] == [(0, 6), (2, 3)]


def test_blocks_are_doubtful_up_to_the_end_that_the_log_had():
    lane = a_lane(max_rows=3, is_doubtful=True)
    lane.add(a_record(98), now=0.0)
    lane.add(a_record(99), now=0.0)
    lane.add(a_record(100), now=0.0)

    blocks = [lane.take(now=0.0) for _ in range(3)]
    assert [block.is_doubtful for block in blocks if block] == [True, True, False]


def test_what_waits_is_doubted_with_what_comes():
    lane = a_lane()
    lane.add(a_record(0), now=0.0)

    lane.doubt(FLOWS_0)

    block = lane.take(now=9.0)
    assert block
    assert block.is_doubtful


def test_what_waits_is_what_its_blocks_hold_whatever_is_added_taken_and_put_back():
    rng = np.random.default_rng(7)
    lane = a_lane(plan=Plan(0, 3, TOKEN))
    offset, taken = [0, 0], []
    for _ in range(200):
        partition = int(rng.integers(2))
        lane.add(a_record(offset[partition], rows=int(rng.integers(4)), partition=partition), 100.0)
        # Now and then some are missing, also of what was planned.
        offset[partition] += int(rng.integers(1, 3))
        if block := lane.take(now=100.0):
            taken.append(block)
        elif taken and rng.random() < 0.5:
            lane.put_back([taken.pop()])

        blocks = [block for track in lane._tracks.values() for block in track.blocks]
        assert lane.rows == sum(block.rows for block in blocks if block.is_complete)
        assert lane._size_bytes == sum(block.size_bytes for block in blocks if block.is_complete)
    assert taken
