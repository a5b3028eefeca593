# SPDX-License-Identifier: Apache-2.0
"""Insert blocks into ClickHouse: embedded (`chdb://`) or a server (`http://`, `https://`).

An insert ends in one of three ways.  It succeeds; or ClickHouse refuses the rows for what they
hold (`BlockRefused`), and repeating it would be in vain; or something else is wrong with the
database.  What can pass by itself is retried here, for ever, with growing pauses: each repeat
carries the same token, so rows that did arrive are not stored twice.  The rest ends the process.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import clickhouse_connect
from clickhouse_connect.driver.exceptions import ClickHouseError, ProgrammingError

from consumer.batch import insert_token
from consumer.block import native_block
from consumer.record import Accepted
from consumer.server import Server, first_line
from schemas.clickhouse import DATABASE, columns
from schemas.layout import Record

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 10.0
SERVER_TIMEOUT_S = 120

# ClickHouse's error codes for rows that it cannot store, whoever sends them and however often.
# https://github.com/ClickHouse/ClickHouse/blob/master/src/Common/ErrorCodes.cpp
DATA_ERRORS = {
    6,  # CANNOT_PARSE_TEXT
    27,  # CANNOT_PARSE_INPUT_ASSERTION_FAILED
    32,  # ATTEMPT_TO_READ_AFTER_EOF
    33,  # CANNOT_READ_ALL_DATA
    36,  # BAD_ARGUMENTS
    38,  # CANNOT_PARSE_DATE
    41,  # CANNOT_PARSE_DATETIME
    53,  # TYPE_MISMATCH
    69,  # ARGUMENT_OUT_OF_BOUND
    70,  # CANNOT_CONVERT_TYPE
    72,  # CANNOT_PARSE_NUMBER
    117,  # INCORRECT_DATA
    131,  # TOO_LARGE_STRING_SIZE
    321,  # VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE
    407,  # DECIMAL_OVERFLOW
    469,  # VIOLATED_CONSTRAINT
    691,  # UNKNOWN_ELEMENT_OF_ENUM
}
# Those that pass by themselves once the server has caught up, restarted or found its peers.
TRANSIENT_ERRORS = {
    3,  # UNEXPECTED_END_OF_FILE
    159,  # TIMEOUT_EXCEEDED
    164,  # READONLY
    202,  # TOO_MANY_SIMULTANEOUS_QUERIES
    203,  # NO_FREE_CONNECTION
    209,  # SOCKET_TIMEOUT
    210,  # NETWORK_ERROR
    225,  # NO_ZOOKEEPER
    236,  # ABORTED
    241,  # MEMORY_LIMIT_EXCEEDED
    242,  # TABLE_IS_READ_ONLY
    243,  # NOT_ENOUGH_SPACE
    252,  # TOO_MANY_PARTS
    285,  # TOO_FEW_LIVE_REPLICAS
    319,  # UNKNOWN_STATUS_OF_INSERT
    394,  # QUERY_WAS_CANCELLED
    999,  # KEEPER_EXCEPTION
}
# TOO_MANY_PARTS has two meanings.  With these words it is about the rows: they span more days
# than ClickHouse accepts in one insert, as the times of a broken clock do.
TOO_MANY_DAYS = "partitions for single INSERT block"

SETTINGS = {
    # ClickHouse drops a column that the table lacks without a word; refuse it instead.
    "input_format_skip_unknown_fields": 0,
    # Blocks this large gain nothing from the server's own batching, and lose the error.
    "async_insert": 0,
}

NO_SERVER = Server()

log = logging.getLogger(__name__)


class BlockRefused(Exception):  # noqa: N818  # it says what ClickHouse did
    """ClickHouse cannot store these rows, and never will; the text is its reason."""


class SinkError(Exception):
    """ClickHouse is not what we expect, and a human is needed; the text is one line."""


class SinkUnavailable(Exception):  # noqa: N818  # likewise
    """ClickHouse cannot be reached or opened; the text is one line for a human."""


class Sink:
    """Clients of one ClickHouse, one for each table, so that their inserts run side by side.

    *on_retry* is called with the table's name for each insert that has to be repeated.
    """

    def __init__(
        self, dsn: str, *, server: Server = NO_SERVER, on_retry: Callable[[str], None]
    ) -> None:
        self._dsn = dsn
        self._server = server
        self._on_retry = on_retry
        self._clients: dict[str, Any] = {}
        self._threads = ThreadPoolExecutor(thread_name_prefix="insert")

    def connect(self, tables: Sequence[str]) -> None:
        """Open one client for each of *tables*; blocks.

        Raises:
            SinkUnavailable: ClickHouse does not answer, or refuses us.
        """
        self._close_clients()
        for table in tables:
            self._clients[table] = self._client()

    def _client(self) -> Any:
        try:
            return clickhouse_connect.get_client(dsn=self._dsn, **self._arguments())
        except ClickHouseError as error:
            raise SinkUnavailable(self._server.refusal(error)) from None

    def _arguments(self) -> dict[str, Any]:
        scheme = urlsplit(self._dsn).scheme
        if scheme == "chdb":
            return {}
        return {
            **self._server.arguments(),
            # Else the client guesses it from the port, and sends passwords in the clear to others.
            "interface": scheme,
            # Queries of one session must not overlap, and we need nothing that a session keeps.
            "autogenerate_session_id": False,
            "send_receive_timeout": SERVER_TIMEOUT_S,
        }

    async def insert(self, record: Record, accepted: Sequence[Accepted]) -> None:
        """Store the rows of *accepted*, all of the kind *record*.

        Raises:
            BlockRefused: ClickHouse will never take these rows.
            SinkError: the database is not what we expect.
        """
        pause_s = FIRST_PAUSE_S
        token = insert_token(accepted)
        loop = asyncio.get_running_loop()
        while True:
            try:
                await loop.run_in_executor(self._threads, self._insert, record, accepted, token)
            except ClickHouseError as error:
                if _is_about_the_rows(error):
                    raise BlockRefused(first_line(error)) from None
                if not _is_transient(error):
                    raise SinkError(f"insert into {record.table}: {first_line(error)}") from None
                reason = first_line(error)
            else:
                return
            self._on_retry(record.table)
            log.warning("insert retried", extra={"table": record.table, "reason": reason})
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _insert(self, record: Record, accepted: Sequence[Accepted], token: str) -> None:
        self._clients[record.table].raw_insert(
            f"{DATABASE}.{record.table}",
            column_names=[field.name for field in columns(record)],
            insert_block=native_block(record, [one.rows for one in accepted]),
            fmt="Native",
            settings={**SETTINGS, "insert_deduplication_token": token},
        )

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
        self._threads.shutdown()
        self._close_clients()

    def _close_clients(self) -> None:
        while self._clients:
            self._clients.popitem()[1].close()


def _is_about_the_rows(error: ClickHouseError) -> bool:
    return getattr(error, "code", None) in DATA_ERRORS or TOO_MANY_DAYS in str(error)


def _is_transient(error: ClickHouseError) -> bool:
    code = getattr(error, "code", None)
    # Without a code it never reached ClickHouse, unless the client was used wrongly.
    return code in TRANSIENT_ERRORS or (code is None and not isinstance(error, ProgrammingError))
