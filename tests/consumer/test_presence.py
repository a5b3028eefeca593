# SPDX-License-Identifier: Apache-2.0
import numpy as np

from consumer.presence import (
    DAY_NS,
    JOIN_NS,
    MAX_SPANS,
    lacks_rows,
    name_of,
    question,
    rows_by_day,
    stored_days,
    without_days,
)
from consumer.ranges import Ranges
from schemas import wire
from schemas.dns import DNS
from schemas.flow import FLOW
from tests.schemas.batches import a_batch, plain_texts


def at(*times_ns: int, kind: str = "flow", **parts: object) -> wire.Batch:
    """A batch of rows at these times."""
    times = np.array(times_ns, "<i8")
    return a_batch(kind, rows=len(times_ns), columns={"time": times}, **parts)


def test_rows_are_counted_by_day():
    batch = at(5, DAY_NS - 1, DAY_NS, 9 * DAY_NS, 9 * DAY_NS + 1)

    assert rows_by_day(batch) == {0: 2, 1: 1, 9: 2}


def test_a_batch_loses_the_rows_of_some_days_and_no_others():
    batch = at(0, DAY_NS, 2 * DAY_NS, DAY_NS, 5 * DAY_NS, kind="dns")

    rest = without_days(batch, Ranges([1, 5]))

    assert name_of(rest) == name_of(batch)
    assert rest.rows == 2
    assert rest.columns["time"].tolist() == [0, 2 * DAY_NS]
    for field in DNS.fields:
        whole, cut = batch.columns[field.name], rest.columns[field.name]
        if isinstance(whole, wire.Text):
            assert plain_texts(cut) == [plain_texts(whole)[row] for row in (0, 2)]
        elif isinstance(whole, wire.Names):
            assert cut.codes.tolist() == whole.codes[[0, 2]].tolist()
        else:
            assert cut.tolist() == whole[[0, 2]].tolist()


def test_a_day_is_stored_if_rows_of_it_are_there_and_told_if_not_all_are():
    batch = at(0, 1, DAY_NS, DAY_NS + 1)

    assert stored_days(batch, {}) == Ranges()
    assert stored_days(batch, {name_of(batch): {0: 2}}) == Ranges([0])
    assert not lacks_rows(batch, {name_of(batch): {0: 2}})
    assert stored_days(batch, {name_of(batch): {0: 2, 1: 1}}) == Ranges([0, 1])
    assert lacks_rows(batch, {name_of(batch): {0: 2, 1: 1}})


def test_batches_that_are_close_in_time_are_one_condition():
    query = question(FLOW, [at(1000, node="a"), at(900, 1000 + JOIN_NS, node="b", seq=3)])

    assert query.count("time BETWEEN") == 1
    assert "BETWEEN fromUnixTimestamp64Nano(900, 'UTC')" in query
    assert f"AND fromUnixTimestamp64Nano({1000 + JOIN_NS}, 'UTC')" in query
    assert "node IN ('a', 'b')" in query
    assert "seq BETWEEN 0 AND 3" in query


def test_a_batch_of_long_ago_does_not_make_clickhouse_read_all_since_then():
    query = question(FLOW, [at(10, node="old"), at(2 + 10 * JOIN_NS, node="new")])

    assert query.count("time BETWEEN") == 2
    assert "node IN ('old', 'new')" not in query


def test_a_batch_over_midnight_is_two_spans_if_its_days_are_far_apart():
    assert question(FLOW, [at(0, 9 * DAY_NS)]).count("time BETWEEN") == 2
    assert question(FLOW, [at(DAY_NS - 1, DAY_NS)]).count("time BETWEEN") == 1


def test_there_are_never_more_conditions_than_clickhouse_likes():
    wild = at(*(day * DAY_NS for day in range(5_000)))

    assert question(FLOW, [wild, at(1)]).count("time BETWEEN") == MAX_SPANS
