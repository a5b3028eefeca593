# SPDX-License-Identifier: Apache-2.0
"""A kill between the two steps of an insert: its token is written down, its rows have no place yet.

What such a kill leaves is made by hand, by taking the name from the last part; a kill that hits the
moment between them leaves the same.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from consumer.migrations import migrate
from consumer.sink import Sink, SinkError
from consumer.unfinished import forget_unfinished
from schemas.catalogue import RECORDS
from schemas.clickhouse import DATABASE
from schemas.flow import FLOW
from schemas.rollup import ROLLUPS
from tests.consumer.clickhouse_server import Server
from tests.consumer.engine import Engine, accepted
from tests.schemas.batches import a_batch

pytestmark = pytest.mark.services

# How many rows each table counts of one flow.
COUNTS = {"flows": "count()", "flows_1m": "sum(flows)", "edges_1d": "sum(flows)"}
COUNTS["addresses_1d"] = "intDiv(sum(flows), 2)"
NEWEST = (
    "SELECT path FROM system.parts WHERE active"
    f" AND database = '{DATABASE}' AND table = '{{}}' ORDER BY max_block_number DESC LIMIT 1"
)
FIRST, SECOND = (a_batch(rows=10, seq=seq) for seq in range(2))


def cut_off(part: str) -> None:
    """Undo the second step for a part, whose directory no engine has open."""
    Path(part).rename(Path(part).with_name(f"tmp_insert_{Path(part).name}"))


def counted(database: Engine | Server | Sink) -> dict[str, int]:
    found = {
        table: database.rows(f"SELECT {count} FROM {DATABASE}.{table}")
        for table, count in COUNTS.items()
    }
    return {table: int(rows[0][0]) for table, rows in found.items()}


@pytest.mark.parametrize("is_summed", [False, True], ids=["views", "sums"])
def test_an_insert_that_was_cut_off_is_done_again(tmp_path, is_summed):
    rounds = [["flows"], [table for table in COUNTS if table != "flows"], []]
    batches = [a_batch(rows=10, seq=number) for number in range(len(rounds))]
    for number, tables in enumerate(rounds):
        with Engine(tmp_path) as engine:
            if number == 0:
                engine.migrate()
            engine.execute("SYSTEM STOP MERGES")
            for _ in range(2):
                for batch in batches[max(0, number - 1) : number]:
                    engine.store(batch, is_summed=is_summed)
                assert counted(engine) == dict.fromkeys(COUNTS, 10 * number)
            engine.store(batches[number], is_summed=is_summed)
            parts = [engine.value(NEWEST.format(table)) for table in tables]
        for part in parts:
            cut_off(part)


def test_what_another_process_is_doing_is_no_insert_that_was_cut_off(tmp_path):
    with Engine(tmp_path) as engine:
        engine.migrate()
        engine.store(FIRST)
        part = engine.value(NEWEST.format("flows"))
        logs = Path(part).parent / "deduplication_logs"
        before = [one.read_text() for one in logs.iterdir()]
        cut_off(part)
        forget_unfinished(tmp_path)
        assert [one.read_text() for one in logs.iterdir()] == before


def test_a_part_that_was_merged_is_no_insert_that_was_cut_off(tmp_path):
    with Engine(tmp_path) as engine:
        engine.migrate()
        engine.store(FIRST)
        engine.store(SECOND)
        engine.execute(f"OPTIMIZE TABLE {DATABASE}.flows FINAL")
        part = engine.value(NEWEST.format("flows"))
    for old in Path(part).parent.glob("*_0"):
        cut_off(str(old))

    with Engine(tmp_path) as engine:
        engine.store(SECOND)
        assert counted(engine) == dict.fromkeys(COUNTS, 20)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path / "db") as server:
        yield server


@pytest.fixture
def sink(server: Server) -> Iterator[Sink]:
    sink = Sink(server.url)
    sink.connect([record.table for record in RECORDS])
    migrate(sink, RECORDS, retention_days=30, failures=SinkError, rollups=ROLLUPS)
    yield sink
    sink.close()


async def test_rows_that_a_server_lost_as_it_was_killed_are_stored_again(sink, server):
    sink.execute("SYSTEM STOP MERGES")
    await sink.insert(FLOW, [accepted(FIRST)])
    both = [accepted(FIRST), accepted(SECOND)]
    await sink.insert(FLOW, both[1:])
    [(part,)] = sink.rows(NEWEST.format("flows"))
    server.kill()
    cut_off(part)
    server.start()

    assert await sink.complete(FLOW, both) == 10
    assert await sink.complete(FLOW, both) == 0
    assert counted(sink) == dict.fromkeys(COUNTS, 20)


async def test_a_table_that_has_rows_and_tokens_in_one_step_is_not_looked_at(sink):
    # As a replicated one, of which another replica may have the rows already.
    sink.execute(f"DROP TABLE {DATABASE}.flows")
    sink.execute(f"CREATE TABLE {DATABASE}.flows (node String) ENGINE = Memory")

    assert await sink.complete(FLOW, [accepted(FIRST)]) == 0
