# SPDX-License-Identifier: Apache-2.0
"""Insert blocks into ClickHouse: embedded (`chdb://`) or a server (`http://`, `https://`).

An insert ends in one of four ways.  It succeeds; or ClickHouse refuses the rows for what they
hold (`BlockRefused`), and repeating it would be in vain; or something is wrong that can pass by
itself (`SinkUnavailable`), and whether the rows are stored is not known; or a human is needed
(`SinkError`).  Every insert carries a token, by which ClickHouse drops one that is repeated.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from math import inf
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import clickhouse_connect
from clickhouse_connect.driver.exceptions import ClickHouseError

from consumer.block import native_block
from consumer.clickhouse_errors import is_about_rows, passes
from consumer.plan import insert_token
from consumer.presence import Found, answer, missing, question
from consumer.record import Accepted
from consumer.server import Server, first_line
from consumer.sums import Adder
from consumer.unfinished import forget_unfinished
from schemas.clickhouse import DATABASE, columns
from schemas.flow import FLOW
from schemas.layout import Record
from schemas.rollup_sql import SUMMED
from schemas.wire import Batch

SERVER_TIMEOUT_S = 120
# So many names of the longest kind make a query of a few megabytes.
BATCHES_PER_QUERY = 10_000
# Fewer cost an insert no less.
SMALL_ROWS = 10_000
MAX_QUERY_BYTES = 16 << 20

SETTINGS = {
    # ClickHouse drops a column that the table lacks without a word; refuse it instead.
    "input_format_skip_unknown_fields": 0,
    # Blocks this large gain nothing from the server's own batching, and lose the error.
    "async_insert": 0,
    # A view that failed after the table had its rows gets them by the repeated insert.
    "deduplicate_blocks_in_dependent_materialized_views": 1,
    # Somebody's profile may say otherwise, and tokens would mean nothing.
    "insert_deduplicate": 1,
}
# Likewise, from the versions on that have them.
NEWER_SETTINGS = {
    "deduplicate_insert": "enable",
    # Where the disk fills up while a part is written, the part may be broken though the insert
    # succeeded (seen with 26.9 on a full tmpfs), so stop before that.
    "min_free_disk_bytes_to_perform_insert": 64 << 20,
}

# A replicated table has rows and token of an insert in one step.  Such a one may have the token alone.
PLAIN_ENGINE = "MergeTree"
# What is summed up already has nothing more to be joined.
OF_SUMS = {"optimize_on_insert": 0}

NO_SERVER = Server()
_SUMS = "sums"

T = TypeVar("T")


class BlockRefused(Exception):  # noqa: N818  # it says what ClickHouse did
    """ClickHouse cannot store these rows, and never will; the text is its reason."""


class SinkError(Exception):
    """ClickHouse is not what we expect, and a human is needed; the text is one line."""


class SinkUnavailable(Exception):  # noqa: N818  # likewise
    """ClickHouse cannot be reached or opened, or not at the moment; the text is one line."""


class Sink:
    """Clients of one ClickHouse, one for each table, so that their inserts run side by side.

    Of each table there is one insert or query at a time, also where nobody waits for it any more.
    """

    def __init__(self, dsn: str, *, server: Server = NO_SERVER) -> None:
        self._dsn = dsn
        self._server = server
        self._clients: dict[str, Any] = {}
        self._threads: dict[str, ThreadPoolExecutor] = {}
        self._adder = Adder({})
        self._is_embedded = urlsplit(dsn).scheme == "chdb"
        self._small = threading.Lock()

    def add_to(self, since_s: Mapping[str, int]) -> None:
        """Sum up for the rollups of these tables, from these moments on, where that is asked for."""
        self._adder = Adder(since_s)

    def connect(self, tables: Sequence[str]) -> None:
        """Open one client for each of *tables*; blocks.

        Raises:
            SinkUnavailable: ClickHouse does not answer, or refuses us.
        """
        self.close()
        if self._is_embedded:
            self._forget_unfinished()
        # Closed last, since inserts use it.
        self._threads[_SUMS] = ThreadPoolExecutor(1, _SUMS)
        for table in tables:
            self._clients[table] = self._client()
            self._threads[table] = ThreadPoolExecutor(1, f"insert-{table}")

    def _forget_unfinished(self) -> None:
        try:
            forget_unfinished(Path(urlsplit(self._dsn).path))
        except OSError as error:
            raise SinkUnavailable(str(error)) from None

    def _client(self) -> Any:
        try:
            return clickhouse_connect.get_client(dsn=self._dsn, **self._arguments())
        except ClickHouseError as error:
            raise SinkUnavailable(self._server.refusal(error)) from None

    def _arguments(self) -> dict[str, Any]:
        if self._is_embedded:
            return {}
        return {
            **self._server.arguments(),
            # Else the client guesses it from the port, and sends passwords in the clear to others.
            "interface": urlsplit(self._dsn).scheme,
            # Queries of one session must not overlap, and we need nothing that a session keeps.
            "autogenerate_session_id": False,
            "send_receive_timeout": SERVER_TIMEOUT_S,
        }

    async def insert(
        self,
        record: Record,
        accepted: Sequence[Accepted],
        *,
        until_s: float = inf,
        is_summed: bool = False,
    ) -> None:
        """Store the rows of *accepted*, all of the kind *record*; an insert begins before *until_s*.

        That moment is one of `now_s()`.  *is_summed* where we add them to the rollups as well, by
        inserts of their own with the same token, and no view does.

        Raises:
            BlockRefused: ClickHouse will never take these rows.
            SinkUnavailable: they may be stored or not; repeat the insert.
            SinkError: the database is not what we expect.
        """
        table = record.table
        adder = self._adder if is_summed else None
        try:
            await self._run(table, self._insert, record, accepted, until_s, adder)
        except ClickHouseError as error:
            raise _told(error, f"insert into {table}") from None

    async def complete(
        self, record: Record, accepted: Sequence[Accepted], *, until_s: float = inf
    ) -> int:
        """Store those rows of a repeated insert that ClickHouse has the token of, and lost; how many.

        All else is as with `insert`, which has reached the views, and so this does not.
        """
        table = record.table
        try:
            engine = await self._run(table, self._engine, table)
        except ClickHouseError as error:
            raise _told(error, f"query of {table}", about_rows=False) from None
        if engine != PLAIN_ENGINE:
            return 0
        batches = [one.rows for one in accepted]
        if not (lost := missing(batches, await self.find(record, batches))):
            return 0
        token = f"again {insert_token(accepted)}"
        try:
            await self._run(table, self._insert_rows, record, lost, token, until_s)
        except ClickHouseError as error:
            raise _told(error, f"insert into {table}") from None
        return sum(batch.rows for batch in lost)

    async def find(self, record: Record, batches: Sequence[Batch]) -> Found:
        """How many rows there are of each of *batches*, all of the kind *record*, by day.

        Raises:
            SinkUnavailable: ClickHouse does not answer; ask again.
            SinkError: the database is not what we expect.
        """
        found: dict[Any, Any] = {}
        for at in range(0, len(batches), BATCHES_PER_QUERY):
            some = batches[at : at + BATCHES_PER_QUERY]
            try:
                rows = await self._run(record.table, self._query, record, some)
            except ClickHouseError as error:
                raise _told(error, f"query of {record.table}", about_rows=False) from None
            found |= answer(rows)
        return found

    async def is_empty(self, record: Record) -> bool:
        """Whether there are no rows of the kind *record* at all.

        Raises:
            SinkUnavailable: ClickHouse does not answer; ask again.
            SinkError: the database is not what we expect.
        """
        try:
            return not await self._run(record.table, self._first_row, record)
        except ClickHouseError as error:
            raise _told(error, f"query of {record.table}", about_rows=False) from None

    async def _run(self, table: str, function: Callable[..., T], *arguments: Any) -> T:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._threads[table], function, *arguments)
        except OSError as error:
            # The embedded engine is given its blocks as files.
            raise SinkUnavailable(str(error)) from None

    def _insert(
        self,
        record: Record,
        accepted: Sequence[Accepted],
        until_s: float,
        adder: Adder | None,
    ) -> None:
        batches = [one.rows for one in accepted]
        # Made while ClickHouse is busy with the rows.
        sums = self._threads[_SUMS].submit(adder.sums, batches) if adder else None
        token = insert_token(accepted)
        self._insert_rows(record, batches, token, until_s, is_summed=bool(adder))
        # Only now, for ClickHouse may have refused the rows; and also where it was slow to take them.
        insert = partial(
            _insert_block,
            self._clients[record.table],
            token=token,
            until_s=until_s + SERVER_TIMEOUT_S,
        )
        for rollup, names, block in sums.result() if sums else ():
            insert(rollup.table, names, block, settings=OF_SUMS)

    def _insert_rows(
        self,
        record: Record,
        batches: Sequence[Batch],
        token: str,
        until_s: float,
        *,
        is_summed: bool = True,
    ) -> None:
        block = native_block(record, batches)
        with self._turn(record, batches):
            _insert_block(
                *(self._clients[record.table], record.table),
                [field.name for field in columns(record)],
                block,
                token=token,
                until_s=until_s,
                settings=SUMMED if is_summed else {},
            )

    def _turn(self, record: Record, batches: Sequence[Batch]) -> AbstractContextManager[object]:
        """Begin when the embedded engine has no other small insert than those of flows.

        All tables that wait as long would be inserted at once, each for as much CPU as if it had
        thousands of rows, and the flows that somebody looks for would wait for a CPU.
        """
        is_small = sum(batch.rows for batch in batches) < SMALL_ROWS
        is_one_of_many = self._is_embedded and is_small and record is not FLOW
        return self._small if is_one_of_many else nullcontext()

    def _engine(self, table: str) -> str:
        query = (
            f"SELECT engine FROM system.tables WHERE database = '{DATABASE}' AND name = '{table}'"
        )
        [(engine,)] = self._clients[table].query(query).result_rows
        return str(engine)

    def _first_row(self, record: Record) -> Sequence[Any]:
        query = f"SELECT 1 FROM {DATABASE}.{record.table} LIMIT 1"
        rows: Sequence[Any] = self._clients[record.table].query(query).result_rows
        return rows

    def _query(self, record: Record, batches: Sequence[Batch]) -> Iterable[Sequence[Any]]:
        result = self._clients[record.table].query(
            question(record, batches), settings={"max_query_size": MAX_QUERY_BYTES}
        )
        rows: Iterable[Sequence[Any]] = result.result_rows
        return rows

    def execute(self, statement: str) -> None:
        """Run one statement that returns nothing; blocks.

        Raises:
            SinkError: ClickHouse refuses it.
        """
        try:
            self._any_client().command(statement)
        except ClickHouseError as error:
            raise SinkError(first_line(error)) from None

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """The rows of a small result; blocks.

        Raises:
            SinkError: ClickHouse refuses the query.
        """
        try:
            return list(self._any_client().query(query).result_rows)
        except ClickHouseError as error:
            raise SinkError(first_line(error)) from None

    def _any_client(self) -> Any:
        return next(iter(self._clients.values()))

    def close(self) -> None:
        """Wait for running inserts and close every client; blocks."""
        while self._threads:
            self._threads.popitem()[1].shutdown()
        while self._clients:
            self._clients.popitem()[1].close()


def _insert_block(
    client: Any,
    table: str,
    names: list[str],
    block: bytes,
    *,
    token: str,
    settings: Mapping[str, object],
    until_s: float,
) -> None:
    known = {name: at for name, at in NEWER_SETTINGS.items() if name in client.server_settings}
    if now_s() > until_s:
        raise SinkUnavailable("the insert comes too late after its plan")
    client.raw_insert(
        f"{DATABASE}.{table}",
        column_names=names,
        insert_block=block,
        fmt="Native",
        settings={**SETTINGS, **known, **settings, "insert_deduplication_token": token},
    )


def now_s() -> float:
    """Seconds of a clock that also runs while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _told(error: ClickHouseError, what: str, *, about_rows: bool = True) -> Exception:
    """Our word for the client's error, which came of *what*."""
    reason = first_line(error)
    if about_rows and is_about_rows(error):
        return BlockRefused(reason)
    if passes(error):
        return SinkUnavailable(reason)
    return SinkError(f"{what}: {reason}")
