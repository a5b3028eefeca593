# SPDX-License-Identifier: Apache-2.0
"""What a reading of the topic keeps: counts, replays, the newest letters; and nothing without end."""

import io

import msgpack
import numpy as np
import pytest

from consumer.record import Record
from hookline import progress
from hookline.dead_letter.anatomy import MAX_COLUMNS, anatomy_of
from hookline.dead_letter.entries import Choice, iso_time
from hookline.dead_letter.resend import _runs
from hookline.dead_letter.survey import Survey
from hookline.dead_letter.table import print_groups
from hookline.dead_letter.tally import MAX_GROUPS, MAX_NODES
from hookline.progress import Progress
from schemas import wire
from schemas.dead_letter import TOPIC, Letter, Note, encode, encode_note
from tests.schemas.batches import a_batch


def a_record(offset: int, value: bytes, time_ms: int = 1000) -> Record:
    return Record(TOPIC, 0, offset, time_ms, b"web-1", value)


def a_letter(reason: str = "bad", node: str = "web-1") -> bytes:
    return encode(Letter(reason, "hookline.flow.v1", 0, 17, 1234, node.encode(), b"garbage", 7))


def surveyed(
    *values: bytes, start: int = 0, keep: int = 10, choice: Choice | None = None
) -> Survey:
    span = range(start, start + len(values))
    found = Survey({(TOPIC, 0): span}, choice or Choice(), keep=keep)
    for offset, value in zip(span, values, strict=True):
        found.add(a_record(offset, value, time_ms=1000 + offset))
    return found


def test_a_note_marks_the_letters_before_it_and_counts_each_once():
    note = encode_note(Note("replayed", (10, 11)))
    found = surveyed(a_letter(), a_letter(), a_letter(), note, note, start=10)

    [group] = found.tally.groups()
    assert (group.letters, group.replayed) == (3, 2)
    assert [one.replayed_ms for one in found.newest()] == [1014, 1014, None]
    assert found.replayed()[0].tolist() == [10, 11]
    assert found.unreplayed()[0].tolist() == [12]


def test_a_note_about_what_is_no_letter_here_changes_nothing():
    notes = [
        encode_note(Note("replayed", (0, 9, 14, 1 << 62))),
        encode_note(Note("closed", (10,))),
        msgpack.packb({"v": 2, "note": "replayed", "letters": [10]}),
    ]
    found = surveyed(a_letter(), *notes, a_letter(), start=10)

    assert found.replayed()[0].tolist() == []
    # The one of another version is told, as everything that cannot be read.
    assert found.unreplayed()[0].tolist() == [10, 13, 14]


def test_a_letter_that_is_not_asked_for_is_in_no_count():
    choice = Choice(reason="GOOD")
    found = surveyed(a_letter("bad"), a_letter("a good one"), choice=choice)

    assert found.tally.letters() == 1
    assert found.unreplayed()[0].tolist() == [1]


def test_the_newest_are_kept_without_their_payloads():
    found = surveyed(*[a_letter()] * 5, keep=2)

    assert [one.offset for one in found.newest()] == [3, 4]
    assert {one.letter.payload for one in found.newest()} == {None}
    assert found.tally.letters() == 5


def test_reasons_that_differ_in_a_value_alone_are_one():
    found = surveyed(
        a_letter("column time holds 7258118400000000001, which is not between 1970 and 2200"),
        a_letter("column time holds -7258118400000000002, which is not between 1970 and 2200"),
        a_letter("column bytes has type <f8, not <u8"),
        a_letter("column bytes has type <f4, not <u8"),
    )

    assert [(group.letters, group.reason) for group in found.tally.groups()] == [
        (2, "column time holds …, which is not between 1970 and 2200"),
        (1, "column bytes has type <f4, not <u8"),
        (1, "column bytes has type <f8, not <u8"),
    ]


