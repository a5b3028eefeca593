# SPDX-License-Identifier: Apache-2.0
"""Blocks are judged by the engine that has to read them."""

import ipaddress
from collections.abc import Iterator

import numpy as np
import pytest

from consumer.block import native_block
from schemas.catalogue import RECORD_OF_KIND, RECORDS
from schemas.clickhouse import DATABASE, columns
from schemas.layout import NAME
from schemas.wire import Batch, Names, Text
from tests.consumer.engine import Engine
from tests.schemas.batches import a_batch, plain_texts, text_column

pytestmark = pytest.mark.services


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with Engine(tmp_path_factory.mktemp("block") / "db") as engine:
        engine.migrate()
        yield engine


def stored(engine: Engine, kind: str, node: str) -> list[tuple[object, ...]]:
    """The rows of one node in the order of their time, raw where ClickHouse has names for them."""
    record = RECORD_OF_KIND[kind]
    readable = ", ".join(
        f"toInt8({one.name})"
        if one.kind.allowed
        else f"toUnixTimestamp64Nano({one.name})"
        if one.kind.clickhouse.startswith("DateTime64")
        else f"hex({one.name})"
        if one.kind.clickhouse.startswith("FixedString")
        else one.name
        for one in columns(record)
    )
    return engine.rows(
        f"SELECT {readable} FROM {DATABASE}.{record.table} WHERE node = '{node}' ORDER BY time"
    )


def expected(batch: Batch) -> list[tuple[object, ...]]:
    header = {"node": batch.node, "run": batch.run, "seq": batch.seq}
    values = [
        [header[field.name]] * batch.rows if field.name in header else plain(batch, field.name)
        for field in columns(batch.record)
    ]
    return list(zip(*values, strict=True))


def plain(batch: Batch, name: str) -> list[object]:
    column = batch.columns[name]
    if isinstance(column, Names):
        return [column.categories[code] for code in column.codes]
    if isinstance(column, Text):
        return [text.decode() for text in plain_texts(column)]
    if column.dtype.itemsize == 16:
        return [ipaddress.IPv6Address(value.tobytes()) for value in column]
    if column.dtype.kind == "V":
        return [value.tobytes().hex().upper() for value in column]
    return column.tolist()


@pytest.mark.parametrize("kind", [record.kind for record in RECORDS])
def test_every_column_of_every_kind_arrives_as_it_was(engine, kind):
    batch = a_batch(kind, rows=50, node=f"all-{kind}")

    engine.store(batch)

    assert stored(engine, kind, batch.node) == expected(batch)


def test_one_block_holds_records_of_several_nodes_with_their_own_categories(engine):
    numbers = np.array([0, 1, 1], "|u1")
    batches = [
        a_batch(node="mixed-a", columns={"interface": Names(numbers, ("eth0", "lo"))}),
        a_batch(node="mixed-b", columns={"interface": Names(numbers, ("lo", "eth1"))}),
        a_batch(node="mixed-a", columns={"interface": Names(numbers.astype("<u2"), ("", "lo"))}),
    ]

    engine.store(*batches)

    assert engine.rows(
        f"SELECT node, interface, count() FROM {DATABASE}.flows WHERE node LIKE 'mixed-%'"
        " GROUP BY ALL ORDER BY ALL"
    ) == [
        ("mixed-a", "", 1),
        ("mixed-a", "eth0", 1),
        ("mixed-a", "lo", 4),
        ("mixed-b", "eth1", 2),
        ("mixed-b", "lo", 1),
    ]


@pytest.mark.parametrize("categories", [1, 255, 256, 257, 65_536, 65_537])
def test_a_column_of_names_may_have_any_number_of_categories(engine, categories):
    # One record holds at most 65536; a block joins several.
    names = [f"if{number}" for number in range(categories)]
    halves = [names[: 1 << 15], names[1 << 15 : 1 << 16], names[1 << 16 :]]
    batches = [
        a_batch(
            rows=len(half),
            node=f"categories-{categories}",
            columns={"interface": Names(np.arange(len(half), dtype="<u2"), tuple(half))},
        )
        for half in halves
        if half
    ]

    engine.store(*batches)

    found = engine.rows(
        f"SELECT count(), uniqExact(interface), min(interface) FROM {DATABASE}.flows"
        f" WHERE node = 'categories-{categories}'"
    )
    assert found == [(categories, categories, "if0")]


def test_texts_of_any_length_arrive_as_they_were(engine):
    lengths = [0, 1, 127, 128, 255, 256, 16_383, 16_384, 65_535, 0]
    values = [bytes([97 + number]) * length for number, length in enumerate(lengths)]
    halves = [
        a_batch("dns", 5, node="lengths", columns={"query_name": text_column(half)})
        for half in (values[:5], values[5:])
    ]

    engine.store(*halves)

    found = engine.rows(f"SELECT query_name FROM {DATABASE}.dns WHERE node = 'lengths'")
    assert sorted(row[0] for row in found) == sorted(value.decode() for value in values)


def test_many_nodes_share_one_block_and_each_row_says_which_batch_it_came_in(engine):
    batches = [
        a_batch(rows=1 + number % 2, node=f"node-{number}", run=f"run-{number % 7}", seq=number)
        for number in range(300)
    ]

    engine.store(*batches)

    names = f"SELECT node, run, seq, count() FROM {DATABASE}.flows WHERE node LIKE 'node-%'"
    assert engine.rows(f"{names} GROUP BY ALL ORDER BY seq") == [
        (batch.node, batch.run, batch.seq, batch.rows) for batch in batches
    ]


@pytest.mark.parametrize("kind", [record.kind for record in RECORDS])
def test_missing_columns_become_clickhouse_defaults_beside_records_that_have_them(engine, kind):
    whole = a_batch(kind, rows=4, node=f"whole-{kind}")
    bare = a_batch(kind, rows=4, node=f"bare-{kind}")
    bare = Batch(
        **{
            **{name: getattr(bare, name) for name in Batch.__dataclass_fields__},
            "columns": {"time": bare.columns["time"]},
        }
    )

    engine.store(whole, bare)

    assert stored(engine, kind, whole.node) == expected(whole)
    differing = [
        f"{one.name} != defaultValueOfTypeName('{one.kind.clickhouse.replace(chr(39), chr(92) + chr(39))}')"
        for one in whole.record.fields
        if one.name != "time"
    ]
    table = f"{DATABASE}.{whole.record.table}"
    assert engine.value(f"SELECT count() FROM {table} WHERE node = '{bare.node}'") == 4
    assert (
        engine.value(
            f"SELECT count() FROM {table} WHERE node = '{bare.node}' AND ({' OR '.join(differing)})"
        )
        == 0
    )


def test_the_same_rows_inserted_twice_are_stored_once(engine):
    batch = a_batch(rows=5, node="twice")

    engine.store(batch)
    engine.store(batch)

    assert engine.value(f"SELECT count() FROM {DATABASE}.flows WHERE node = 'twice'") == 5


def test_a_block_without_rows_is_a_block():
    record = RECORD_OF_KIND["flow"]

    block = native_block(record, [a_batch(rows=0)])

    assert block[:2] == bytes([len(columns(record)), 0])
    assert all(one.kind is not NAME or one.name.encode() in block for one in record.fields)
