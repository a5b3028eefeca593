# SPDX-License-Identifier: Apache-2.0
"""Ask ClickHouse, embedded (`chdb://`) or a server, with bounds, and never write.

A question is refused for what it says (`QuestionRefused`), or cannot be asked at the moment
(`SinkUnavailable`), which passes by itself.
"""

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any
from urllib.parse import urlsplit

import clickhouse_connect
from clickhouse_connect.driver.exceptions import ClickHouseError, ProgrammingError

from consumer.clickhouse_errors import TRANSIENT_ERRORS
from consumer.server import Server, first_line
from consumer.sink import SinkUnavailable
from schemas.clickhouse import DATABASE

MAX_SECONDS = 10
MAX_MEMORY_BYTES = 1 << 30
# The server ends a question before we stop waiting for it.
ANSWER_TIMEOUT_S = 3 * MAX_SECONDS
SETTINGS = {
    # 2: it may change settings, of which those below are some, but write nothing.
    "readonly": 2,
    "max_execution_time": MAX_SECONDS,
    "max_memory_usage": MAX_MEMORY_BYTES,
}
# These blame the question, though they may pass.
_OF_THE_QUESTION = {
    159,  # TIMEOUT_EXCEEDED
    160,  # TOO_SLOW
    164,  # READONLY
    241,  # MEMORY_LIMIT_EXCEEDED
}
# And these pass once a consumer has made its tables.
_NO_TABLES_YET = {
    60,  # UNKNOWN_TABLE
    81,  # UNKNOWN_DATABASE
}
_BEFORE = re.compile(r".*?DB::Exception: ")
# The whole statement again, and what could have stood there.
_BEHIND = re.compile(r"[:.]? In scope SELECT .*|\. Expected one of: .*| \((?:for url|version) .*")


class QuestionRefused(Exception):  # noqa: N818  # it says what ClickHouse did
    """ClickHouse does not answer this question; the text is its reason, in one line."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The rows of a result, and the names of its columns."""

    names: Sequence[str]
    rows: Sequence[Sequence[Any]]


class Reader:
    """A few clients of one ClickHouse, so that as many questions are asked at the same time."""

    def __init__(self, dsn: str, server: Server, *, at_once: int) -> None:
        self._dsn = dsn
        self._server = server
        self._at_once = at_once
        self._clients: SimpleQueue[Any] = SimpleQueue()

    def connect(self) -> None:
        """Open the clients; blocks.

        Raises:
            SinkUnavailable: ClickHouse does not answer, or refuses us.
        """
        self.close()
        for _ in range(self._at_once):
            try:
                client = clickhouse_connect.get_client(dsn=self._dsn, **self._arguments())
            except ClickHouseError as error:
                raise SinkUnavailable(self._server.refusal(error)) from None
            self._clients.put(client)

    def _arguments(self) -> dict[str, Any]:
        scheme = urlsplit(self._dsn).scheme
        own = {"database": DATABASE, "settings": SETTINGS}
        if scheme == "chdb":
            return own
        return {
            **own,
            **self._server.arguments(),
            "interface": scheme,
            "autogenerate_session_id": False,
            "send_receive_timeout": ANSWER_TIMEOUT_S,
        }

    def ask(self, sql: str) -> Answer:
        """The answer to one question; blocks, first until a client is free.

        Raises:
            QuestionRefused: ClickHouse refuses it for what it says, or for what it would take.
            SinkUnavailable: it cannot be asked at the moment.
        """
        client = self._clients.get()
        try:
            result = client.query(sql)
        except ClickHouseError as error:
            raise _told(error) from None
        finally:
            self._clients.put(client)
        return Answer(result.column_names, result.result_rows)

    def close(self) -> None:
        """Close the clients that are free."""
        while not self._clients.empty():
            with contextlib.suppress(ClickHouseError):
                self._clients.get().close()


def _told(error: ClickHouseError) -> Exception:
    """Our word for the client's error."""
    code = getattr(error, "code", None)
    reason = _reason(error)
    passes = (TRANSIENT_ERRORS | _NO_TABLES_YET) - _OF_THE_QUESTION
    if code in passes or (code is None and not isinstance(error, ProgrammingError)):
        return SinkUnavailable(reason)
    return QuestionRefused(reason)


def _reason(error: ClickHouseError) -> str:
    return _BEHIND.sub("", _BEFORE.sub("", first_line(error), count=1))