def test_reasons_and_nodes_without_end_are_counted_in_bounded_memory(capsys):
    values = [a_letter(f"reason {chr(0x4E00 + n)}", node=f"n{n}") for n in range(MAX_GROUPS + 50)]
    values += [a_letter("most", node=f"node-{n}") for n in range(MAX_NODES * 3)]
    found = surveyed(*values)

    groups = found.tally.groups()
    assert sum(one.letters for one in groups) == len(values)
    assert len(groups) == MAX_GROUPS + 1
    assert (groups[0].reason, groups[0].letters) == ("other reasons", 50 + MAX_NODES * 3)
    assert len(groups[0].nodes) == MAX_NODES
    print_groups(groups)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("(nodes n1000, n1001, n1002, and many more)")
    assert lines[-1] == "981 more have 981 other reasons; --by-reason shows all"


def test_offsets_are_read_in_runs_that_are_worth_it():
    runs = _runs(np.array([1, 2, 900, 5000, 5001]))

    assert [run.tolist() for run in runs] == [[1, 2, 900], [5000, 5001]]
    assert _runs(np.array([], int)) == []


@pytest.mark.parametrize("time_ms", [-(1 << 63), (1 << 63) - 1])
def test_a_time_that_no_calendar_has_is_none(time_ms):
    assert iso_time(time_ms) is None
    assert iso_time(1_795_428_000_123) == "2026-11-23T10:00:00.123Z"


def test_every_part_of_a_whole_record_is_found_and_right():
    batch = a_batch("dns", rows=3)
    found = anatomy_of(wire.encode(batch))

    assert found.header == {
        "v": 1, "kind": "dns", "node": "web-1", "boot_id": "5a1f", "run": "r-1", "seq": 0, "n": 3,
    }  # fmt: skip
    assert [column.name for column in found.columns] == list(batch.columns)
    assert not any(column.fault or column.is_unknown for column in found.columns)
    assert (found.missing, found.end, found.more_columns) == ((), "", 0)


@pytest.mark.parametrize(
    ("payload", "end"),
    [
        (b"", "cannot be read further: it ends"),
        (msgpack.packb([1]), "cannot be read further: no msgpack"),
        (msgpack.packb({"cols": 7}), "cannot be read further: no msgpack"),
        (b"\xdf\xff\xff\xff\xff", "cannot be read further: it ends"),
        (b"\x81\xa4cols\xdf\xff\xff\xff\xff", "cannot be read further: it ends"),
        (b"\x91" * 5000, "cannot be read further: no msgpack"),
        (b"\x81\xa1v" + b"\x91" * 5000, "cannot be read further: no msgpack"),
        (b"\x81\xa1v\xdd\xff\xff\xff\xff", "cannot be read further: no msgpack"),
    ],
)
def test_what_is_no_record_is_read_as_far_as_it_goes(payload, end):
    assert anatomy_of(payload).end.startswith(end)


def test_columns_of_any_shape_and_number_are_told():
    columns = {f"c{number}": number for number in range(MAX_COLUMNS + 7)}
    odd = {"time": ["<i8"], "bytes": "text", "interface": ["|u1", b"\0", ["eth0"]], "end": [1, 2]}
    payload = msgpack.packb({"kind": "flow", "n": 1, "cols": {**odd, **columns}})
    found = anatomy_of(payload)

    assert len(found.columns) == MAX_COLUMNS
    assert found.more_columns == 7 + len(odd)
    faults = {column.name: column.fault for column in found.columns[:4] if column.fault}
    assert faults == {
        "time": "is not [type, bytes]",
        "bytes": "is not [type, bytes]",
        "end": "has type 1, not <i8",
    }
    assert "packets" in found.missing


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_shown_on_a_terminal_once_it_takes_long_and_cleared(monkeypatch):
    monkeypatch.setattr(progress, "PATIENCE_S", 0.0)
    terminal, pipe = Terminal(), io.StringIO()
    for out in (terminal, pipe):
        with Progress("reading", 200, out=out) as shown:
            shown.add(90)

    assert terminal.getvalue() == "\rreading: 45 %\x1b[K\r\x1b[K"
    assert pipe.getvalue() == ""


def test_progress_is_not_shown_for_what_is_quick():
    terminal = Terminal()
    with Progress("reading", 200, out=terminal) as shown:
        shown.add(90)

    assert terminal.getvalue() == ""
