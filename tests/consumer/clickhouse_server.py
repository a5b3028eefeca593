# SPDX-License-Identifier: Apache-2.0
"""A ClickHouse that is reached by HTTP and fails on demand: the real engine behind a small server.

    python -m tests.consumer.clickhouse_server DIRECTORY

Prints its port.  What it is told to do with the next inserts is a query to /next:
`overloaded` answers as a server out of memory does, `silent` stores the rows and hangs up
without an answer, as a server does whose answer is lost.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self
from urllib.parse import parse_qsl, urlsplit

ROOT = Path(__file__).parents[2]
# The client's, not the engine's.
TRANSPORT = {
    *("query_id", "session_id", "database", "client_protocol_version", "wait_end_of_query"),
    *("enable_http_compression", "send_progress_in_http_headers"),
    *("http_headers_progress_interval_ms", "cancel_http_readonly_queries_on_client_close"),
}


class Server:
    """The server as a process of its own, from `__enter__` to `__exit__`."""

    def __init__(self, directory: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.consumer.clickhouse_server", str(directory)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout
        self._port = int(self._process.stdout.readline())
        self.url = f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def next_inserts(self, *what: str) -> None:
        """Say what becomes of the next inserts, in this order."""
        connection = HTTPConnection("127.0.0.1", self._port)
        connection.request("GET", "/next?" + "&".join(f"do={one}" for one in what))
        connection.getresponse().read()
        connection.close()


class Exchange(BaseHTTPRequestHandler):
    """One connection of a client."""

    protocol_version = "HTTP/1.1"
    client: ClassVar[Any]
    to_do: ClassVar[list[str]] = []

    def log_message(self, *_: Any) -> None:
        """Stay silent."""

    def do_GET(self) -> None:  # http.server's name
        self.to_do.extend(value for _, value in parse_qsl(urlsplit(self.path).query))
        self._answer(200, b"Ok.\n")

    def do_POST(self) -> None:  # http.server's name
        parameters = dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))
        body = self._body()
        settings = {name: value for name, value in parameters.items() if name not in TRANSPORT}
        if not body.startswith(b"INSERT INTO"):
            self._engine(lambda: self.client.raw_query(body.decode(), settings=settings))
            return
        match self.to_do.pop(0) if self.to_do else "":
            case "overloaded":
                self._answer(500, b"Code: 241. DB::Exception: Memory limit exceeded", code="241")
            case "silent":
                self._insert(body, settings)
                self.close_connection = True
            case _:
                self._engine(lambda: self._insert(body, settings))

    def _engine(self, ask: Callable[[], bytes]) -> None:
        from clickhouse_connect.driver.exceptions import DatabaseError

        try:
            self._answer(200, ask())
        except DatabaseError as error:
            self._answer(500, str(error).encode(), code=str(error.code))

    def _body(self) -> bytes:
        if "Content-Length" in self.headers:
            return self.rfile.read(int(self.headers["Content-Length"]))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _insert(self, body: bytes, settings: dict[str, str]) -> bytes:
        statement, block = body.split(b"FORMAT Native\n", 1)
        table, _, names = statement.decode().removeprefix("INSERT INTO ").partition(" (")
        columns = [name.strip(" `)") for name in names.split(",")]
        self.client.raw_insert(table.strip(), columns, block, settings=settings, fmt="Native")
        return b""

    def _answer(self, status: int, body: bytes, *, code: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if code:
            self.send_header("X-ClickHouse-Exception-Code", code)
        self.end_headers()
        self.wfile.write(body)


def main(directory: str) -> None:
    # This process is a server; only here does a test need the client library of the engine.
    from clickhouse_connect import get_client

    Exchange.client = get_client(dsn=f"chdb://{directory}")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Exchange)
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    try:
        server.serve_forever()
    finally:
        os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
