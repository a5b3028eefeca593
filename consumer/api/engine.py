# SPDX-License-Identifier: Apache-2.0
"""The embedded engine, as a client of the HTTP interface may use it.

Settings and the current database belong to a handle, and a handle costs half a millisecond.  So
every request gets handles of its own, which are closed when it ends: nothing that one request sets
can reach another, and requests run side by side.  All handles share the one engine of the process
with those that insert.  This is the only module that imports chdb.
"""

import json
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import chdb

from consumer.api.access import Permit, permit
from consumer.api.fault import (
    TOO_MANY_SIMULTANEOUS_QUERIES,
    UNKNOWN_FORMAT,
    Fault,
    fault_from_engine,
)
from consumer.api.results import Result, can_stream, execute, streamed, whole
from consumer.api.settings import BOUNDS, MIB, chosen_settings
from consumer.api.vocabulary import Vocabulary, vocabulary_from
from schemas.clickhouse import DATABASE

MAX_LARGE_RESULTS = 2
_PARSER_SETTINGS = {
    "max_execution_time": "5",
    "max_memory_usage": str(256 * MIB),
    "max_query_size": str(MIB),
    "readonly": "1",
}
# The mark of our queries in system.processes, by which they are stopped.
_MARK = "hookline-api-"
_PARAMETER_ESCAPES = {"\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r", "\b": "\\b", "\f": "\\f"}


@dataclass(frozen=True, slots=True)
class Question:
    """What a request asks of the engine."""

    text: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    default_format: str = "TabSeparated"
    wants_whole: bool = False


