# SPDX-License-Identifier: Apache-2.0
import numpy as np

from consumer.batch import CATEGORY_BYTES, ROW_BYTES, Batch, insert_token
from consumer.record import Accepted, Record
from schemas.wire import Names
from tests.schemas.batches import a_batch


def an_accepted(*, rows: int = 3, offset: int = 0, partition: int = 0, **parts: object) -> Accepted:
    record = Record("hookline.flow.v1", partition, offset, 0, b"web-1", b"")
    return Accepted(record, a_batch(rows=rows, **parts))


def test_an_empty_batch_is_never_due():
    assert not Batch(max_rows=10, max_age_s=2.0).is_due(now=1e9)


def test_is_due_once_it_holds_max_rows():
    batch = Batch(max_rows=10, max_age_s=2.0)
    batch.add(an_accepted(rows=9), now=100.0)

    assert not batch.is_due(now=100.0)
    batch.add(an_accepted(rows=1), now=100.0)
    assert batch.is_due(now=100.0)


def test_is_due_once_it_takes_the_memory_of_max_rows_whatever_it_holds():
    names = Names(np.empty(0, "|u1"), tuple(map(str, range(100))))
    batch = Batch(max_rows=1000, max_age_s=2.0)
    while not batch.is_due(now=100.0):
        batch.add(an_accepted(rows=0, columns={"interface": names}), now=100.0)

    assert batch.rows == 0
    assert len(batch.accepted) < 1000 * ROW_BYTES / (100 * CATEGORY_BYTES) + 1


def test_is_due_once_the_oldest_record_reaches_max_age():
    batch = Batch(max_rows=1000, max_age_s=2.0)
    batch.add(an_accepted(), now=100.0)
    batch.add(an_accepted(), now=101.5)

    assert not batch.is_due(now=101.9)
    assert batch.due_in(now=101.5) == 0.5
    assert batch.is_due(now=102.0)


def test_the_offset_to_commit_is_the_next_one_of_each_partition():
    batch = Batch(max_rows=1000, max_age_s=2.0)
    batch.add(an_accepted(offset=17, partition=0), now=0.0)
    batch.add(an_accepted(offset=18, partition=0), now=0.0)
    batch.add(an_accepted(offset=4, partition=1), now=0.0)

    assert batch.next_offsets == {("hookline.flow.v1", 0): 19, ("hookline.flow.v1", 1): 5}


def test_a_skipped_record_brings_no_rows_but_its_offset_and_its_age():
    batch = Batch(max_rows=1000, max_age_s=2.0)
    batch.skip(an_accepted(offset=7).record, now=10.0)

    assert batch.rows == 0
    assert batch.next_offsets == {("hookline.flow.v1", 0): 8}
    assert batch.is_due(now=12.0)


def test_the_same_rows_have_the_same_token_wherever_kafka_keeps_them():
    first = [an_accepted(seq=1, offset=5), an_accepted(seq=2, offset=6)]
    again = [an_accepted(seq=1, offset=0), an_accepted(seq=2, offset=1)]

    assert insert_token(first) == insert_token(again)


def test_other_rows_have_another_token():
    tokens = {
        insert_token([an_accepted(**parts)])
        for parts in ({}, {"seq": 1}, {"run": "r-2"}, {"node": "web-2"}, {"boot_id": "9"})
    }

    assert len(tokens) == 5
