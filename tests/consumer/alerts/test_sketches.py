# SPDX-License-Identifier: Apache-2.0
"""Sketches against exact counts."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumer.alerts.sketches import (
    CountMin,
    Distinct,
    Hash,
    Heaviest,
    HyperLogLog,
    Places,
    Rotating,
    Seen,
    among,
)

HASH = Hash(7)
streams = st.lists(st.tuples(st.integers(0, 300), st.integers(1, 1000)), min_size=1, max_size=300)


def keys_of(numbers):
    return HASH.of(np.asarray(numbers, np.uint64))


@given(streams)
@settings(max_examples=60, deadline=None)
def test_a_count_min_never_says_too_little_and_seldom_too_much(stream):
    numbers, values = (np.array(column) for column in zip(*stream, strict=True))
    sketch = CountMin(1 << 10)
    sketch.add(keys_of(numbers), values.astype(float))
    exact = Counter()
    for number, value in stream:
        exact[number] += value

    known = sorted(exact)
    found = sketch.estimates(keys_of(known))[:, 0]
    real = np.array([exact[one] for one in known])

    assert (found >= real).all()
    assert np.mean(found > real + np.e / 1024 * values.sum()) <= np.exp(-4) + 3 / len(known)


@given(streams)
@settings(max_examples=40, deadline=None)
def test_the_heaviest_keys_are_never_missed_nor_told_too_light(stream):
    heaviest = Heaviest(20)
    for start in range(0, len(stream), 50):
        numbers, values = zip(*stream[start : start + 50], strict=True)
        heaviest.add(np.array(numbers, np.uint64), np.array(values, float))
    exact = Counter()
    for number, value in stream:
        exact[number] += value
    found = dict(zip(heaviest.keys.tolist(), heaviest.weights.tolist(), strict=True))

    assert len(found) <= 20
    assert all(found[one] >= exact[one] for one in found)
    assert all(one in found for one in exact if exact[one] > exact.total() / 20)


@pytest.mark.parametrize("count", [0, 1, 100, 5000, 1_000_000])
def test_a_hyperloglog_counts_what_differs_within_its_error(count):
    sketch = HyperLogLog(10)
    for start in range(0, count, 100_000):
        keys = keys_of(np.arange(start, min(start + 100_000, count)))
        sketch.add(np.concatenate([keys, keys]))

    assert sketch.estimate() == pytest.approx(count, rel=4 * 1.04 / 32, abs=0.5)


def test_what_was_seen_is_known_again_and_little_else():
    seen = Seen(20)

    assert seen.add(keys_of(np.arange(50_000))).mean() > 0.99
    assert seen.holds(keys_of(np.arange(50_000))).all()
    assert seen.holds(keys_of(np.arange(50_000, 100_000))).mean() < 0.02
    assert not seen.is_full


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 50)), min_size=1, max_size=400))
@settings(max_examples=40, deadline=None)
def test_distinct_items_are_counted_once_by_key_however_often_they_come(pairs):
    distinct = Distinct(60.0, bits=18, width=1 << 10)
    distinct.rotate(0.0)
    keys, items = (keys_of(column) for column in zip(*pairs, strict=True))
    distinct.add(keys[:100], items[:100])
    found = distinct.add(keys, items)
    exact = Counter(key for key, _ in set(pairs))

    real = np.array([exact[key] for key, _ in pairs])
    # A little is taken off for what others may have put there.
    assert (found <= real + 1).all()
    assert (found >= real - 5).all()


def test_items_that_are_taken_back_count_once_less_and_only_where_they_were_counted():
    distinct = Distinct(60.0)
    distinct.rotate(0.0)
    key, items = keys_of(np.zeros(100)), keys_of(np.arange(100))
    distinct.add(key, items)

    distinct.take_back(key[:40], items[:40])
    distinct.take_back(key[:40], items[:40])
    distinct.take_back(key[:10], keys_of(np.arange(500, 510)))

    assert distinct.estimates(key[:1])[0] == pytest.approx(60, abs=1)


def test_distinct_items_are_forgotten_after_two_periods():
    distinct = Distinct(60.0)
    key, items = keys_of(np.zeros(100)), keys_of(np.arange(100))
    distinct.rotate(0.0)
    distinct.add(key, items)

    distinct.rotate(60.0)
    assert distinct.add(key, items)[0] == pytest.approx(100, abs=1)
    distinct.rotate(120.0)
    assert distinct.estimates(key)[0] == 0


def test_more_items_than_there_is_room_for_shorten_the_period():
    distinct = Distinct(3600.0, bits=14)
    distinct.rotate(0.0)
    distinct.add(keys_of(np.arange(10_000)), keys_of(np.arange(10_000)))

    distinct.rotate(1.0)

    assert distinct.early == 1


def test_rotating_sums_are_of_the_last_one_to_two_periods():
    sums = Rotating(5.0)
    key = keys_of([1])
    sums.rotate(0.0)
    sums.add(key, np.array([8.0]))
    sums.rotate(5.0)
    sums.add(key, np.array([2.0]))

    assert sums.estimates(key)[0, 0] == pytest.approx(10, abs=0.01)
    sums.rotate(10.0)
    assert sums.estimates(key)[0, 0] == pytest.approx(2, abs=0.01)
    sums.rotate(30.0)
    assert sums.estimates(key)[0, 0] == 0


def test_a_place_is_kept_while_its_key_is_heard_and_given_away_when_it_is_silent():
    places = Places(1, keep_s=60.0)
    first, is_new = places.of(keys_of([1, 2, 3, 4]), 0.0)

    assert sorted(first) == [0, 1, 2, 3]
    assert is_new.all()
    assert places.of(keys_of([5]), 10.0)[0] == [Places.NONE]
    assert places.refused == 1
    places.of(keys_of([2, 3, 4]), 50.0)
    assert places.of(keys_of([5]), 61.0)[0] == first[:1]
    assert (places.of(keys_of([2, 3, 4]), 61.0)[0] == first[1:]).all()


def test_what_is_among_many_is_found_whatever_is_empty():
    few, many = keys_of([5, 1, 5, 9]), keys_of([1, 2, 3, 5])

    assert among(few, many).tolist() == [True, True, True, False]
    assert among(few, many[:0]).tolist() == [False] * 4
    assert among(few[:0], many).tolist() == []


def test_keys_of_addresses_differ_and_do_not_depend_on_width():
    addresses = np.frombuffer(bytes(range(32)), "|V16")

    assert len(set(HASH.of(addresses).tolist())) == 2
    assert HASH.of(np.array([7], "u1")) == HASH.of(np.array([7], "<u8"))
    assert HASH.of(np.array([1]), np.array([2])) != HASH.of(np.array([2]), np.array([1]))
    assert Hash(1).of(np.array([7])) != Hash(2).of(np.array([7]))
