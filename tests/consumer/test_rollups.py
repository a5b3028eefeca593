# SPDX-License-Identifier: Apache-2.0
"""Rollups hold the sums of the rows, each row once, whatever was repeated or came before them."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from consumer.rollups import plan_rollups
from consumer.sink import SinkError
from consumer.tables import ExistingTable
from schemas.clickhouse import DATABASE
from schemas.flow import FLOW
from schemas.rollup import ADDRESSES_1D, EDGES_1D, ROLLUPS
from schemas.rollup_sql import (
    SUMMED,
    WHOLE,
    backfill,
    create_rollup,
    create_view,
    leaves_summed,
    whole_from,
)
from tests.consumer.engine import Engine
from tests.schemas.batches import a_batch

pytestmark = pytest.mark.services


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with Engine(tmp_path / "db", clients=3) as engine:
        yield engine


def sums(engine: Engine) -> dict[str, tuple[int, int, int]]:
    """Rows of flows, packets and bytes, as each table has them."""
    counted = {
        "flows": "count()",
        "flows_1m": "sum(flows)",
        "edges_1d": "sum(flows)",
        "addresses_1d": "sum(flows)",
    }
    found = {}
    for table, flows in counted.items():
        where = "WHERE side = 'src'" if table == "addresses_1d" else ""
        query = f"SELECT {flows}, sum(packets), sum(bytes) FROM {DATABASE}.{table} {where}"
        [found[table]] = engine.rows(query)
    return found


WAYS = pytest.mark.parametrize("is_summed", [True, False], ids=["consumer", "views"])


@WAYS
def test_every_rollup_has_the_sums_of_the_rows(engine, is_summed):
    engine.migrate()

    engine.store(a_batch(rows=1000, seq=0), a_batch(rows=1000, seq=1), is_summed=is_summed)
    engine.store(a_batch(rows=1000, seq=2), is_summed=is_summed)

    found = sums(engine)
    assert found["flows"][0] == 3000
    assert set(found.values()) == {found["flows"]}


def test_the_consumer_and_the_views_make_the_same_sums(engine):
    engine.migrate()
    # Days that only a Date, or not even a DateTime, can tell; equal keys; no ports, and one port.
    times = np.array([0, 59, 60, 4_294_967_290, 5_662_396_800, 7_258_118_399, 60, 60], "<i8")
    ports = np.array([0, 53, 443, 443, 40_000, 40_000, 443, 443], "<u2")
    other = np.array([9, 0, 40_000, 443, 443, 40_000, 40_000, 40_000], "<u2")
    same = a_batch(rows=8).columns["src_addr"][[0, 1, 2, 3, 4, 5, 2, 2]]
    odd = {
        "time": times * 10**9,
        "src_addr": same,
        "src_port": ports,
        "dst_port": other,
        "bytes": np.full(8, 2**63 + 1, "<u8"),
        "tcp_flags": np.arange(8, dtype="|u1"),
    }
    batches = [a_batch(rows=1000, node="a"), a_batch(rows=8, node="b", columns=odd)]

    found = []
    for is_summed in (True, False):
        engine.store(*batches, is_summed=is_summed)
        found.append(
            {
                one.table: engine.rows(f"SELECT * FROM {DATABASE}.{one.table} FINAL ORDER BY ALL")
                for one in ROLLUPS
            }
        )
        for table in ("flows", *(one.table for one in ROLLUPS)):
            engine.execute(f"TRUNCATE TABLE {DATABASE}.{table}")

    assert all(found[0].values())
    assert found[0] == found[1]


@WAYS
def test_a_block_that_is_repeated_is_added_once(engine, is_summed):
    engine.migrate()
    for _ in range(3):
        engine.store(a_batch(rows=1000), is_summed=is_summed)
        engine.execute(f"OPTIMIZE TABLE {DATABASE}.edges_1d FINAL")

    found = sums(engine)
    assert found["flows"][0] == 1000
    assert set(found.values()) == {found["flows"]}


@WAYS
@pytest.mark.parametrize("rollup", ROLLUPS, ids=lambda one: one.table)
def test_sums_that_failed_after_the_rows_were_stored_are_added_by_the_repeated_insert(
    engine, rollup, is_summed
):
    engine.migrate()
    engine.store(a_batch(rows=10, seq=0), is_summed=is_summed)
    engine.execute(f"DETACH TABLE {DATABASE}.{rollup.table}")
    with pytest.raises(SinkError):
        engine.store(a_batch(rows=1000, seq=1), is_summed=is_summed)
    engine.execute(f"ATTACH TABLE {DATABASE}.{rollup.table}")

    engine.store(a_batch(rows=1000, seq=1), is_summed=is_summed)
    engine.store(a_batch(rows=1000, seq=1), is_summed=is_summed)

    found = sums(engine)
    assert found["flows"][0] == 1010
    assert set(found.values()) == {found["flows"]}


def test_in_a_database_with_rows_a_rollup_is_whole_from_a_moment_that_lies_ahead(engine):
    engine.migrate([FLOW])
    engine.store(a_batch(rows=10, seq=0))
    began = time.time()

    engine.migrate()
    engine.store(a_batch(rows=10, seq=1))
    engine.store(a_batch(rows=10, seq=2), is_summed=True)

    assert engine.migrate() == 0
    comments = dict(
        engine.rows(f"SELECT name, comment FROM system.tables WHERE database = '{DATABASE}'")
    )
    for rollup in ROLLUPS:
        whole_s = whole_from(comments[rollup.table])
        assert whole_s % rollup.bucket_s == 0
        assert began + 3600 <= whole_s <= time.time() + 3600 + rollup.bucket_s
    # These rows are of today and of yesterday.
    assert engine.value(f"SELECT count() FROM {DATABASE}.addresses_1d") == 0


def test_what_came_before_is_added_by_the_statement_of_the_guide(engine):
    engine.migrate([FLOW])
    engine.store(a_batch(rows=1000, seq=0))
    engine.migrate()

    for rollup in ROLLUPS:
        comment = engine.value(
            "SELECT comment FROM system.tables"
            f" WHERE database = '{DATABASE}' AND name = '{rollup.table}'"
        )
        moment = f"toDateTime({whole_from(comment)}, 'UTC')"
        engine.execute(backfill(rollup).replace(WHOLE, moment))

    found = sums(engine)
    assert found["flows"][0] == 1000
    assert set(found.values()) == {found["flows"]}


def test_the_moment_of_a_view_that_was_not_made_in_time_is_moved_first():
    table = ExistingTable({}, create_rollup(EDGES_1D, 1_800_000_000))
    late = ExistingTable({}, table.definition, "Whole from 2027-01-15 08:00:00 UTC on.")
    flows = ExistingTable({}, "", rows=1)
    existing = {"flows": flows, "edges_1d": late}

    (in_time,) = plan_rollups(existing, [EDGES_1D], days=400, now_s=1_799_990_000)
    (too_late,) = plan_rollups(existing, [EDGES_1D], days=400, now_s=1_799_999_900)

    assert "CREATE MATERIALIZED VIEW" in in_time
    assert "time >= toDateTime(1800000000, 'UTC')" in in_time
    assert too_late.startswith("ALTER TABLE hookline.edges_1d MODIFY COMMENT")
    assert "Whole from 2027-01-16 00:00:00 UTC on." in too_late


def test_a_view_of_an_earlier_version_leaves_alone_what_is_summed_up_from_then_on(engine):
    engine.migrate()
    since_s = int(time.time()) // 86_400 * 86_400
    for rollup in ROLLUPS:
        claims = " AND ".join(f"getSetting('{name}') != '{said}'" for name, said in SUMMED.items())
        earlier = create_view(rollup, since_s).replace(f" AND {claims}", "")
        assert not leaves_summed(earlier)
        engine.execute(f"DROP VIEW {DATABASE}.{rollup.view}")
        engine.execute(earlier)

    assert engine.migrate() == 2
    assert engine.migrate() == 0
    engine.store(a_batch(rows=10, seq=0), is_summed=True)
    engine.store(a_batch(rows=10, seq=1))
    engine.store(
        a_batch(rows=3, seq=2, columns={"time": np.full(3, (since_s - 1) * 10**9)}), is_summed=True
    )

    assert [sums(engine)[rollup.table][0] for rollup in ROLLUPS] == [20, 20, 20]


def test_rollups_stay_as_long_as_they_are_told_to(engine):
    engine.migrate()
    existing = {
        name: ExistingTable({}, definition)
        for name, definition in engine.rows(
            f"SELECT name, create_table_query FROM system.tables WHERE database = '{DATABASE}'"
        )
    }

    assert plan_rollups(existing, ROLLUPS, days=400, now_s=0) == []
    for statement in plan_rollups(existing, ROLLUPS, days=90, now_s=0):
        engine.execute(statement)

    assert "toIntervalDay(90)" in engine.value(
        "SELECT create_table_query FROM system.tables"
        f" WHERE database = '{DATABASE}' AND name = '{ADDRESSES_1D.table}'"
    )


def test_consumers_that_start_together_agree_about_rollups(engine):
    engine.migrate([FLOW])
    engine.store(a_batch(rows=10))

    engine.migrate_at_once()

    assert engine.migrate() == 0
