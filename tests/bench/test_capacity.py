# SPDX-License-Identifier: Apache-2.0
import json
import subprocess
import sys

import pytest

from bench import report
from bench.capacity import BUSY, FLEETS, Fleet, Plan, tables
from bench.figures import KINDS, SOURCES, MissingError, figures
from bench.nodes import class_of
from bench.report import write_report
from consumer.stored import MAX_RUNS
from tests.docs.pages import ROOT

# One of each, in the units of SOURCES.
OF = {
    "agent_percent": 2.0,
    "agent_row_us": 0.5,
    "agent_mb": 90.0,
    "kafka_row_bytes": 50.0,
    "broker_record_us": 200.0,
    "consumer_insert_us": 1000.0,
    "consumer_record_us": 300.0,
    "consumer_row_us": 1.0,
    "consumer_mb": 100.0,
    "run_bytes": 500.0,
    "clickhouse_insert_us": 20_000.0,
    "clickhouse_row_us": 2.0,
    "alert_row_ns": 10_000.0,
    **{f"{kind}_disk_bytes": 25.0 for kind in KINDS},
}


def results(**without: str) -> dict:
    """What a run of the subjects leaves behind, as far as it is read."""
    subjects: dict = {}
    for name, source in SOURCES.items():
        found = {
            "title": source.title,
            "columns": ["", source.column],
            "rows": [[source.row, {"median": OF[name] / source.factor, "low": 0, "high": 9}]],
        }
        if name != without.get("figure"):
            of = {"command": "c", "began": "b", "seconds": 1, "tables": []}
            subjects.setdefault(source.subject, of)["tables"].append(found)
    return {"subjects": subjects}


def test_every_figure_is_read_from_the_cell_that_its_source_names():
    assert figures(results()) == pytest.approx(OF)


def test_a_figure_that_no_subject_has_measured_is_named_with_how_to_get_it():
    with pytest.raises(MissingError, match="'CPU %' of 'none'.*python -m bench live"):
        figures({"subjects": results()["subjects"] | {"live": {"tables": []}}})
    with pytest.raises(MissingError, match="no results of live; measure it"):
        figures({})


def test_flows_on_the_disk_are_those_of_the_history_where_that_was_measured():
    found = results()
    columns = ["table", "bytes a row", "bytes a flow row"]
    rows = [["`flows`", 16.5, 16.5], ["`flows_1m`", 30.0, 1.0], ["`sockets`", 40.0, 8.0]]
    history = {"title": "On disk", "columns": columns, "rows": rows}
    found["subjects"]["queries"] = {"tables": [history]}

    assert figures(found)["flow_disk_bytes"] == 17.5


def test_a_longer_interval_saves_rows_of_flows_that_go_on_and_records_of_all():
    often, seldom = Fleet(10, 1.0, 100.0), Fleet(10, 5.0, 100.0)

    assert often.rows("flow") == 1000
    assert seldom.rows("flow") == pytest.approx(1000 * (0.2 + 0.8 / 5))
    assert seldom.rows("packet") == often.rows("packet")
    assert (often.records, seldom.records) == (50, 10)


def test_classes_of_nodes_are_mixed_as_they_say_however_few_nodes_there_are():
    names = [class_of(number).name for number in range(1000)]

    assert [names.count(name) for name in ("small", "medium", "busy")] == [800, 170, 30]
    assert {"small", "medium", "busy"} == set(names[:12])


@pytest.mark.parametrize("fleet", FLEETS, ids=str)
def test_a_plan_gives_every_consumer_partitions_and_every_run_a_place(fleet):
    plan = Plan.computed(fleet, OF)

    assert plan.consumer_cpus <= BUSY * plan.consumers
    assert plan.partitions >= 2 * plan.consumers
    assert fleet.nodes / plan.partitions <= MAX_RUNS / 2


def test_rows_wait_for_longer_where_there_are_many_partitions():
    few, many = Plan(Fleet(10), OF, 4), Plan(Fleet(10), OF, 64)

    assert few.age_s("ledger") == 2.0
    assert many.age_s("ledger") == 16.0
    assert many.inserts == 5 * 4


def test_what_a_thousand_nodes_need_follows_from_the_formulas():
    plan = Plan.computed(Fleet(1000, 1.0, 100.0), OF)
    rows = 1000 * (100 + 20 + 10 + 9)

    assert plan.fleet.all_rows == pytest.approx(rows)
    assert plan.consumer_cpus == pytest.approx(
        (plan.inserts * 1000 + 5000 * 300 + rows * 1.0) / 1e6
    )
    assert dict(plan.lines())["ClickHouse, GB a day"] == round(rows * 25 * 86_400 / 1e9, 1)
    assert dict(plan.lines())["Kafka's disks in all, GB for 1 day"] == round(
        3 * rows * 50 * 86_400 / 1e9
    )


def test_the_report_fills_the_page_or_says_what_it_lacks(tmp_path, monkeypatch, capsys):
    for page in ("PAGE", "COMPUTED"):
        (tmp_path / page).write_text(getattr(report, page).read_text())
        monkeypatch.setattr(report, page, tmp_path / page)
    before = (tmp_path / "COMPUTED").read_text()

    write_report(results(figure="run_bytes") | {"machine": machine()})
    assert (tmp_path / "COMPUTED").read_text() == before
    assert "COMPUTED is not renewed: results of scale" in capsys.readouterr().err

    write_report(results() | {"machine": machine()})
    text = (tmp_path / "COMPUTED").read_text()
    assert "| records a second | 50 | 5,000 | 1,000 | 50,000 | 10,000 |" in text
    assert set(tables(results())) == {"capacity", "inputs"}


def machine() -> dict:
    return {
        "processor": "p",
        "cpus": 2,
        "memory_gb": 1,
        "is_virtual": True,
        "kernel": "6",
        "python": "3",
    }


def test_the_command_computes_for_numbers_of_ones_own(tmp_path):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results()))
    command = [sys.executable, "-m", "bench.capacity", "--nodes", "300", "--interval", "5"]

    told = subprocess.run(
        [*command, "--results", path], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout

    assert "records a second" in told
    assert "300" in next(line for line in told.splitlines() if "records" in line)
