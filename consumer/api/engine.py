# SPDX-License-Identifier: Apache-2.0
"""The embedded engine, as a client of the HTTP interface may use it.

Settings and the current database belong to a handle, and a handle costs half a millisecond.  So
every request gets handles of its own, which are closed when it ends: nothing that one request sets
can reach another, and requests run side by side.  All handles share the one engine of the process
with those that insert.  This is the only module that imports chdb.
"""

import json
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import chdb

from consumer.api.access import Permit, permit
from consumer.api.fault import UNKNOWN_FORMAT, Fault, fault_from_engine
from consumer.api.settings import MIB, chosen_settings
from consumer.api.vocabulary import Vocabulary, vocabulary_from
from schemas.clickhouse import DATABASE

# The engine sends such a result block by block, each a result of its own, which in these formats
# can be appended to each other.  Other results come in one piece and are bounded in size.
STREAMED_FORMATS = {
    "CSV",
    "JSONCompactEachRow",
    "JSONEachRow",
    "JSONL",
    "JSONLines",
    "NDJSON",
    "Native",
    "RowBinary",
    "TSV",
    "TabSeparated",
    "TabSeparatedRaw",
    "TSVRaw",
}
_PARSER_SETTINGS = {
    "max_execution_time": "5",
    "max_memory_usage": str(256 * MIB),
    "max_query_size": str(MIB),
    "readonly": "1",
}
# The mark of our queries in system.processes, by which they are stopped.
_MARK = "hookline-api-"
_PARAMETER_ESCAPES = {"\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r", "\b": "\\b", "\f": "\\f"}


@dataclass(slots=True)
class Result:
    """A result that is being read: its format, its chunks, and what was read for it so far.

    *has_more* tells whether another chunk can follow the first.
    """

    format: str
    chunks: Iterator[bytes]
    has_more: bool
    read_rows: int = 0
    read_bytes: int = 0


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
        is_streamed = not question.wants_whole and _can_stream(allowed, form, settings)
        if is_streamed:
            settings["max_result_bytes"] = requested.get("max_result_bytes", "0")
        settings["log_comment"] = _MARK + token
        # With read-only 1, system.settings says that a client may send no setting at all.
        settings["readonly"] = "2" if allowed.asks_settings else "1"
        with self._handle(settings) as handle:
            run = _streamed if is_streamed else _whole
            yield run(handle, allowed.statement.sql, form, dict(question.parameters))

    @contextmanager
    def _handle(self, settings: Mapping[str, str]) -> Iterator[Any]:
        handle = _opened(self._path)
        try:
            _execute(handle, f"USE {DATABASE}", "Null")
            # Read-only comes last: nothing can be set after it.
            ordered = sorted(settings.items(), key=lambda item: item[0] == "readonly")
            _execute(handle, "SET " + ", ".join(f"{_name(n)} = {_quoted(v)}" for n, v in ordered))
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
            _execute(handle, f"KILL QUERY WHERE Settings['log_comment'] {condition} ASYNC")
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


def _execute(
    handle: Any, sql: str, form: str = "TabSeparated", parameters: Mapping[str, str] | None = None
) -> Any:
    try:
        return handle.query(sql, form, params=dict(parameters or {}))
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
            result = _execute(self._handle, sql, "RawBLOB", {"statement": escaped})
        except Fault as fault:
            message = fault.message.partition(": In scope SELECT formatQuerySingleLine(")[0]
            raise Fault((fault.code, fault.name), message) from None
        return str(result.bytes().decode())

    def syntax_tree(self, sql: str, parameters: Mapping[str, str]) -> Sequence[str]:
        result = _execute(self._handle, f"EXPLAIN AST {sql}", "JSONCompactEachRow", parameters)
        return [json.loads(line)[0] for line in result.bytes().splitlines()]


class _Lists:
    """The engine's own lists of what it knows."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def rows(self, sql: str) -> list[dict[str, Any]]:
        result = _execute(self._handle, sql, "JSONEachRow")
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


def _can_stream(allowed: Permit, form: str, settings: Mapping[str, str]) -> bool:
    # Totals and extremes get lost on the way when the engine streams.
    if (
        not allowed.is_select
        or form not in STREAMED_FORMATS
        or settings.get("extremes", "0") != "0"
    ):
        return False
    return not any(token.value.upper() == "TOTALS" for token in allowed.statement.tokens)


def _whole(handle: Any, sql: str, form: str, parameters: dict[str, str]) -> Result:
    answer = _execute(handle, sql, form, parameters)
    body = answer.bytes() or b""
    return Result(
        form,
        iter([body] if body else []),
        has_more=False,
        read_rows=answer.storage_rows_read(),
        read_bytes=answer.storage_bytes_read(),
    )


def _streamed(handle: Any, sql: str, form: str, parameters: dict[str, str]) -> Result:
    result = Result(form, iter(()), has_more=True)
    try:
        stream = handle.send_query(sql, form, params=parameters)
    except RuntimeError as error:
        raise fault_from_engine(str(error)) from None
    result.chunks = _chunks(stream, result)
    return result


def _chunks(stream: Any, result: Result) -> Iterator[bytes]:
    while True:
        try:
            chunk = stream.fetch()
        except RuntimeError as error:
            raise fault_from_engine(str(error)) from None
        if chunk is None:
            return
        result.read_rows += chunk.storage_rows_read()
        result.read_bytes += chunk.storage_bytes_read()
        yield chunk.bytes()


def _name(setting: str) -> str:
    return "`" + setting.replace("\\", "\\\\").replace("`", "\\`") + "`"


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
