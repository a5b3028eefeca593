# SPDX-License-Identifier: Apache-2.0
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.plan import MAX_BYTES, NewerPlan, Plan, PlanError, insert_token, plan_in, planned
from consumer.ranges import Ranges
from tests.consumer.engine import accepted
from tests.schemas.batches import a_batch

TOKEN = "0123456789abcdef"


def test_the_same_rows_have_the_same_token_wherever_kafka_keeps_them():
    batches = [a_batch(seq=1), a_batch(seq=2)]

    assert insert_token(map(accepted, batches)) == insert_token(
        [accepted(batch, offset=offset) for offset, batch in enumerate(batches, 70)]
    )


def test_other_rows_have_another_token():
    tokens = {
        insert_token([accepted(a_batch(**parts))])
        for parts in ({}, {"seq": 1}, {"run": "r-2"}, {"node": "web-2"}, {"boot_id": "9"})
    }

    assert len(tokens) == 5


def test_a_plan_leaves_out_every_offset_that_is_not_in_the_block():
    plan = planned(100, 110, TOKEN + "more", [101, 102, 107])

    assert plan == Plan(100, 110, TOKEN, Ranges([100, 103, 104, 105, 106, 108, 109]))


def test_a_plan_is_a_short_text_with_offsets_from_its_start():
    plan = planned(
        1_000_000, 1_000_100, TOKEN, range(1_000_000, 1_000_090), {1_000_007: Ranges([3])}
    )

    assert plan.text() == (
        '{"hookline_plan":1,"start":1000000,"end":1000100,"token":"0123456789abcdef",'
        '"left_out":"90-99","stored_days":{"7":"3"}}'
    )


@given(
    st.integers(0, 1 << 62),
    st.sets(st.integers(0, 300), min_size=1),
    st.dictionaries(st.integers(0, 300), st.sets(st.integers(0, 80_000), min_size=1), max_size=3),
)
def test_a_plan_is_read_as_it_was_written(start, held, days):
    stored_days = {start + at: Ranges(some) for at, some in days.items()}
    plan = planned(start, start + 301, TOKEN, sorted(start + at for at in held), stored_days)

    assert plan_in(plan.text()) == plan


def test_a_plan_with_many_holes_does_not_fit():
    assert planned(0, 1000, TOKEN, range(0, 1000, 2)).fits
    assert not planned(0, 4000, TOKEN, range(0, 4000, 2)).fits
    assert len(planned(0, 1000, TOKEN, range(0, 1000, 2)).text()) <= MAX_BYTES


def test_no_metadata_is_no_plan():
    assert plan_in("") is None


def test_a_plan_of_a_newer_version_is_told_apart():
    with pytest.raises(NewerPlan, match="plan has version 3, this consumer reads 2"):
        plan_in('{"hookline_plan":3}')


def test_only_a_plan_whose_sums_are_not_the_views_is_of_the_second_version():
    left = planned(0, 3, TOKEN, [0, 1, 2])
    summed = planned(0, 3, TOKEN, [0, 1, 2], is_summed=True)

    assert left.text().startswith('{"hookline_plan":1,')
    assert summed.text().startswith('{"hookline_plan":2,')
    assert plan_in(left.text()) == left
    assert plan_in(summed.text()) == summed


@pytest.mark.parametrize(
    "metadata",
    [
        "somebody's note",
        "[]",
        "{}",
        "[" * 4000,
        '{"hookline_plan":"1"}',
        '{"hookline_plan":1}',
        '{"hookline_plan":1,"start":5,"end":5,"token":"0123456789abcdef"}',
        '{"hookline_plan":1,"start":0,"end":5,"token":"0123"}',
        '{"hookline_plan":1,"start":0,"end":5,"token":"0123456789abcdef","left_out":"x"}',
        '{"hookline_plan":1,"start":0,"end":5,"token":"0123456789abcdef","left_out":5}',
        '{"hookline_plan":1,"start":0,"end":5,"token":"0123456789abcdef","stored_days":5}',
        '{"hookline_plan":1,"start":0,"end":5,"token":"0123456789abcdef","stored_days":{"x":"1"}}',
    ],
)
def test_what_is_damaged_or_somebody_elses_is_no_plan(metadata):
    with pytest.raises(PlanError) as error:
        plan_in(metadata)

    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300
