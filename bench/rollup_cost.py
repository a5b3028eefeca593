# SPDX-License-Identifier: Apache-2.0
"""What each rollup adds to the insert of one block, as large as the consumer's are.

Views do what they do for anybody's insert.  The consumer sums the block up itself and inserts that;
it does so while ClickHouse is busy with the rows, and here one after the other, so that all is seen.
"""

import time
from functools import partial
from typing import Any

import numpy as np

from bench import rounds
from consumer.sink import OF_SUMS
from consumer.sums import Adder
from schemas import wire
from schemas.clickhouse import DATABASE, NODE, columns, create_table
from schemas.flow import FLOW
from schemas.layout import NAME, Field
from schemas.rollup import ADDRESSES_1D, EDGES_1D, FLOWS_1M, ROLLUPS, Rollup
from schemas.rollup_sql import SUMMED, create_rollup, create_view

BLOCK_ROWS = 200_000
VARIANTS: dict[str, tuple[Rollup, ...]] = {
    "no rollup": (),
    "`flows_1m` by its view": (FLOWS_1M,),
    "`edges_1d` by its view": (EDGES_1D,),
    "`edges_1d`, `addresses_1d` by views": (EDGES_1D, ADDRESSES_1D),
    "all by views": ROLLUPS,
}
BY_CONSUMER = "all as the consumer adds them"


def insert_table(client: Any, rounds_of: int) -> dict:
    """Insert a day's first block into one database a variant, by turns."""
    names = ", ".join(field.name for field in columns(FLOW))
    client.command("CREATE DATABASE IF NOT EXISTS bench_block")
    client.command("DROP TABLE IF EXISTS bench_block.flows")
    client.command(
        f"CREATE TABLE bench_block.flows ENGINE = Memory AS SELECT {names}"
        f" FROM {DATABASE}.flows ORDER BY time LIMIT {BLOCK_ROWS}"
    )
    variants = {
        name: partial(_insert, client, _database(client, number, some), names)
        for number, (name, some) in enumerate(VARIANTS.items())
    }
    summed = _database(client, len(variants), ROLLUPS)
    variants[BY_CONSUMER] = partial(_insert_summed, client, summed, names, _batches(client))
    found = rounds.interleave(variants, rounds_of)
    for number in range(len(variants)):
        client.command(f"DROP DATABASE bench_{number}")
    client.command("DROP DATABASE bench_block")
    lines: list[list[object]] = [
        [name, rounds.cell(found[name], 0), rounds.cell(rounds.ratio(found, name, "no rollup"), 2)]
        for name in variants
    ]
    return rounds.table(
        f"An insert of {BLOCK_ROWS:,} rows",
        ["into flows", "ms", "times that without"],
        lines,
        "Rows that are in memory as columns, all that a consumer does before left out.",
    )


def _database(client: Any, number: int, rollups: tuple[Rollup, ...]) -> str:
    name = f"bench_{number}"
    client.command(f"DROP DATABASE IF EXISTS {name}")
    client.command(f"CREATE DATABASE {name}")
    made = [create_table(FLOW)]
    for rollup in rollups:
        made += [create_rollup(rollup), create_view(rollup)]
    for statement in made:
        client.command(statement.replace(f"{DATABASE}.", f"{name}."))
    return name


def _insert(client: Any, database: str, names: str, **settings: object) -> float:
    """How long one block took, milliseconds."""
    began = time.monotonic()
    client.command(
        f"INSERT INTO {database}.flows ({names}) SELECT * FROM bench_block.flows",
        settings={"insert_deduplication_token": str(time.time_ns()), **settings},
    )
    return (time.monotonic() - began) * 1000


def _insert_summed(client: Any, database: str, names: str, block: list[wire.Batch]) -> float:
    """The same for the block and its sums."""
    rows_ms = _insert(client, database, names, **SUMMED)
    began = time.monotonic()
    for rollup, of_rollup, sums in _ADDER.sums(block):
        client.raw_insert(
            f"{database}.{rollup.table}",
            column_names=of_rollup,
            insert_block=sums,
            fmt="Native",
            settings={"insert_deduplication_token": str(time.time_ns()), **OF_SUMS},
        )
    return rows_ms + (time.monotonic() - began) * 1000


_ADDER = Adder({FLOWS_1M.table: 0, EDGES_1D.table: 0})


def _batches(client: Any) -> list[wire.Batch]:
    """The block as the consumer has it, one batch a node, as far as rollups are made of it."""
    made = {part.sql for rollup in ROLLUPS for part in rollup.parts} | {"src_port", "dst_port"}
    of_all = {
        field.name: _column(client, field)
        for field in FLOW.fields
        if field.name in made or field.name == "time"
    }
    nodes = _column(client, NODE)
    return [
        _batch(node, of_all, np.flatnonzero(nodes.codes == code))
        for code, node in enumerate(nodes.categories)
    ]


def _batch(node: str, of_all: dict[str, wire.Column], at: np.ndarray) -> wire.Batch:
    about = {"node": node, "boot_id": "bench", "run": "bench", "seq": 0, "anchor": {}}
    of_node = {
        name: wire.Names(one.codes[at], one.categories) if isinstance(one, wire.Names) else one[at]
        for name, one in of_all.items()
    }
    return wire.Batch(kind="flow", rows=len(at), columns=of_node, **about)


def _column(client: Any, field: Field) -> wire.Column:
    table = "FROM bench_block.flows"
    if field.kind is not NAME:
        content = client.raw_query(f"SELECT {field.name} {table}", fmt="RowBinary")
        return np.frombuffer(content, field.kind.numpy)
    found = client.query(f"SELECT DISTINCT {field.name} {table}").result_rows
    names = tuple(name for (name,) in found)
    numbered = f"transform({field.name}, {list(names)}, range({len(names)}), 0)"
    content = client.raw_query(f"SELECT toUInt16({numbered}) {table}", fmt="RowBinary")
    return wire.Names(np.frombuffer(content, "<u2"), names)
