# SPDX-License-Identifier: Apache-2.0
"""A ClickHouse that is reached by HTTP and fails on demand: the real engine behind a small server.

    python -m tests.consumer.clickhouse_server DIRECTORY [OPTIONS as JSON]

Prints its port.  What it is told to do with the next inserts is a query to /next:
`overloaded` answers as a server out of memory does, `silent` stores the rows and hangs up
without an answer, as a server does whose answer is lost.  /statements lists what it was asked.

With a certificate it speaks TLS, with users it asks for one of them and his password, and with an
authority for a certificate that this has signed, which may stand for the password.
"""

import base64
import json
import os
import ssl
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

    def __init__(self, directory: Path, **options: Any) -> None:
        program = [sys.executable, "-m", "tests.consumer.clickhouse_server", str(directory)]
        self._process = subprocess.Popen(
            [*program, json.dumps(options, default=str)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout
        self._port = int(self._process.stdout.readline())
        scheme = "https" if "certificate" in options else "http"
        self.url = f"{scheme}://127.0.0.1:{self._port}"

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

    def statements(self) -> list[str]:
        """What it was asked so far, without the rows."""
        connection = HTTPConnection("127.0.0.1", self._port)
        connection.request("GET", "/statements")
        statements: list[str] = json.loads(connection.getresponse().read())
        connection.close()
        return statements

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
    users: ClassVar[dict[str, str]] = {}
    statements: ClassVar[list[str]] = []
    to_do: ClassVar[list[str]] = []

    def log_message(self, *_: Any) -> None:
        """Stay silent."""

    def do_GET(self) -> None:  # http.server's name
        if self.path == "/statements":
            self._answer(200, json.dumps(self.statements).encode())
            return
        self.to_do.extend(value for _, value in parse_qsl(urlsplit(self.path).query))
        self._answer(200, b"Ok.\n")

    def do_POST(self) -> None:  # http.server's name
        parameters = dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))
        body = self._body()
        settings = {name: value for name, value in parameters.items() if name not in TRANSPORT}
        if self.users and not self._is_known():
            message = b"Code: 516. DB::Exception: Authentication failed. (AUTHENTICATION_FAILED)"
            self._answer(403, message, code="516")
            return
        self.statements.append(body.split(b"FORMAT Native")[0].decode(errors="replace").strip())
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

    def _is_known(self) -> bool:
        """Whether user and password, or user and certificate, go together."""
        if self.headers.get("X-ClickHouse-SSL-Certificate-Auth") == "on":
            subject = dict(one for (one,) in self.connection.getpeercert()["subject"])
            return subject["commonName"] == self.headers["X-ClickHouse-User"]
        scheme, _, encoded = self.headers.get("Authorization", "").partition(" ")
        user, _, password = base64.b64decode(encoded).decode().partition(":")
        return scheme == "Basic" and user in self.users and self.users[user] == password

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


def main(
    directory: str,
    certificate: str = "",
    key: str = "",
    client_ca: str = "",
    users: dict[str, str] | None = None,
) -> None:
    # This process is a server; only here does a test need the client library of the engine.
    from clickhouse_connect import get_client

    Exchange.client = get_client(dsn=f"chdb://{directory}")
    Exchange.users = users or {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Exchange)
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        if client_ca:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(client_ca)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    try:
        server.serve_forever()
    finally:
        os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], **json.loads(sys.argv[2]))
