# SPDX-License-Identifier: Apache-2.0
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.ranges import Ranges, ranges_in

some = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 8)))


@given(some)
def test_ranges_hold_what_a_set_of_the_same_numbers_holds(pairs):
    ranges, numbers = Ranges(), set()
    for first, more in pairs:
        ranges.add_range(first, first + more)
        numbers |= set(range(first, first + more + 1))

    assert {number for number in range(80) if number in ranges} == numbers
    assert ranges.highest == max(numbers, default=-1)


@given(some)
def test_ranges_ascend_with_something_missing_between_them(pairs):
    ranges = Ranges()
    for first, more in pairs:
        ranges.add_range(first, first + more)

    found = list(ranges)
    assert all(first <= last for first, last in found)
    assert all(one[1] + 1 < other[0] for one, other in itertools.pairwise(found))


@given(some)
def test_a_text_is_read_as_the_ranges_that_it_was_made_of(pairs):
    ranges = Ranges()
    for first, more in pairs:
        ranges.add_range(first, first + more)

    assert ranges_in(str(ranges)) == ranges


def test_a_text_is_short():
    assert str(Ranges([3, 4, 5, 9])) == "3-5,9"


def test_the_lowest_range_is_forgotten_whole():
    ranges = Ranges([1, 2, 3, 7])

    ranges.forget_lowest()

    assert list(ranges) == [(7, 7)]


@pytest.mark.parametrize("text", ["x", "1,,2", "-1", "3-1", "1-2-3", "1.5", None, 7])
def test_anything_else_is_no_text_of_ranges(text):
    with pytest.raises(ValueError):
        ranges_in(text)
