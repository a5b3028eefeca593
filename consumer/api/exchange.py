# SPDX-License-Identifier: Apache-2.0
"""One connection of a client: read its requests one after another, and answer them.

An error before the first byte of a result is an HTTP status.  Later it stands in the body, marked
with the word that the headers announced, and the reply ends without its last chunk, so that a
client which does not know the mark notices as well.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from http import HTTPStatus
from http.client import LineTooLong, responses
from http.server import BaseHTTPRequestHandler
from io import BufferedIOBase
from itertools import chain
from socket import SHUT_WR, socket
from typing import Any, Protocol
from urllib.parse import urlsplit

from consumer.api.compression import chosen_encoding, compressor_for, encoded
from consumer.api.engine import Engine, new_token
from consumer.api.fault import (
    BAD_ARGUMENTS,
    NOT_IMPLEMENTED,
    QUERY_IS_TOO_LARGE,
    UNKNOWN_EXCEPTION,
    Fault,
)
from consumer.api.reply import (
    common_headers,
    fault_headers,
    midstream_exception,
    new_exception_tag,
    result_headers,
)
from consumer.api.request import MAX_BODY_BYTES, Request, refuse_strangers, request_from
from consumer.api.results import Result

# A result up to this size is sent with its length and the whole summary.
HELD_BACK_BYTES = 1 << 20
MAX_HEADER_BYTES = 1 << 16
IDLE_TIMEOUT_S = 30
DRAIN_TIMEOUT_S = 2
MAX_DRAINED_BYTES = 64 << 20
_DRAIN_PIECE_BYTES = 1 << 16
_HEALTH_PATHS = {"/ping", "/replicas_status"}
_MAX_CHUNK_LINE_BYTES = 1024
_NOT_HERE = b"There is no handle for this path: send queries to /, and ask /ping for health\n"

log = logging.getLogger(__name__)


class Runs(Protocol):
    """The place where running queries are counted, and stopped when their client goes away."""

    def running(self, token: str, connection: socket) -> AbstractContextManager[None]:
        """Hold a place; raises `Fault` when there is none."""


class _Headers:
    """The lines of a request's headers, as far as they are bounded.

    The library bounds only their number, and ClickHouse's client raises that to 10,000.
    """

    def __init__(self, source: BufferedIOBase) -> None:
        self._source = source
        self._left_bytes = MAX_HEADER_BYTES

    def readline(self, limit: int) -> bytes:
        line = self._source.readline(limit)
        self._left_bytes -= len(line)
        if self._left_bytes < 0:
            raise LineTooLong("headers")
        return line


class Exchange(BaseHTTPRequestHandler):
    """The requests of one connection."""

    protocol_version = "HTTP/1.1"
    default_request_version = "HTTP/1.0"  # so that what is no request gets a status, too
    timeout = IDLE_TIMEOUT_S
    # Headers and body are two writes, and must not wait for each other's acknowledgement.
    disable_nagle_algorithm = True

    def __init__(self, engine: Engine, runs: Runs, *connection: Any) -> None:
        self._engine = engine
        self._runs = runs
        self._is_chunked = False
        # The base class serves the whole connection in here.
        super().__init__(*connection)

    def parse_request(self) -> bool:
        """Read the headers, so many and no more."""
        source, self.rfile = self.rfile, _Headers(self.rfile)  # type: ignore[assignment]
        try:
            is_request = super().parse_request()
        finally:
            self.rfile = source
        if not is_request:
            self._drain()
        return is_request

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def version_string(self) -> str:
        """The Server header."""
        return "hookline"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Log at debug level what the base class would print."""
        log.debug("http request", extra={"line": format % args})

    def _answer(self) -> None:
        path = urlsplit(self.path)
        try:
            refuse_strangers(self.headers)
            body = self._body()
            if path.path in _HEALTH_PATHS or (path.path == "/" and not path.query and not body):
                self._send(HTTPStatus.OK, {"Content-Type": "text/html; charset=UTF-8"}, b"Ok.\n")
            elif path.path != "/":
                self._send(HTTPStatus.NOT_FOUND, {"Content-Type": "text/plain"}, _NOT_HERE)
            else:
                self._query(request_from(self.path, self.headers, body))
        except Fault as fault:
            self._send_fault(fault, {})
            self._drain()

    def _drain(self) -> None:
        # Closing with unread bytes would reset the connection, and the client lose our answer.
        if self.close_connection:
            with suppress(OSError):
                self.connection.shutdown(SHUT_WR)
                self.connection.settimeout(DRAIN_TIMEOUT_S)
                for _ in range(MAX_DRAINED_BYTES // _DRAIN_PIECE_BYTES):
                    if not self.rfile.read1(_DRAIN_PIECE_BYTES):
                        return

    def _query(self, request: Request) -> None:
        headers = common_headers(request.query_id, self._engine.timezone)
        started = time.monotonic_ns()
        token = new_token()
        try:
            with (
                self._runs.running(token, self.connection),
                self._engine.ask(request.question, token=token) as result,
            ):
                self._send_result(request, result, headers, started)
        except Fault as fault:
            self._send_fault(fault, headers)

    def _send_result(
        self, request: Request, result: Result, headers: dict[str, str], started: int
    ) -> None:
        held, rest = _held_back(result)
        headers |= result_headers(result, elapsed_ns=time.monotonic_ns() - started)
        encoding = chosen_encoding(request.accepts_encodings)
        if encoding:
            headers["Content-Encoding"] = encoding
        if rest is None:
            body = b"".join(encoded(held, compressor_for(encoding)))
            self._send(HTTPStatus.OK, headers, body)
            return
        tag = new_exception_tag()
        headers["X-ClickHouse-Exception-Tag"] = tag
        self._begin_stream(headers)
        pieces = self._until_fault(chain(held, rest), tag)
        for piece in encoded(pieces, compressor_for(encoding)):
            self._write_piece(piece)
        if not self.close_connection:
            self.wfile.write(b"0\r\n\r\n")

    def _until_fault(self, pieces: Iterator[bytes], tag: str) -> Iterator[bytes]:
        try:
            yield from pieces
        except Fault as fault:
            self.close_connection = True
            yield midstream_exception(fault, tag=tag, version=self._engine.version)

    def _begin_stream(self, headers: dict[str, str]) -> None:
        self.send_response(HTTPStatus.OK)
        for name, value in headers.items():
            self.send_header(name, value)
        self._is_chunked = self.request_version != "HTTP/1.0"
        if self._is_chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Connection", "close")
        self.end_headers()

    def _write_piece(self, piece: bytes) -> None:
        if self._is_chunked:
            self.wfile.write(b"%x\r\n" % len(piece))
            self.wfile.write(piece)
            self.wfile.write(b"\r\n")
        else:
            self.wfile.write(piece)

    def _send_fault(self, fault: Fault, headers: dict[str, str]) -> None:
        text = fault.text(self._engine.version).encode(errors="backslashreplace")
        self._send(fault.status, headers | fault_headers(fault), text)

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status, responses.get(status))
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def _body(self) -> bytes:
        # Until the body is read whole, what follows on this connection is not a request.
        keeps_alive, self.close_connection = not self.close_connection, True
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            body = self._chunked_body()
        else:
            body = self._exactly(self._content_length())
        self.close_connection = not keeps_alive
        return body

    def _content_length(self) -> int:
        given = self.headers.get_all("Content-Length", ["0"])
        if len(given) > 1 or not given[0].isdecimal() or not given[0].isascii():
            raise Fault(BAD_ARGUMENTS, f"Content-Length is no number: {given!r}")
        return int(given[0][:20])

    def _exactly(self, size: int) -> bytes:
        if size > MAX_BODY_BYTES:
            raise Fault(QUERY_IS_TOO_LARGE, f"the body is longer than {MAX_BODY_BYTES} bytes")
        body = self.rfile.read(size)
        if len(body) < size:
            raise Fault(BAD_ARGUMENTS, f"the body ended after {len(body)} of {size} bytes")
        return body

    def _chunked_body(self) -> bytes:
        body = bytearray()
        while size := self._chunk_size():
            body += self._exactly(size)
            if len(body) > MAX_BODY_BYTES:
                raise Fault(QUERY_IS_TOO_LARGE, f"the body is longer than {MAX_BODY_BYTES} bytes")
            if self.rfile.read(2) != b"\r\n":
                raise Fault(BAD_ARGUMENTS, "a chunk of the body does not end where it says")
        while (trailer := self.rfile.readline(_MAX_CHUNK_LINE_BYTES)) not in {b"\r\n", b"\n"}:
            if not trailer.endswith(b"\n"):
                raise Fault(BAD_ARGUMENTS, "the body ended inside its trailer")
        return bytes(body)

    def _chunk_size(self) -> int:
        line = self.rfile.readline(_MAX_CHUNK_LINE_BYTES)
        digits = line.split(b";")[0].strip()
        try:
            return int(digits, 16) if digits[:1].isalnum() else _no_chunk_size(line)
        except ValueError:
            return _no_chunk_size(line)

    def handle_expect_100(self) -> bool:
        """Refuse a body that is too long before it is sent."""
        if self.headers.get("Content-Length", "0").isdecimal():
            size = int(self.headers.get("Content-Length", "0")[:20])
            if size > MAX_BODY_BYTES:
                self.close_connection = True
                fault = Fault(QUERY_IS_TOO_LARGE, f"the body is longer than {MAX_BODY_BYTES} bytes")
                self._send_fault(fault, {})
                return False
        return super().handle_expect_100()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what is no HTTP request in the form of every other error."""
        del explain
        kind = NOT_IMPLEMENTED if code == HTTPStatus.NOT_IMPLEMENTED else UNKNOWN_EXCEPTION
        fault = Fault(kind, message or responses.get(code, "bad request"))
        self.close_connection = True
        text = fault.text(self._engine.version).encode(errors="backslashreplace")
        self._send(code, fault_headers(fault), text)


def _no_chunk_size(line: bytes) -> int:
    raise Fault(BAD_ARGUMENTS, f"no chunk size: {line[:20]!r}")


def _held_back(result: Result) -> tuple[list[bytes], Iterator[bytes] | None]:
    """The first pieces, and the rest when there is more than we hold back."""
    held = []
    size = 0
    for piece in result.chunks:
        held.append(piece)
        size += len(piece)
        if size > HELD_BACK_BYTES and result.has_more:
            return held, result.chunks
    return held, None
