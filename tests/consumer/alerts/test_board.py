# SPDX-License-Identifier: Apache-2.0
"""Alerts fire once, are refreshed, end, and never come in masses."""

from typing import Any

from consumer.alerts.alert import Sighting
from consumer.alerts.board import MOST_ALERTS, Board
from consumer.alerts.memory import keep, kept
from consumer.alerts.rows import NS_PER_S


def a_sighting(number: int = 0, *, seen: float = 100.0, **changes: Any) -> Sighting:
    parts: dict[str, Any] = {
        "detector": "port_scan",
        "labels": {"source": f"10.0.0.{number}"},
        "severity": "warning",
        "summary": f"10.0.0.{number} scans",
        "evidence": "SELECT 1",
        "value": 5.0,
        "threshold": 3.0,
        "seen_ns": int(seen * NS_PER_S),
        "began_ns": int(seen * NS_PER_S),
    }
    return Sighting(**{**parts, **changes})


def a_board(**changes: Any) -> Board:
    return Board({"port_scan": 30.0}, **{"new_per_minute": 10, "refresh_s": 60.0, **changes})


def told(alerts: Any) -> list[tuple[str, str]]:
    return [(alert.status, alert.sighting.labels.get("source", "more")) for alert in alerts]


def test_an_alert_fires_once_however_often_it_is_seen():
    board = a_board()

    assert told(board.update([a_sighting(), a_sighting()], 0.0)) == [("firing", "10.0.0.0")]
    assert board.update([a_sighting(seen=101)], 1.0) == []


def test_an_alert_that_goes_on_is_told_again_now_and_then_with_its_begin():
    board = a_board()
    board.update([a_sighting(seen=100)], 0.0)
    for second in range(10, 60, 10):
        assert board.update([a_sighting(seen=100 + second)], second) == []

    [again] = board.update([a_sighting(seen=160, value=9.0)], 60.0)

    assert again.sighting.value == 9.0
    assert again.sighting.began_ns == 100 * NS_PER_S
    assert again.changed_ns == 160 * NS_PER_S


def test_an_alert_that_gets_worse_is_told_at_once():
    board = a_board()
    board.update([a_sighting()], 0.0)

    [worse] = board.update([a_sighting(severity="critical")], 1.0)

    assert worse.sighting.severity == "critical"


def test_an_alert_is_resolved_when_it_was_not_seen_for_its_hold_time():
    board = a_board()
    board.update([a_sighting(seen=100)], 0.0)

    assert board.update([], 29.9) == []
    [over] = board.update([], 30.0)
    assert (over.status, over.resolved_ns) == ("resolved", 130 * NS_PER_S)
    assert over.changed_ns == over.resolved_ns
    assert len(board) == 0


def test_the_same_rows_read_again_make_the_same_changes():
    one, other = a_board(), a_board()

    assert one.update([a_sighting()], 0.0) == other.update([a_sighting()], 777.0)
    assert one.update([], 31.0) == other.update([], 808.0)


def test_beyond_the_limit_one_alert_says_how_many_more_there_are():
    board = a_board(new_per_minute=10)

    changes = board.update([a_sighting(number) for number in range(25)], 0.0)

    assert len(changes) == 11
    assert changes[-1].sighting.labels == {"more": "yes"}
    assert board.firing()[-1].value == 15
    assert board.held_back == {"port_scan": 15}
    assert len(board.update([a_sighting(99)], 60.0)) >= 1


def test_the_limit_of_one_detector_is_not_that_of_another():
    board = a_board(new_per_minute=1)
    board.update([a_sighting(1), a_sighting(2)], 0.0)

    assert told(board.update([a_sighting(3, detector="syn_flood")], 1.0)) == [
        ("firing", "10.0.0.3")
    ]


def test_a_million_sightings_fill_no_more_than_there_is_room_for():
    board = a_board(new_per_minute=1 << 30)
    for start in range(0, 20_000, 1000):
        board.update([a_sighting(number) for number in range(start, start + 1000)], 0.0)

    assert len(board) <= MOST_ALERTS + 1


def test_what_fires_is_known_after_a_restart_and_still_resolved(tmp_path):
    before = a_board()
    before.update([a_sighting()], 0.0)
    keep(tmp_path, before.kept())

    after = a_board()
    after.restore(kept(tmp_path), 1000.0)

    assert after.update([a_sighting(seen=101)], 1001.0) == []
    assert told(after.update([], 1031.0)) == [("resolved", "10.0.0.0")]


def test_a_damaged_file_of_what_fires_is_passed_over(tmp_path):
    (tmp_path / "firing.msgpack").write_bytes(b"\xc1")

    assert kept(tmp_path) == []
    assert kept(tmp_path / "nowhere") == []
