# SPDX-License-Identifier: Apache-2.0
"""A database with a history in it, which is made once and used again: rows first, then rollups.

A day is made by one of two threads, as one part where it has no more than four million rows, and
noted, so whoever is interrupted goes on with the next day.  Rollups are added up from the rows by
the statements that people add up older rows with.  A table whose definition is no longer that of
its rows is made anew, and those that come of it.
"""

import json
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

import clickhouse_connect

from bench import history
from schemas.clickhouse import DATABASE, create_database, create_table
from schemas.layout import Record
from schemas.rollup import ROLLUPS, Rollup
from schemas.rollup_sql import WHOLE, backfill, create_rollup

THREADS = 2
DAY_S = 86_400
RECORDS = tuple(history.SHARE)
_STATE = "history.json"
# What is said of a column changes nothing in it.
_COMMENT = re.compile(r"COMMENT '(?:[^'\\]|\\.)*'")
_FAR_AHEAD = "toDateTime(4294967295, 'UTC')"
_IN_ONE_THREAD = (
    "max_threads = 1, max_insert_threads = 1, insert_deduplicate = 0,"
    f" min_insert_block_size_rows = {history.BLOCK_ROWS}, min_insert_block_size_bytes = 0"
)


class Month:
    """The database in *directory*, of *rows* flows."""

    def __init__(self, directory: Path, rows: int) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._dsn = f"chdb://{directory.absolute()}/db"
        self._path = directory / _STATE
        self._rows = rows
        self._lock = threading.Lock()
        self.made: dict[str, float] = {}  # seconds that each table took
        self._state = json.loads(self._path.read_text()) if self._path.exists() else {}
        if self._state.get("rows") != rows:
            today_s = int(time.time()) // DAY_S * DAY_S
            start_s = today_s - (history.days_of(rows) - 1) * DAY_S
            self._state = {"rows": rows, "start_s": start_s, "tables": {}}

    def open(self, *, rollups: bool = True) -> Any:
        """A client of the database, once every table is as it is declared now."""
        client = clickhouse_connect.get_client(dsn=self._dsn)
        client.command(create_database())
        self._forget_others(client)
        for record in RECORDS:
            self._make_record(client, record)
        for rollup in ROLLUPS if rollups else ():
            self._make_rollup(client, rollup)
        return client

    def _forget_others(self, client: Any) -> None:
        declared = {one.table for one in (*RECORDS, *ROLLUPS)}
        there = client.query(f"SELECT name FROM system.tables WHERE database = '{DATABASE}'")
        for (name,) in there.result_rows:
            if name not in declared or name not in self._state["tables"]:
                client.command(f"DROP TABLE {DATABASE}.{name} SYNC")

    def _make_record(self, client: Any, record: Record) -> None:
        def of_day(day: int) -> str:
            return history.insert(
                record, self._rows, day=day, start_ns=self._state["start_s"] * 10**9
            )

        self._make(client, record.table, create_table(record), of_day, of_day(0))

    def _make_rollup(self, client: Any, rollup: Rollup) -> None:
        source = f"{DATABASE}.{rollup.source}"
        times = {one.table: one.time.field.name for one in ROLLUPS}

        def of_day(day: int) -> str:
            is_of_day = f"toDate({times.get(rollup.source, 'time')}) = '{self._date(day)}'"
            of_source = f"(SELECT * FROM {source} WHERE {is_of_day})"
            added = backfill(rollup).replace(f"FROM {source}", f"FROM {of_source}")
            return f"{added.replace(WHOLE, _FAR_AHEAD)}\nSETTINGS {_IN_ONE_THREAD}"

        about = backfill(rollup) + self._state["tables"][rollup.source]["definition"]
        self._make(client, rollup.table, create_rollup(rollup), of_day, about)

    def _make(
        self, client: Any, table: str, created: str, of_day: Callable[[int], str], about: str
    ) -> None:
        """Make the days of *table* that are not there."""
        definition = sha256((_COMMENT.sub("", created) + about).encode()).hexdigest()[:16]
        known = self._state["tables"].get(table, {})
        if known.get("definition") != definition:
            client.command(f"DROP TABLE IF EXISTS {DATABASE}.{table} SYNC")
            known = self._state["tables"][table] = {"definition": definition, "days": []}
            self._save()
        client.command(created)
        days = [one for one in range(history.days_of(self._rows)) if one not in known["days"]]
        # To drop a partition stops all merges of the table, so those of whoever was interrupted go
        # before others are made.
        for day in days:
            client.command(f"ALTER TABLE {DATABASE}.{table} DROP PARTITION '{self._date(day)}'")

        def make_day(day: int) -> None:
            mine = clickhouse_connect.get_client(dsn=self._dsn)
            mine.command(of_day(day))
            mine.close()
            with self._lock:
                known["days"].append(day)
                self._save()

        began = time.monotonic()
        with ThreadPoolExecutor(THREADS) as threads:
            list(threads.map(make_day, days))
        if days:
            self.made[table] = time.monotonic() - began

    def _date(self, day: int) -> str:
        return time.strftime("%Y-%m-%d", time.gmtime(self._state["start_s"] + day * DAY_S))

    def _save(self) -> None:
        new = self._path.with_suffix(".new")
        new.write_text(json.dumps(self._state))
        new.replace(self._path)
