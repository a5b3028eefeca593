# SPDX-License-Identifier: Apache-2.0
"""The users of a ClickHouse server may do what they need, and the engine understands how it is said.

The embedded engine keeps no users, so the rights are compared with what a consumer really asks.
"""

import asyncio
import re
from pathlib import Path

import pytest

from consumer.migrations import migrate
from consumer.sink import Sink, SinkError
from schemas.catalogue import RECORDS
from schemas.clickhouse import DATABASE
from schemas.flow import FLOW
from schemas.rollup import EDGES_1D, ROLLUPS
from schemas.rollup_sql import create_view
from tests.consumer.clickhouse_server import Server
from tests.consumer.engine import Engine, accepted
from tests.schemas.batches import a_batch

FILE = Path(__file__).parents[2] / "deploy/clickhouse/users.sql"
TABLES = {record.table for record in RECORDS}
SUMMED = {rollup.table for rollup in ROLLUPS}

# By what a statement begins with, what it needs; the client asks the last ones of its own accord,
# and everybody may.
NEEDS = {
    r"CREATE DATABASE IF NOT EXISTS hookline\b": "CREATE DATABASE ON hookline.*",
    r"CREATE MATERIALIZED VIEW IF NOT EXISTS hookline\.": "CREATE VIEW ON hookline.*",
    r"CREATE TABLE IF NOT EXISTS hookline\.": "CREATE TABLE ON hookline.*",
    r"ALTER TABLE hookline\.\w+ ADD COLUMN": "ALTER ADD COLUMN ON hookline.*",
    r"ALTER TABLE hookline\.\w+ MODIFY COLUMN": "ALTER MODIFY COLUMN ON hookline.*",
    r"ALTER TABLE hookline\.\w+ COMMENT COLUMN": "ALTER COMMENT COLUMN ON hookline.*",
    r"ALTER TABLE hookline\.\w+ MODIFY TTL": "ALTER TTL ON hookline.*",
    r"ALTER TABLE hookline\.\w+_view MODIFY QUERY": "ALTER VIEW MODIFY QUERY ON hookline.*",
    r"ALTER TABLE hookline\.\w+ MODIFY COMMENT": "ALTER MODIFY COMMENT ON hookline.*",
    r"SELECT .* FROM system\.columns": "SELECT ON system.columns",
    r"SELECT .* FROM system\.tables": "SELECT ON system.tables",
    r"SELECT (version\(\)|.* FROM system\.settings|1 AS check)": "",
}


def statements() -> list[str]:
    text = re.sub(r"^--.*\n", "", FILE.read_text(), flags=re.MULTILINE)
    return [one.strip() for one in text.split(";") if one.strip()]


def rights(role: str) -> set[str]:
    """Each right of a role, as `WHAT ON WHERE`."""
    found = set()
    for one in statements():
        if granted := re.fullmatch(rf"GRANT (.+) ON (\S+) TO {role}", one):
            what = re.split(r", (?![^(]*\))", granted[1])
            found |= {f"{right} ON {granted[2]}" for right in what}
    return found


@pytest.mark.services
def test_the_engine_parses_every_statement(tmp_path):
    with Engine(tmp_path / "db") as engine:
        for one in statements():
            assert engine.rows(f"EXPLAIN AST {one}"), one
        with pytest.raises(SinkError):
            engine.rows("EXPLAIN AST GRANT INSERTS ON hookline.flows TO hookline_writer")


def test_every_table_is_named_and_no_other():
    writer, reader = rights("hookline_writer"), rights("hookline_reader")

    assert {one.split(".")[1] for one in writer if one.startswith("INSERT ON")} == TABLES | SUMMED
    assert {one.split(".")[1] for one in writer if one.startswith("SELECT(")} == TABLES
    assert reader == {f"SELECT ON {DATABASE}.{table}" for table in TABLES | SUMMED}


@pytest.mark.services
def test_a_consumer_asks_for_nothing_that_it_may_not(tmp_path):
    granted = rights("hookline_writer")
    with Server(tmp_path / "db") as server:
        sink = Sink(server.url)
        sink.connect([record.table for record in RECORDS])
        for days in (30, 7):
            bring_up(sink, days)
        sink.execute(f"ALTER TABLE {DATABASE}.flows DROP COLUMN vni")
        sink.execute(f"ALTER TABLE {DATABASE}.flows COMMENT COLUMN bytes ''")
        before = len(server.statements())
        bring_up(sink, 7)
        for record in RECORDS:
            asyncio.run(sink.insert(record, [accepted(a_batch(record.kind))]))
        sink.execute(f"DROP VIEW {DATABASE}.edges_1d_view")
        bring_up(sink, 7)
        sink.execute(f"DROP VIEW {DATABASE}.edges_1d_view")
        sink.execute(re.sub(r"\nWHERE .*", "", create_view(EDGES_1D)))
        bring_up(sink, 7)
        sink.add_to({rollup.table: 0 for rollup in ROLLUPS if rollup.source == FLOW.table})
        asyncio.run(sink.insert(FLOW, [accepted(a_batch(seq=1))], is_summed=True))
        sink.close()
        asked = [one for one in server.statements() if "DROP" not in one]

    needed = {need_of(one) for one in asked} - {""}
    assert len(asked) > before
    assert needed <= granted
    # Nothing is granted in vain, but for enums that gain names, and what is only looked at.
    unused = {one for one in granted - needed if "SHOW" not in one and "SELECT" not in one}
    # What a view fills is not asked for.
    unused.remove(f"INSERT ON {DATABASE}.addresses_1d")
    assert unused == {"ALTER MODIFY COLUMN ON hookline.*"}


def bring_up(sink: Sink, days: int) -> None:
    migrate(sink, RECORDS, retention_days=days, failures=SinkError, rollups=ROLLUPS)


def need_of(statement: str) -> str:
    if inserted := re.match(r"INSERT INTO `?hookline`?\.`?(\w+)", statement):
        return f"INSERT ON hookline.{inserted[1]}"
    for pattern, need in NEEDS.items():
        if re.match(pattern, " ".join(statement.split())):
            return need
    raise AssertionError(f"nobody knows what this needs: {statement}")
