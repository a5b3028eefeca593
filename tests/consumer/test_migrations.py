# SPDX-License-Identifier: Apache-2.0
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from consumer.migrations import ExistingColumn, ExistingTable, MigrationError, plan
from schemas.catalogue import RECORDS
from schemas.clickhouse import (
    DATABASE,
    DEDUPLICATION,
    STORED_AT,
    columns,
    create_database,
    create_table,
    settings,
)
from schemas.dns import DNS
from schemas.flow import FLOW
from schemas.layout import U8, U32, Field, enum8
from schemas.rollup import ROLLUPS
from tests.consumer.engine import Engine
from tests.schemas.batches import a_batch

pytestmark = pytest.mark.services

OLDER_FLOW = replace(
    FLOW, fields=tuple(field for field in FLOW.fields if field.name not in {"dscp", "max_bytes"})
)
NEWER_FLOW = replace(FLOW, fields=(*FLOW.fields, Field("as_number", U32, "origin AS")))


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with Engine(tmp_path / "db", clients=3) as engine:
        yield engine


def described(engine: Engine) -> list[tuple[object, ...]]:
    return engine.rows(
        f"SELECT name, type, comment FROM system.columns WHERE database = '{DATABASE}'"
        " AND table = 'flows' AND default_kind = '' ORDER BY position"
    )


def test_an_empty_database_gets_every_table_and_a_second_run_does_nothing(engine):
    assert engine.migrate() == len(RECORDS) + 2 * len(ROLLUPS)

    assert engine.migrate() == 0
    assert described(engine) == [(one.name, one.kind.clickhouse, one.doc) for one in columns(FLOW)]


def test_an_older_table_gains_the_new_columns_at_its_end_and_keeps_its_rows(engine):
    engine.migrate([OLDER_FLOW])
    engine.execute(f"INSERT INTO {DATABASE}.flows (time, node) VALUES (now(), 'before')")

    assert engine.migrate() > 0

    assert [name for name, *_ in described(engine)][-2:] == ["dscp", "max_bytes"]
    assert engine.rows(f"SELECT node, dscp, max_bytes FROM {DATABASE}.flows") == [("before", 0, 0)]
    engine.store(a_batch(rows=2, node="after"))
    assert engine.value(f"SELECT count() FROM {DATABASE}.flows WHERE node = 'after'") == 2


def test_a_table_of_a_newer_version_is_left_alone_and_still_takes_our_rows(engine):
    engine.migrate([NEWER_FLOW])

    assert engine.migrate([FLOW]) == 0
    engine.store(a_batch(rows=2))
    assert engine.value(f"SELECT sum(as_number) FROM {DATABASE}.flows") == 0


def test_comments_and_retention_follow_the_declaration(engine):
    engine.migrate(
        [replace(FLOW, fields=(replace(FLOW.fields[0], doc="it's new"), *FLOW.fields[1:]))]
    )

    assert engine.migrate([FLOW], retention_days=7) == 2

    assert described(engine)[0][2] == FLOW.fields[0].doc
    table = engine.value(
        f"SELECT create_table_query FROM system.tables WHERE database = '{DATABASE}'"
    )
    assert "TTL stored_at + toIntervalDay(7)" in table
    assert engine.migrate([FLOW], retention_days=7) == 0


def test_a_new_table_has_the_retention_that_was_asked_for(engine):
    engine.migrate([FLOW], retention_days=3)

    table = engine.value(
        f"SELECT create_table_query FROM system.tables WHERE database = '{DATABASE}'"
    )
    assert "TTL stored_at + toIntervalDay(3)" in table


def test_rows_of_long_ago_stay_as_long_as_those_of_today(engine):
    engine.migrate([FLOW])
    engine.execute(f"INSERT INTO {DATABASE}.flows (time, node) VALUES (0, 'replayed')")

    engine.execute(f"OPTIMIZE TABLE {DATABASE}.flows FINAL")

    assert engine.value(f"SELECT count() FROM {DATABASE}.flows") == 1


def test_a_table_whose_rows_aged_by_their_own_time_is_changed(engine):
    created = create_table(FLOW).replace(f",\n    {STORED_AT}", "")
    engine.execute(create_database())
    engine.execute(created.replace("TTL stored_at", "TTL toDateTime(time)"))

    assert engine.migrate([FLOW]) == 2

    engine.execute(f"INSERT INTO {DATABASE}.flows (time, node) VALUES (0, 'replayed')")
    engine.execute(f"OPTIMIZE TABLE {DATABASE}.flows FINAL")
    assert engine.value(f"SELECT count() FROM {DATABASE}.flows") == 1
    assert engine.migrate([FLOW]) == 0


