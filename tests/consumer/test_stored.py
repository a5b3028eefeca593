# SPDX-License-Identifier: Apache-2.0
from consumer.stored import Stored, Verdict


def name(seq: int, run: str = "r-1", node: str = "web-1") -> tuple[str, str, int]:
    return node, run, seq


def test_the_first_batch_of_a_run_is_in_doubt():
    assert Stored().judge(name(0)) is Verdict.DOUBTFUL


def test_a_batch_that_is_stored_is_repeated():
    stored = Stored()
    stored.add(name(5), is_new=True)

    assert stored.judge(name(5)) is Verdict.REPEATED


def test_a_batch_above_all_others_is_new_once_a_new_one_was_seen():
    stored = Stored()
    stored.add(name(5), is_new=False)

    # Somebody may be sending again what he has sent before.
    assert stored.judge(name(6)) is Verdict.DOUBTFUL
    stored.add(name(6), is_new=True)
    assert stored.judge(name(7)) is Verdict.NEW
    assert stored.judge(name(9)) is Verdict.NEW


def test_a_batch_in_a_hole_or_below_is_in_doubt():
    stored = Stored()
    for seq in (5, 6, 9):
        stored.add(name(seq), is_new=True)

    assert stored.judge(name(8)) is Verdict.DOUBTFUL
    assert stored.judge(name(4)) is Verdict.DOUBTFUL


def test_runs_and_nodes_are_told_apart():
    stored = Stored()
    stored.add(name(5), is_new=True)

    assert stored.judge(name(5, run="r-2")) is Verdict.DOUBTFUL
    assert stored.judge(name(5, node="web-2")) is Verdict.DOUBTFUL


def test_the_run_that_was_used_longest_ago_is_forgotten():
    stored = Stored(max_runs=2)
    for run in ("a", "b", "a", "c"):
        stored.add(name(1, run), is_new=True)

    assert len(stored) == 2
    assert stored.judge(name(1, "a")) is Verdict.REPEATED
    assert stored.judge(name(1, "b")) is Verdict.DOUBTFUL


def test_of_a_run_with_many_holes_the_lowest_batches_are_forgotten():
    stored = Stored(max_ranges=3)
    for seq in range(0, 10, 2):
        stored.add(name(seq), is_new=True)

    assert stored.judge(name(2)) is Verdict.DOUBTFUL
    assert stored.judge(name(4)) is Verdict.REPEATED
    assert stored.judge(name(9)) is Verdict.NEW