class Engine:
    """The engine at one directory, opened by this process."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._keeper: Any = None
        self.version = ""
        self.timezone = ""
        self._vocabulary: Vocabulary | None = None
        self._large_results = threading.BoundedSemaphore(MAX_LARGE_RESULTS)

    def open(self) -> None:
        """Open the engine; raises `Fault` when it does not."""
        # While one handle is open the engine stays; without it, each request would start it.
        self._keeper = _opened(self._path)
        lists = _Lists(self._keeper)
        self.version, self.timezone = lists.column("SELECT [version(), timezone()] AS c")[0]
        self._vocabulary = lists.vocabulary()

    def close(self) -> None:
        """Leave the engine to the other handles of this process."""
        self._keeper.close()

    @contextmanager
    def ask(self, question: Question, *, token: str) -> Iterator[Result]:
        """Run the question; blocks, and so does reading the result.

        *token* names the run to `stop`.

        Raises:
            Fault: it is not allowed, or the engine refuses it; also while the result is read.
        """
        assert self._vocabulary is not None  # noqa: S101  # the engine is open
        with self._handle(_PARSER_SETTINGS) as handle:
            allowed = permit(
                question.text,
                question.parameters,
                parser=_EngineParser(handle),
                vocabulary=self._vocabulary,
            )
        requested = {**question.settings, **allowed.statement.settings}
        settings = chosen_settings(requested, self._vocabulary.settings)
        form = _output_format(allowed, question.default_format, self._vocabulary)
        is_streamed = not question.wants_whole and can_stream(allowed, form, settings)
        if is_streamed:
            settings["max_result_bytes"] = requested.get("max_result_bytes", "0")
        settings["log_comment"] = _MARK + token
        # With read-only 1, system.settings says that a client may send no setting at all.
        settings["readonly"] = "2" if allowed.asks_settings else "1"
        run = streamed if is_streamed else whole
        with self._room_for(settings, is_streamed=is_streamed), self._handle(settings) as handle:
            result = run(handle, allowed.statement.sql, form, dict(question.parameters))
            try:
                yield result
            finally:
                result.close()

    @contextmanager
    def _room_for(self, settings: Mapping[str, str], *, is_streamed: bool) -> Iterator[None]:
        """Hold a place for a large result in one piece: there is memory for few of them."""
        if is_streamed or float(settings["max_result_bytes"]) <= BOUNDS["max_result_bytes"][0]:
            yield
            return
        if not self._large_results.acquire(blocking=False):
            raise Fault(
                TOO_MANY_SIMULTANEOUS_QUERIES,
                f"{MAX_LARGE_RESULTS} large results are on their way: use a format that streams,"
                " such as JSONEachRow, or a smaller max_result_bytes",
            )
        try:
            yield
        finally:
            self._large_results.release()

    @contextmanager
    def _handle(self, settings: Mapping[str, str]) -> Iterator[Any]:
        handle = _opened(self._path)
        try:
            execute(handle, f"USE {DATABASE}", "Null")
            # Read-only comes last: nothing can be set after it.
            ordered = sorted(settings.items(), key=lambda item: item[0] == "readonly")
            execute(handle, "SET " + ", ".join(f"{_name(n)} = {_quoted(v)}" for n, v in ordered))
            yield handle
        finally:
            handle.close()

    def stop(self, token: str) -> None:
        """Stop the run of that name; one that has ended is left alone."""
        self._kill(f"= {_quoted(_MARK + token)}")

    def stop_all(self) -> None:
        """Stop everything that `ask` runs."""
        self._kill(f"LIKE {_quoted(_MARK + '%')}")

    def _kill(self, condition: str) -> None:
        handle = _opened(self._path)
        try:
            execute(handle, f"KILL QUERY WHERE Settings['log_comment'] {condition} ASYNC")
        finally:
            handle.close()


def new_token() -> str:
    """A name for a run."""
    return uuid.uuid4().hex


def _opened(path: str) -> Any:
    connect: Callable[[str], Any] = chdb.connect
    try:
        return connect(path)
    except RuntimeError as error:
        raise fault_from_engine(str(error)) from None


class _EngineParser:
    """Read statements with the engine's own parser, through one handle."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def formatted(self, text: str) -> str:
        escaped = "".join(_PARAMETER_ESCAPES.get(char, char) for char in text)
        sql = "SELECT formatQuerySingleLine({statement:String})"
        try:
            result = execute(self._handle, sql, "RawBLOB", {"statement": escaped})
        except Fault as fault:
            message = fault.message.partition(": In scope SELECT formatQuerySingleLine(")[0]
            raise Fault((fault.code, fault.name), message) from None
        return str(result.bytes().decode())

    def syntax_tree(self, sql: str, parameters: Mapping[str, str]) -> Sequence[str]:
        result = execute(self._handle, f"EXPLAIN AST {sql}", "JSONCompactEachRow", parameters)
        return [json.loads(line)[0] for line in result.bytes().splitlines()]


class _Lists:
    """The engine's own lists of what it knows."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def rows(self, sql: str) -> list[dict[str, Any]]:
        result = execute(self._handle, sql, "JSONEachRow")
        return [json.loads(line) for line in result.bytes().splitlines()]

    def column(self, sql: str) -> list[Any]:
        return [row["c"] for row in self.rows(sql)]

    def vocabulary(self) -> Vocabulary:
        return vocabulary_from(
            functions=self.rows(
                "SELECT name, alias_to, categories, is_aggregate, case_insensitive"
                " FROM system.functions"
            ),
            combinators=self.column("SELECT name AS c FROM system.aggregate_function_combinators"),
            formats=self.column("SELECT name AS c FROM system.formats WHERE is_output"),
            settings=self.column("SELECT name AS c FROM system.settings"),
        )


def _output_format(allowed: Permit, default: str, vocabulary: Vocabulary) -> str:
    asked = allowed.statement.format or default
    if asked.lower() not in vocabulary.formats:
        raise Fault(UNKNOWN_FORMAT, f"Unknown format {asked}, or one that is refused here")
    return vocabulary.formats[asked.lower()]


def _name(setting: str) -> str:
    return "`" + setting.replace("\\", "\\\\").replace("`", "\\`") + "`"


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
