# SPDX-License-Identifier: Apache-2.0
"""Bring ClickHouse's tables to what the schema declares.

We compare what is there with what should be and run only the difference, so a second run does
nothing.  Columns are appended, comments, codecs and retention follow the declaration, an enum may
gain names, and a deduplication window is opened further, never closed.  Another codec is that of
parts that are written from then on.  Anything else would rewrite or lose rows: that is refused, and
a human decides.  Rollups and their views are made as `rollups.py` says.
Columns and names that only a newer version knows are left alone.

Two consumers may do this at once: every statement is harmless when repeated, and after a
failure we look again whether the other one did the work.
"""

import logging
import re
import time
from collections.abc import Mapping, Sequence

from consumer.rollups import plan_rollups
from consumer.tables import Database, ExistingColumn, ExistingTable, alter, existing_tables, window
from schemas.clickhouse import (
    DATABASE,
    FORMER_CODECS,
    STORED_AT,
    column_definition,
    columns,
    create_database,
    create_table,
)
from schemas.layout import Field, Record
from schemas.rollup import Rollup
from schemas.rollup_sql import ROLLUP_DAYS

# Tables, the moments of rollups and their views take a look each.
ATTEMPTS = 8

log = logging.getLogger(__name__)


class MigrationError(Exception):
    """A table that cannot be brought up to date without a human; the text says which and why."""


def migrate(
    database: Database,
    records: Sequence[Record],
    *,
    retention_days: int,
    failures: type[Exception],
    rollups: Sequence[Rollup] = (),
    rollup_days: int = ROLLUP_DAYS,
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
        existing = existing_tables(database)
        statements = [
            *plan(existing, records, retention_days),
            *plan_rollups(existing, rollups, days=rollup_days, now_s=int(time.time())),
        ]
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
                f"{alter(record.table)} ADD COLUMN IF NOT EXISTS {column_definition(field)}"
            )
    statements += _retention(table, record.table, retention_days)
    return statements + window(table, record.table)


def _column_changes(existing: ExistingColumn, table: str, field: Field) -> list[str]:
    statements = []
    if not _holds(existing.type, field.kind.clickhouse):
        if not _holds(field.kind.clickhouse, existing.type):
            raise MigrationError(
                f"column {DATABASE}.{table}.{field.name} has type {existing.type}, but this"
                f" version needs {field.kind.clickhouse}; move the old table away with"
                f" RENAME TABLE {DATABASE}.{table} TO {DATABASE}.{table}_old"
            )
        statements.append(f"{alter(table)} MODIFY COLUMN `{field.name}` {field.kind.clickhouse}")
    elif existing.codec in FORMER_CODECS - {f"CODEC({field.codec})"}:
        statements.append(
            f"{alter(table)} MODIFY COLUMN `{field.name}` {field.kind.clickhouse}"
            f" CODEC({field.codec})"
        )
    if existing.comment != field.doc:
        comment = field.doc.replace("\\", "\\\\").replace("'", "\\'")
        statements.append(f"{alter(table)} COMMENT COLUMN `{field.name}` '{comment}'")
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
    added = [f"{alter(name)} ADD COLUMN IF NOT EXISTS {STORED_AT}"] if is_older else []
    return [*added, f"{alter(name)} MODIFY TTL stored_at + INTERVAL {retention_days} DAY"]
