# SPDX-License-Identifier: Apache-2.0
"""Results of the engine: block by block where the format allows it, else in one piece.

A streamed result takes no memory worth bounding.  One in one piece is text of several times the
size that the engine bounds, so that bound is low.
"""

from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from consumer.api.access import Permit
from consumer.api.fault import Fault, fault_from_engine

# The engine encodes every block as a result of its own.  In these formats they can be appended to
# each other; in the second list, when the header is taken off all but the first.
PLAIN_FORMATS = {
    "CSV",
    "JSONCompactEachRow",
    "JSONCompactStringsEachRow",
    "JSONEachRow",
    "JSONL",
    "JSONLines",
    "JSONStringsEachRow",
    "NDJSON",
    "Native",
    "RowBinary",
    "TSKV",
    "TSV",
    "TSVRaw",
    "TabSeparated",
    "TabSeparatedRaw",
}
HEADED_FORMATS = {
    "CSVWithNames",
    "CSVWithNamesAndTypes",
    "JSONCompactEachRowWithNames",
    "JSONCompactEachRowWithNamesAndTypes",
    "JSONCompactStringsEachRowWithNames",
    "JSONCompactStringsEachRowWithNamesAndTypes",
    "RowBinaryWithNames",
    "RowBinaryWithNamesAndTypes",
    "TSVWithNames",
    "TSVWithNamesAndTypes",
    "TabSeparatedWithNames",
    "TabSeparatedWithNamesAndTypes",
}
_PIECE_BYTES = 1 << 20


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
    unread: Generator[bytes, None, None] | None = None

    def close(self) -> None:
        """Let go of what is unread, which must happen before the handle is closed."""
        if self.unread is not None:
            self.unread.close()


def execute(
    handle: Any, sql: str, form: str = "TabSeparated", parameters: Mapping[str, str] | None = None
) -> Any:
    """Run *sql* and return the engine's own result; raises `Fault`."""
    try:
        return handle.query(sql, form, params=dict(parameters or {}))
    except RuntimeError as error:
        raise fault_from_engine(str(error)) from None


def can_stream(allowed: Permit, form: str, settings: Mapping[str, str]) -> bool:
    """Tell whether the engine can send this result block by block, without losing any of it."""
    # Totals and extremes get lost on the way when the engine streams.
    if not allowed.is_select or settings.get("extremes", "0") != "0":
        return False
    if any(token.value.upper() == "TOTALS" for token in allowed.statement.tokens):
        return False
    return form in PLAIN_FORMATS or form in HEADED_FORMATS


def whole(handle: Any, sql: str, form: str, parameters: dict[str, str]) -> Result:
    """The result, computed before the first byte is sent."""
    answer = execute(handle, sql, form, parameters)
    size = answer.size()
    return Result(
        form,
        _slices(answer, size),
        has_more=size > _PIECE_BYTES,
        read_rows=answer.storage_rows_read(),
        read_bytes=answer.storage_bytes_read(),
    )


def _slices(answer: Any, size: int) -> Iterator[bytes]:
    # A copy of the whole would double what a large result takes.
    view = answer.get_memview().view() if size else b""
    for start in range(0, size, _PIECE_BYTES):
        yield bytes(view[start : start + _PIECE_BYTES])


def streamed(handle: Any, sql: str, form: str, parameters: dict[str, str]) -> Result:
    """The result as it is computed."""
    header = b""
    if form in HEADED_FORMATS:
        try:
            answer = execute(handle, f"SELECT * FROM ({sql}) LIMIT 0", form, parameters)
        except Fault:
            # Not every statement can be a sub-query, and the wrong one tells its reason itself.
            return whole(handle, sql, form, parameters)
        header = answer.bytes()
    result = Result(form, iter(()), has_more=True)
    chunks = _chunks(_stream(handle, sql, form, parameters), result)
    first = next(chunks, header)
    if not first.startswith(header):
        chunks.close()
        return whole(handle, sql, form, parameters)
    result.unread = chunks
    result.chunks = chain((first,), (chunk.removeprefix(header) for chunk in chunks))
    return result


def _stream(handle: Any, sql: str, form: str, parameters: dict[str, str]) -> Any:
    try:
        return handle.send_query(sql, form, params=parameters)
    except RuntimeError as error:
        raise fault_from_engine(str(error)) from None


def _chunks(stream: Any, result: Result) -> Generator[bytes, None, None]:
    try:
        while (chunk := _fetched(stream)) is not None:
            result.read_rows += chunk.storage_rows_read()
            result.read_bytes += chunk.storage_bytes_read()
            yield chunk.bytes()
    finally:
        # Until then the handle takes no other statement.
        stream.close()


def _fetched(stream: Any) -> Any:
    try:
        return stream.fetch()
    except RuntimeError as error:
        raise fault_from_engine(str(error)) from None
