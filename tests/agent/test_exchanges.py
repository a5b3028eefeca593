# SPDX-License-Identifier: Apache-2.0
"""Responses are measured from the first query of their exchange, however events are read."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.exchanges import ANSWERED_NS, MAX_OPEN, OPEN_NS, Exchanges

QUERY, RESPONSE = False, True


def latencies(*events: tuple[int, int, bool], exchanges: Exchanges | None = None) -> list[int]:
    """Of events (key, time, whether it is a response) that are read in one go."""
    keys, times, is_response = zip(*events, strict=True)
    found = (exchanges or Exchanges()).latencies(
        np.array(keys, np.uint64), np.array(times), np.array(is_response)
    )
    return found.tolist()


def test_a_response_is_measured_from_its_query():
    assert latencies((7, 100, QUERY), (8, 101, QUERY), (7, 150, RESPONSE), (8, 201, RESPONSE)) == [
        *(0, 0, 50, 100)
    ]


def test_a_response_without_a_query_has_no_latency():
    assert latencies((7, 100, RESPONSE), (7, 120, QUERY), (8, 130, RESPONSE)) == [0, 0, 0]


def test_a_query_that_is_sent_again_counts_from_the_first_time():
    assert latencies((7, 100, QUERY), (7, 5100, QUERY), (7, 5200, RESPONSE)) == [0, 0, 5100]


def test_what_an_interface_shows_twice_is_measured_twice():
    events = ((7, 100, QUERY), (7, 101, QUERY), (7, 300, RESPONSE), (7, 302, RESPONSE))

    assert latencies(*events) == [0, 0, 200, 202]


def test_an_id_that_is_used_again_is_another_exchange():
    events = ((7, 100, QUERY), (7, 150, RESPONSE), (7, 900, QUERY), (7, 930, RESPONSE))

    assert latencies(*events) == [0, 50, 0, 30]


def test_events_that_come_out_of_order_are_put_into_order():
    assert latencies((7, 150, RESPONSE), (7, 100, QUERY)) == [50, 0]


def test_a_response_may_come_with_a_later_reading():
    exchanges = Exchanges()

    assert latencies((7, 100, QUERY), exchanges=exchanges) == [0]
    assert latencies((9, 500, QUERY), exchanges=exchanges) == [0]
    assert latencies((7, 1100, RESPONSE), exchanges=exchanges) == [1000]
    assert latencies((7, 1200, QUERY), (7, 1210, RESPONSE), exchanges=exchanges) == [0, 10]


def test_an_exchange_that_nobody_answers_is_forgotten():
    exchanges = Exchanges()
    latencies((7, 0, QUERY), (8, 1, QUERY), exchanges=exchanges)

    latencies((9, OPEN_NS, QUERY), exchanges=exchanges)

    found = latencies((7, OPEN_NS + 1, RESPONSE), (8, OPEN_NS + 1, RESPONSE), exchanges=exchanges)
    assert found == [0, OPEN_NS]


def test_an_exchange_that_was_answered_is_forgotten_sooner():
    exchanges = Exchanges()
    latencies((7, 0, QUERY), (7, 5, RESPONSE), exchanges=exchanges)

    latencies((9, ANSWERED_NS + 5, QUERY), exchanges=exchanges)

    assert latencies((7, ANSWERED_NS + 6, RESPONSE), exchanges=exchanges) == [0]


def test_memory_is_bounded_and_the_newest_are_kept():
    exchanges = Exchanges()
    count = MAX_OPEN + 1000

    exchanges.latencies(
        np.arange(count, dtype=np.uint64), np.arange(count), np.zeros(count, np.bool_)
    )

    assert latencies((999, count, RESPONSE), exchanges=exchanges) == [0]
    assert latencies((1000, count, RESPONSE), exchanges=exchanges) == [count - 1000]


EVENTS = st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=12)


@settings(max_examples=300, deadline=None, database=None)
@given(st.lists(EVENTS, max_size=4))
def test_readings_of_any_size_agree_with_a_book_that_is_kept_event_by_event(readings):
    exchanges, begun, is_open, time = Exchanges(), {}, {}, 0
    for reading in readings:
        expected, events = [], []
        for key, is_response in reading:
            time += 10
            if not is_response and not is_open.get(key):
                begun[key], is_open[key] = time, True
            if is_response and key in begun:
                is_open[key] = False
            expected.append(time - begun[key] if is_response and key in begun else 0)
            events.append((key, time, is_response))

        if events:
            assert latencies(*events, exchanges=exchanges) == expected
