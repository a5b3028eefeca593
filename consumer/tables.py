# SPDX-License-Identifier: Apache-2.0
"""The tables of our database as ClickHouse describes them, and what changes any of them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from schemas.clickhouse import DATABASE, DEDUPLICATION, settings


class Database(Protocol):
    """What a migration needs of ClickHouse."""

    def execute(self, statement: str) -> None: ...
    def rows(self, query: str) -> list[tuple[Any, ...]]: ...


@dataclass(frozen=True, slots=True)
class ExistingColumn:
    """A column as ClickHouse describes it."""

    type: str
    comment: str
    codec: str = ""


@dataclass(frozen=True, slots=True)
class ExistingTable:
    """A table as ClickHouse describes it."""

    columns: Mapping[str, ExistingColumn]
    definition: str
    comment: str = ""
    rows: int = 0


def existing_tables(database: Database) -> dict[str, ExistingTable]:
    """The tables of our database by name, views among them."""
    found: dict[str, dict[str, ExistingColumn]] = {}
    for table, name, *rest in database.rows(
        "SELECT table, name, type, comment, compression_codec FROM system.columns"
        f" WHERE database = '{DATABASE}'"
    ):
        found.setdefault(table, {})[name] = ExistingColumn(*rest)
    about = {
        name: (definition, comment, rows or 0)
        for name, definition, comment, rows in database.rows(
            "SELECT name, create_table_query, comment, total_rows FROM system.tables"
            f" WHERE database = '{DATABASE}'"
        )
    }
    return {table: ExistingTable(found[table], *about.get(table, ("",))) for table in found}


def window(table: ExistingTable, name: str) -> list[str]:
    """What opens the deduplication window of a table as far as is declared."""
    found = dict(re.findall(r"\b(\w+_deduplication_window\w*) = (\d+)", table.definition))
    narrow = {one: wide for one, wide in DEDUPLICATION.items() if int(found.get(one, 0)) < wide}
    return [f"{alter(name)} MODIFY SETTING {settings(narrow)}"] if narrow else []


def alter(table: str) -> str:
    """How a statement that changes a table begins."""
    return f"ALTER TABLE {DATABASE}.{table}"
