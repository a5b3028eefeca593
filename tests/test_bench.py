# SPDX-License-Identifier: Apache-2.0
"""What measuring makes of its results: figures, tables, and a run that goes on after a failure."""

import json
import sys
import xml.etree.ElementTree as ET
from argparse import Namespace

import pytest

from bench import __main__ as runner
from bench import plots, report
from bench.rounds import cell, table

READERS = table(
    "Events of 64 bytes, CPU ns an event",
    ["reader", "bursts of 1,000"],
    [["numpy", cell([12.0, 13.0, 14.0])], ["bcc callback", cell([220.0, 240.0])], ["other", "-"]],
)
RESULTS = {"subjects": {"ring": {"tables": [READERS]}}}


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "PICTURES", tmp_path)
    return tmp_path


def test_a_figure_is_the_same_for_the_same_results(pictures):
    plots.draw_all(RESULTS)
    first = (pictures / "ring-readers.svg").read_text()
    plots.draw_all(RESULTS)

    assert (pictures / "ring-readers.svg").read_text() == first
    assert len(first) < 60_000


def test_a_figure_tells_what_it_shows_in_words_and_suits_both_themes(pictures):
    ((path, about),) = plots.draw_all(RESULTS)["ring"]
    svg = ET.parse(path).getroot()  # noqa: S314  # our own file

    assert svg.findtext("{*}title") == "Reading a ring buffer, bursts of 1,000"
    assert svg.findtext("{*}desc") == about
    assert "prefers-color-scheme: dark" in svg.findtext("{*}style")
    assert "bcc callback" in "".join(svg.itertext())


def test_a_figure_of_what_was_not_measured_is_named_and_the_others_are_drawn(pictures, capsys):
    assert list(plots.draw_all(RESULTS)) == ["ring"]

    assert [path.name for path in pictures.iterdir()] == ["ring-readers.svg"]
    assert (
        "no figure kernel-packet.svg: kernel has no table 'Full flow accounting, a';"
        in capsys.readouterr().err
    )


def test_a_report_shows_figures_and_of_how_many_rounds_medians_are(pictures, tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text("<!-- bench: ring -->\n<!-- end -->\n<!-- bench: kernel -->\n<!-- end -->\n")
    monkeypatch.setattr(report, "PAGE", page)
    about = {"command": "python -m bench.ring", "began": "today", "seconds": 9, "load_before": 0.5}
    report.write_report({"subjects": {"ring": about | {"tables": [READERS]}}})

    lines = page.read_text().splitlines()
    assert lines[2] == "`python -m bench.ring`, today, 9 s, load 0.5 before"
    assert lines[4].endswith("](../pictures/ring-readers.svg)")
    assert lines[6] == "**Events of 64 bytes, CPU ns an event**, of 2 to 3 rounds"
    assert lines[10] == "| numpy | 13 (12 to 14) |"
    assert lines[-2:] == ["<!-- bench: kernel -->", "<!-- end -->"]


def test_a_subject_that_fails_loses_neither_the_others_nor_what_it_found_before(
    tmp_path, monkeypatch, capfd
):
    path = tmp_path / "results.json"
    path.write_text('{"subjects": {"rules": {"tables": ["old"]}}}')
    found = {"kernel": "print('{\"tables\": []}')", "rules": "exit(3)", "ring": "print('no')"}
    monkeypatch.setattr(runner, "machine", dict)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("sys.argv", ["bench", *found, "--results", str(path)])
    real = runner.output
    monkeypatch.setattr(
        runner,
        "output",
        lambda command, longest_s: real(
            [sys.executable, "-c", found[command[2].partition(".")[2]]], longest_s
        ),
    )

    assert runner.main() == 1
    subjects = json.loads(path.read_text())["subjects"]
    assert subjects["kernel"]["tables"] == []
    assert subjects["rules"] == {"tables": ["old"]}
    assert "ring" not in subjects
    said = capfd.readouterr().err
    assert "bench: rules failed with 3; what it said is above" in said
    assert "bench: ring printed no JSON object but 'no\\n'" in said
    assert f"kernel took 0 of {runner.SUBJECTS['kernel']} s" in said


def test_a_run_says_at_its_end_which_subject_took_longer_than_it_may(monkeypatch, tmp_path, capfd):
    monkeypatch.setattr(runner, "SUBJECTS", {"kernel": 100, "ring": 0})
    monkeypatch.setattr(runner, "run", lambda *_: {})

    runner.run_all(Namespace(subjects=[], size="usual"), tmp_path / "results.json", {})

    *_, whole, late, _ = capfd.readouterr().err.splitlines()
    assert whole == "bench: all took 0 of 100 s"
    assert late == "bench: too long: ring took 0 of 0 s"


def test_a_subject_that_hangs_is_ended():
    with pytest.raises(runner.SubjectError, match=r"^hung: it was ended after 1 s$"):
        runner.output([sys.executable, "-c", "import time; time.sleep(100)"], 0.6)
