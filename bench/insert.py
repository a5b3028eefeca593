# SPDX-License-Identifier: Apache-2.0
"""What each rollup adds to the insert of one block, as large as the consumer's are."""

import time
from functools import partial
from typing import Any

from bench import rounds
from schemas.clickhouse import DATABASE, columns, create_table
from schemas.flow import FLOW
from schemas.rollup import ADDRESSES_1D, EDGES_1D, FLOWS_1M, ROLLUPS, Rollup
from schemas.rollup_sql import create_rollup, create_view

BLOCK_ROWS = 200_000
VARIANTS: dict[str, tuple[Rollup, ...]] = {
    "no rollup": (),
    "with `flows_1m`": (FLOWS_1M,),
    "with `edges_1d`": (EDGES_1D,),
    "with `edges_1d`, `addresses_1d`": (EDGES_1D, ADDRESSES_1D),
    "with all": ROLLUPS,
}


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
    found = rounds.interleave(variants, rounds_of)
    for number in range(len(VARIANTS)):
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


def _insert(client: Any, database: str, names: str) -> float:
    """How long one block took, milliseconds."""
    began = time.monotonic()
    client.command(
        f"INSERT INTO {database}.flows ({names}) SELECT * FROM bench_block.flows",
        settings={"insert_deduplication_token": str(time.time_ns())},
    )
    return (time.monotonic() - began) * 1000
