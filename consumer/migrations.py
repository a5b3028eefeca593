# SPDX-License-Identifier: Apache-2.0
"""Bring ClickHouse's tables to what the schema declares.

We compare what is there with what should be and run only the difference, so a second run does
nothing.  Columns are appended, comments and retention follow the declaration, an enum may gain
names, and a deduplication window is opened further, never closed.  Anything else would rewrite or lose rows: that is refused, and a human decides.
Columns and names that only a newer version knows are left alone.

Two consumers may do this at once: every statement is harmless when repeated, and after a
failure we look again whether the other one did the work.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from schemas.clickhouse import (
    DATABASE,
    DEDUPLICATION,
    STORED_AT,
    column_definition,
    columns,
    create_database,
    create_table,
    settings,
)
from schemas.layout import Field, Record

ATTEMPTS = 5

log = logging.getLogger(__name__)


class MigrationError(Exception):
    """A table that cannot be brought up to date without a human; the text says which and why."""


class Database(Protocol):
    """What a migration needs of ClickHouse."""

    def execute(self, statement: str) -> None: ...
    def rows(self, query: str) -> list[tuple[Any, ...]]: ...


@dataclass(frozen=True, slots=True)
class ExistingColumn:
    """A column as ClickHouse describes it."""

    type: str
    comment: str


@dataclass(frozen=True, slots=True)
class ExistingTable:
    """A table as ClickHouse describes it."""

    columns: Mapping[str, ExistingColumn]
    definition: str


def migrate(
    database: Database,
    records: Sequence[Record],
    *,
    retention_days: int,
    failures: type[Exception],
) -> int:
    """Create and alter tables; the number of statements that this took.

    *failures* is what `database` raises when a statement fails.

    Raises:
        MigrationError: a column has another type, or a statement keeps failing.
    """
    database.execute(create_database())
    done = 0
    reason = "its tables differ again after every change"
    for _ in range(ATTEMPTS):
        statements = plan(existing_tables(database), records, retention_days)
        if not statements:
            return done
        try:
            done += _execute(database, statements)
        except failures as error:
            # Another consumer may have been faster, so the next look decides.
            reason = str(error).partition("\n")[0]
    raise MigrationError(f"database {DATABASE} could not be migrated: {reason}")


def _execute(database: Database, statements: Sequence[str]) -> int:
    for statement in statements:
        database.execute(statement)
        log.info("schema changed", extra={"statement": statement.partition("\n")[0][:200]})
    return len(statements)


def existing_tables(database: Database) -> dict[str, ExistingTable]:
    """The tables of our database by name."""
    found: dict[str, dict[str, ExistingColumn]] = {}
    for table, name, type_, comment in database.rows(
        f"SELECT table, name, type, comment FROM system.columns WHERE database = '{DATABASE}'"
    ):
        found.setdefault(table, {})[name] = ExistingColumn(type_, comment)
    definitions = dict(
        database.rows(
            f"SELECT name, create_table_query FROM system.tables WHERE database = '{DATABASE}'"
        )
    )
    return {table: ExistingTable(found[table], definitions.get(table, "")) for table in found}


def plan(
    existing: Mapping[str, ExistingTable], records: Sequence[Record], retention_days: int
) -> list[str]:
    """The statements that turn the *existing* tables into those of *records*.

    Raises:
        MigrationError: a column has another type.
    """
    statements = []
    for record in records:
        if record.table in existing:
            statements += _alterations(existing[record.table], record, retention_days)
        else:
            statements += _creation(record, retention_days)
    return statements


def _creation(record: Record, retention_days: int) -> list[str]:
    created = create_table(record)
    declared = ExistingTable({}, created)
    return [created, *_retention(declared, record.table, retention_days)]


def _alterations(table: ExistingTable, record: Record, retention_days: int) -> list[str]:
    statements = []
    for field in columns(record):
        if field.name in table.columns:
            statements += _column_changes(table.columns[field.name], record.table, field)
        else:
            statements.append(
                f"{_alter(record.table)} ADD COLUMN IF NOT EXISTS {column_definition(field)}"
            )
    statements += _retention(table, record.table, retention_days)
    return statements + _window(table, record.table)


def _column_changes(existing: ExistingColumn, table: str, field: Field) -> list[str]:
    statements = []
    if not _holds(existing.type, field.kind.clickhouse):
        if not _holds(field.kind.clickhouse, existing.type):
            raise MigrationError(
                f"column {DATABASE}.{table}.{field.name} has type {existing.type}, but this"
                f" version needs {field.kind.clickhouse}; move the old table away with"
                f" RENAME TABLE {DATABASE}.{table} TO {DATABASE}.{table}_old"
            )
        statements.append(f"{_alter(table)} MODIFY COLUMN `{field.name}` {field.kind.clickhouse}")
    if existing.comment != field.doc:
        comment = field.doc.replace("\\", "\\\\").replace("'", "\\'")
        statements.append(f"{_alter(table)} COMMENT COLUMN `{field.name}` '{comment}'")
    return statements


def _holds(wide: str, narrow: str) -> bool:
    """Whether a column of type *wide* takes every value of type *narrow*."""
    if wide == narrow:
        return True
    if not (wide.startswith("Enum8(") and narrow.startswith("Enum8(")):
        return False
    return _enum_names(narrow) <= _enum_names(wide)


def _enum_names(enum: str) -> set[tuple[str, str]]:
    return set(re.findall(r"'([^']*)' = (-?\d+)", enum))


def _retention(table: ExistingTable, name: str, retention_days: int) -> list[str]:
    # ClickHouse prints INTERVAL 30 DAY as toIntervalDay(30); a TTL of another shape was put
    # there by hand, and stays.
    match = re.search(
        r"TTL (toDateTime\(time\)|stored_at) \+ (?:INTERVAL (\d+) DAY|toIntervalDay\((\d+)\))",
        table.definition,
    )
    if not match:
        return []
    is_older = match[1] != "stored_at"
    if not is_older and int(match[2] or match[3]) == retention_days:
        return []
    added = [f"{_alter(name)} ADD COLUMN IF NOT EXISTS {STORED_AT}"] if is_older else []
    return [*added, f"{_alter(name)} MODIFY TTL stored_at + INTERVAL {retention_days} DAY"]


def _window(table: ExistingTable, name: str) -> list[str]:
    found = dict(re.findall(r"\b(\w+_deduplication_window\w*) = (\d+)", table.definition))
    narrow = {one: wide for one, wide in DEDUPLICATION.items() if int(found.get(one, 0)) < wide}
    return [f"{_alter(name)} MODIFY SETTING {settings(narrow)}"] if narrow else []


def _alter(table: str) -> str:
    return f"ALTER TABLE {DATABASE}.{table}"
