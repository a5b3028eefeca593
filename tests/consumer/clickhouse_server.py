# SPDX-License-Identifier: Apache-2.0
"""A ClickHouse that is reached by HTTP and fails on demand: the real engine behind a small server.

    python -m tests.consumer.clickhouse_server DIRECTORY [OPTIONS as JSON]

Prints its port.  What it is told to do with the next requests for a table is a query to /next,
as `insert.flows=held` or `query.flows=252`:

- a number: it answers with this error of ClickHouse, and does nothing;
- `silent`: it does what was asked and hangs up without an answer, as if that was lost;
- `held`: it does nothing until it is told to /release, whatever becomes of the client;
- `done`: it does what was asked, and answers only when it is told to /release;
- `dropped`: it waits for /release and then does nothing, as if the request had been lost.

/held tells how many requests wait, /asked how many came, /sent which tokens they had, and
/statements what it was asked.

With a certificate it speaks TLS, with users it asks for one of them and his password, and with an
authority for a certificate that this has signed, which may stand for the password.
"""

import asyncio
import base64
import json
import os
import re
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar, Self
from urllib.parse import parse_qsl, urlsplit

ROOT = Path(__file__).parents[2]
DEADLINE_S = 30.0
POLL_S = 0.02
TABLE = re.compile(rb"(?:INSERT INTO|FROM) `?hookline`?\.`?(\w+)")
# The client's, not the engine's.
TRANSPORT = {
    *("query_id", "session_id", "database", "client_protocol_version", "wait_end_of_query"),
    *("enable_http_compression", "send_progress_in_http_headers"),
    *("http_headers_progress_interval_ms", "cancel_http_readonly_queries_on_client_close"),
}


class Server:
    """The server as a process of its own, from `__enter__` to `__exit__`."""

    def __init__(self, directory: Path, **options: Any) -> None:
        self._directory = directory
        self._options = options
        self._port = 0
        self.start()
        scheme = "https" if "certificate" in options else "http"
        self.url = f"{scheme}://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start it, at the same port as before."""
        options = json.dumps({**self._options, "port": self._port}, default=str)
        program = [sys.executable, "-m", "tests.consumer.clickhouse_server"]
        self._process = subprocess.Popen(
            [*program, str(self._directory), options],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout
        self._port = int(self._process.stdout.readline())

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def statements(self) -> list[str]:
        """What it was asked so far, without the rows."""
        return list(self._ask("/statements"))

    def next_inserts(self, *what: str, table: str = "flows") -> None:
        """Say what becomes of the next inserts into a table, in this order."""
        self._ask("/next?" + "&".join(f"insert.{table}={one}" for one in what))

    def next_queries(self, *what: str, table: str = "flows") -> None:
        """Say what becomes of the next queries of a table, in this order."""
        self._ask("/next?" + "&".join(f"query.{table}={one}" for one in what))

    def release(self) -> None:
        """Let go on whatever is held."""
        self._ask("/release")

    def asked(self, what: str) -> int:
        """How many requests of a kind have come, as `insert.flows`."""
        return int(self._ask("/asked").get(what, 0))

    def sent(self, table: str = "flows") -> list[str]:
        """The tokens of all inserts into a table, in the order in which they came."""
        return list(self._ask("/sent").get(table, []))

    async def until_held(self, count: int = 1) -> None:
        """Return once so many requests wait."""
        deadline = time.monotonic() + DEADLINE_S
        while await asyncio.to_thread(self._ask, "/held") != count:
            assert time.monotonic() < deadline, f"not {count} held: {self._ask('/asked')}"
            await asyncio.sleep(POLL_S)

    def rows(self, query: str) -> list[list[Any]]:
        """The rows of a query, past whatever is to be done with those of consumers."""
        return self._ask("/rows", query)

    def _ask(self, path: str, body: str | None = None) -> Any:
        connection = HTTPConnection("127.0.0.1", self._port)
        connection.request("GET", path, body)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        assert answer.status == 200, content
        return json.loads(content)


class Exchange(BaseHTTPRequestHandler):
    """One connection of a client."""

    protocol_version = "HTTP/1.1"
    client: ClassVar[Any]
    users: ClassVar[dict[str, str]] = {}
    statements: ClassVar[list[str]] = []
    to_do: ClassVar[dict[str, list[str]]] = defaultdict(list)
    asked: ClassVar[Counter[str]] = Counter()
    sent: ClassVar[dict[str, list[str]]] = defaultdict(list)
    held: ClassVar[list[threading.Event]] = []

    def log_message(self, *_: Any) -> None:
        """Stay silent."""

    def do_GET(self) -> None:  # http.server's name
        parts = urlsplit(self.path)
        told: Any = None
        match parts.path:
            case "/next":
                for key, value in parse_qsl(parts.query):
                    self.to_do[key].append(value)
            case "/release":
                while self.held:
                    self.held.pop().set()
            case "/held":
                told = len(self.held)
            case "/asked":
                told = self.asked
            case "/statements":
                told = self.statements
            case "/sent":
                told = self.sent
            case "/rows":
                told = self.client.query(self._body().decode()).result_rows
        self._answer(200, json.dumps(told).encode())

    def do_POST(self) -> None:  # http.server's name
        parameters = dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))
        body = self._body()
        settings = {name: value for name, value in parameters.items() if name not in TRANSPORT}
        if self.users and not self._is_known():
            message = b"Code: 516. DB::Exception: Authentication failed. (AUTHENTICATION_FAILED)"
            self._answer(403, message, code="516")
            return
        self.statements.append(body.split(b"FORMAT Native")[0].decode(errors="replace").strip())
        if body.startswith(b"INSERT INTO"):
            what = f"insert.{_table(body)}"
            self.sent[_table(body)].append(settings["insert_deduplication_token"])
            ask = partial(self._insert, body, settings)
        else:
            what = f"query.{_table(body)}"
            ask = partial(self.client.raw_query, body.decode(), settings=settings)
        self.asked[what] += 1
        match self.to_do[what].pop(0) if self.to_do[what] else "":
            case "silent":
                ask()
                self.close_connection = True
            case "held":
                self._hold()
                self._engine(ask)
            case "done":
                answer = ask()
                self._hold()
                self._answer(200, answer)
            case "dropped":
                self._hold()
                self.close_connection = True
            case "":
                self._engine(ask)
            case code:
                self._answer(500, f"Code: {code}. DB::Exception: told to".encode(), code=code)

    def _hold(self) -> None:
        released = threading.Event()
        self.held.append(released)
        released.wait()

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
            answer = ask()
        except DatabaseError as error:
            self._answer(500, str(error).encode(), code=str(error.code))
        else:
            self._answer(200, answer)

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
        # Whoever asked may be gone by now.
        with suppress(ConnectionError):
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            if code:
                self.send_header("X-ClickHouse-Exception-Code", code)
            self.end_headers()
            self.wfile.write(body)


def _table(body: bytes) -> str:
    found = TABLE.search(body)
    return found[1].decode() if found else ""


def main(
    directory: str,
    *,
    port: int = 0,
    certificate: str = "",
    key: str = "",
    client_ca: str = "",
    users: dict[str, str] | None = None,
) -> None:
    # This process is a server; only here does a test need the client library of the engine.
    from clickhouse_connect import get_client

    Exchange.client = get_client(dsn=f"chdb://{directory}")
    Exchange.users = users or {}
    server = ThreadingHTTPServer(("127.0.0.1", port), Exchange)
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
