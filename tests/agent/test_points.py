# SPDX-License-Identifier: Apache-2.0
"""Hook points are given to interfaces, waited for, and given again."""

import numpy as np

from agent.points import HookPoints, Pair


def test_points_of_an_interface_that_went_wait_two_intervals_for_what_names_them_still():
    points = HookPoints(4)
    pair = points.take("veth0")
    points.give_back(pair)

    assert points.take("veth1") is None
    points.settle()
    assert points.take("veth1") is None
    points.settle()
    assert points.take("veth1") == pair


def test_the_lowest_free_points_are_taken():
    points = HookPoints(8)
    first, second = points.take("a"), points.take("b")
    points.give_back(second)
    points.give_back(first)
    for _ in range(2):
        points.settle()

    assert points.take("c") == first == Pair(1, 2)
    assert points.count == 5


def test_rows_that_wait_keep_the_name_that_their_points_had():
    points = HookPoints(4)
    pair = points.take("veth0")
    before = points.columns(np.array([pair.ingress]))["interface"]
    points.give_back(pair)
    for _ in range(2):
        points.settle()
    points.take("veth1")

    assert before.categories[before.codes[0]] == "veth0"


def test_where_all_are_in_use_there_are_none():
    points = HookPoints(5)
    points.take("a")
    points.take("b")

    assert points.take("c") is None