def test_a_deduplication_window_is_opened_and_one_that_is_wider_stays(engine):
    engine.execute(create_database())
    for record, window in ((FLOW, 1000), (DNS, 50_000)):
        engine.execute(
            re.sub(
                r", non_replicated_deduplication_window.*\n",
                f", non_replicated_deduplication_window = {window}\n",
                create_table(record),
            )
        )
    engine.store(a_batch(rows=2, node="before"))

    assert engine.migrate([FLOW, DNS]) == 2

    assert engine.migrate([FLOW, DNS]) == 0
    windows = dict(
        engine.rows(
            "SELECT name, extract(create_table_query, ' non_replicated_deduplication_window = (\\d+)')"
            f" FROM system.tables WHERE database = '{DATABASE}'"
        )
    )
    assert windows == {"flows": "10000", "dns": "50000"}
    engine.store(a_batch(rows=2, node="before"))
    assert engine.value(f"SELECT count() FROM {DATABASE}.flows") == 2


def test_an_enum_gains_names_and_never_loses_them(engine):
    def flow_with(**names: int) -> object:
        return replace(FLOW, fields=(*FLOW.fields, Field("hook", enum8(**names), "")))

    engine.migrate([flow_with(xdp=1)])

    assert engine.migrate([flow_with(xdp=1, tcx=3)]) == 1
    assert engine.migrate([flow_with(xdp=1)]) == 0
    assert ("hook", "Enum8('xdp' = 1, 'tcx' = 3)") in [one[:2] for one in described(engine)]


def test_consumers_that_start_together_agree(engine):
    engine.migrate([OLDER_FLOW])

    engine.migrate_at_once()

    assert engine.migrate() == 0


def test_a_column_of_another_type_is_refused_in_one_line_and_nothing_is_changed(engine):
    engine.migrate([replace(OLDER_FLOW, fields=(*OLDER_FLOW.fields, Field("dscp", U32, "")))])
    before = described(engine)

    with pytest.raises(
        MigrationError, match=r"column hookline\.flows\.dscp has type UInt32, .* needs UInt8"
    ) as refusal:
        engine.migrate()

    assert "\n" not in str(refusal.value)
    assert described(engine) == before


def test_an_enum_that_renumbers_a_name_is_refused():
    record = replace(FLOW, fields=(*FLOW.fields, Field("hook", enum8(xdp=2), "")))
    existing = {one.name: ExistingColumn(one.kind.clickhouse, one.doc) for one in columns(FLOW)}
    existing["hook"] = ExistingColumn("Enum8('xdp' = 1)", "")

    with pytest.raises(MigrationError, match="hook has type Enum8"):
        plan({"flows": ExistingTable(existing, create_table(FLOW))}, [record], 30)


def test_a_retention_that_was_set_by_hand_in_another_shape_stays():
    existing = {one.name: ExistingColumn(one.kind.clickhouse, one.doc) for one in columns(FLOW)}
    definition = f"... TTL toDateTime(end) + toIntervalDay(9) SETTINGS {settings(DEDUPLICATION)}"

    assert plan({"flows": ExistingTable(existing, definition)}, [FLOW], 30) == []


def test_a_column_is_added_with_its_codec_and_comment():
    record = replace(FLOW, fields=(*FLOW.fields, Field("hops", U8, "the nodes' hops")))
    existing = {one.name: ExistingColumn(one.kind.clickhouse, one.doc) for one in columns(FLOW)}

    assert plan({"flows": ExistingTable(existing, create_table(FLOW))}, [record], 30) == [
        (
            "ALTER TABLE hookline.flows ADD COLUMN IF NOT EXISTS"
            " `hops` UInt8 COMMENT 'the nodes\\' hops' CODEC(ZSTD(1))"
        )
    ]


def test_a_codec_that_an_earlier_version_declared_is_replaced_and_one_set_by_hand_stays(engine):
    engine.migrate([FLOW])
    former = {"time": "T64, ZSTD(1)", "end": "T64('bit'), ZSTD(1)", "seq": "Delta(8), LZ4"}
    for column, codec in former.items():
        kind = "UInt64" if column == "seq" else "DateTime64(9, 'UTC')"
        engine.execute(
            f"ALTER TABLE {DATABASE}.flows MODIFY COLUMN `{column}` {kind} CODEC({codec})"
        )

    assert engine.migrate([FLOW]) == 2

    assert engine.migrate([FLOW]) == 0
    codecs = dict(
        engine.rows(
            "SELECT name, compression_codec FROM system.columns"
            f" WHERE database = '{DATABASE}' AND table = 'flows' AND name IN ('time', 'end', 'seq')"
        )
    )
    assert codecs == {
        "time": "CODEC(T64('bit'), ZSTD(1))",
        "end": "CODEC(GCD, T64('bit'), ZSTD(1))",
        "seq": "CODEC(Delta(8), LZ4)",
    }
