# SPDX-License-Identifier: Apache-2.0
"""The programs' table of interfaces: every index that is told has a place of its own."""

import random

import numpy as np
import pytest

from agent.entries import InterfaceTable, places
from agent.plan import INTERFACE_SLOTS
from agent.points import Pair


def a_table() -> InterfaceTable:
    table = InterfaceTable.__new__(InterfaceTable)
    table._words = np.zeros((INTERFACE_SLOTS, 2), np.uint64)
    return table


def found(table: InterfaceTable, ifindex: int) -> tuple[int, int, int] | None:
    """Points and link bytes, as the programs find them."""
    for place in places(ifindex):
        word, link_bytes = (int(value) for value in table._words[place])
        if word & 0xFFFFFFFF == ifindex:
            return word >> 32 & 0xFFFF, word >> 48, link_bytes
    return None


def test_an_interface_is_found_with_its_points():
    table = a_table()

    assert table.set(7, Pair(3, 4), 14)
    assert found(table, 7) == (3, 4, 14)
    assert found(table, 7 + INTERFACE_SLOTS) is None


def test_an_interface_that_was_cleared_is_unknown():
    table = a_table()
    table.set(7, Pair(3, 4), 14)
    table.clear(7)

    assert found(table, 7) is None


def test_other_points_take_the_place_of_those_before():
    table = a_table()
    table.set(7, Pair(3, 4), 14)
    table.set(7, Pair(5, 6), 14)

    assert found(table, 7) == (5, 6, 14)
    assert np.count_nonzero(table._words[:, 0]) == 1


@pytest.mark.parametrize("seed", range(5))
def test_a_thousand_interfaces_of_any_index_all_find_a_place(seed):
    table = a_table()
    # An index is 31 bits; on a host of containers it grows with each that was ever started.
    indexes = random.Random(seed).sample(range(1, 1 << 31), 1023)
    for number, ifindex in enumerate(indexes):
        assert table.set(ifindex, Pair(2 * number + 1, 2 * number + 2), 14)

    assert [found(table, ifindex) for ifindex in indexes] == [
        (2 * number + 1, 2 * number + 2, 14) for number in range(len(indexes))
    ]
