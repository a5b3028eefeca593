# SPDX-License-Identifier: Apache-2.0
"""Serve ClickHouse's HTTP interface on loopback, from threads of this process.

Everything that a client can make grow is bounded: connections, running queries, the size of a
request, and by the engine's settings time, memory and the size of a result.  A query whose client
has gone is stopped.
"""

import errno
import logging
import select
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import ThreadingHTTPServer
from ipaddress import ip_address
from typing import Any, Self
from urllib.parse import urlsplit

from consumer.api.engine import Engine
from consumer.api.exchange import Exchange
from consumer.api.fault import TOO_MANY_SIMULTANEOUS_QUERIES, Fault

MAX_QUERIES = 16
MAX_CONNECTIONS = 64
STOP_TIMEOUT_S = 10.0
_LOOK_FOR_GONE_CLIENTS_S = 0.25
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Type: text/plain\r\n"
    b"X-ClickHouse-Exception-Code: 202\r\nContent-Length: %d\r\n\r\n%b"
)

log = logging.getLogger(__name__)


class ApiUnavailable(Exception):  # noqa: N818  # the name says what is not there
    """The interface cannot be served; the text is one line for a human."""


class _Runs:
    """The queries that run: at most so many, each with the connection that waits for it."""

    def __init__(self, engine: Engine, *, at_most: int) -> None:
        self._engine = engine
        self._at_most = at_most
        self._lock = threading.Lock()
        self._connections: dict[str, socket.socket] = {}
        self._is_over = threading.Event()
        self._watch = threading.Thread(target=self._watch_clients, name="api-watch", daemon=True)

    def start(self) -> None:
        self._watch.start()

    def stop(self) -> None:
        self._is_over.set()
        self._watch.join()

    @contextmanager
    def running(self, token: str, connection: socket.socket) -> Iterator[None]:
        with self._lock:
            if len(self._connections) >= self._at_most:
                raise Fault(
                    TOO_MANY_SIMULTANEOUS_QUERIES,
                    f"Too many simultaneous queries. Maximum: {self._at_most}",
                )
            self._connections[token] = connection
        try:
            yield
        finally:
            with self._lock:
                del self._connections[token]

    def count(self) -> int:
        return len(self._connections)

    def _watch_clients(self) -> None:
        while not self._is_over.wait(_LOOK_FOR_GONE_CLIENTS_S):
            for token in self._abandoned():
                log.info("query stopped, its client has gone")
                self._engine.stop(token)

    def _abandoned(self) -> list[str]:
        # Under the lock no connection is closed, so no number stands for another connection.
        with self._lock:
            return [token for token, peer in self._connections.items() if _has_gone(peer)]


def _has_gone(connection: socket.socket) -> bool:
    poll = select.poll()
    try:
        poll.register(connection, select.POLLRDHUP | select.POLLHUP)
    except (OSError, ValueError):
        return True
    return bool(poll.poll(0))


class _Listener(ThreadingHTTPServer):
    """Accepts connections, and turns away those above the limit."""

    daemon_threads = True
    # stop() joins with a deadline; the base class would wait for ever.
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], exchange: Callable[..., Exchange]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._lock = threading.Lock()
        self._open: dict[Any, threading.Thread | None] = {}
        super().__init__(address, exchange)

    def server_bind(self) -> None:
        # The base class looks up the host's name, which may ask a name server.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_port = self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            is_full = len(self._open) >= MAX_CONNECTIONS
            if not is_full:
                self._open[request] = None
        if not is_full:
            super().process_request(request, client_address)
            return
        with suppress(OSError):
            kind = TOO_MANY_SIMULTANEOUS_QUERIES
            text = Fault(kind, f"Too many connections. Maximum: {MAX_CONNECTIONS}").text("0")
            request.sendall(_FULL % (len(text), text.encode()))
        self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._open[request] = threading.current_thread()
        super().process_request_thread(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        del request
        # A client that goes away in the middle is its own business; anything else is a fault here.
        level = logging.DEBUG if isinstance(sys.exception(), OSError) else logging.ERROR
        log.log(
            level, "connection ended", exc_info=True, extra={"client": str(client_address)}
        )  # called while an exception is handled

    def hang_up(self, *, timeout_s: float) -> bool:
        """End every connection, and tell whether their threads ended in time."""
        with self._lock:
            open_now = dict(self._open)
        for connection in open_now:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        threads = [thread for thread in open_now.values() if thread is not None]
        for thread in threads:
            thread.join(timeout_s / max(1, len(threads)))
        return not any(thread.is_alive() for thread in threads)


class ApiServer:
    """ClickHouse's HTTP interface over the history at *path_or_dsn*; a context manager.

    *path_or_dsn* is the engine's directory or `chdb:///directory`, as the inserting client opened
    it.  *port* 0 takes a free one, which `port` then tells.  `start` and `stop` block briefly; from
    an event loop, call them in a thread.
    """

    def __init__(
        self,
        path_or_dsn: str,
        *,
        host: str = "127.0.0.1",
        port: int = 8123,
        max_queries: int = MAX_QUERIES,
    ) -> None:
        if not _is_loopback(host):
            raise ApiUnavailable(f"{host} is not a loopback address: use 127.0.0.1 or ::1")
        self._address = (host, port)
        self._engine = Engine(_directory(path_or_dsn))
        self._runs = _Runs(self._engine, at_most=max_queries)
        self._listener: _Listener | None = None
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._listener.server_port if self._listener else self._address[1]

    @property
    def url(self) -> str:
        """Where clients find it."""
        host = self._address[0]
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    def start(self) -> None:
        """Listen, and answer from threads.

        Raises:
            ApiUnavailable: the port is taken, or the engine does not open.
        """
        self._listener = self._bound()
        try:
            self._engine.open()
        except Fault as fault:
            self._listener.server_close()
            raise ApiUnavailable(f"cannot open the history: {fault.message}") from None
        self._runs.start()
        self._thread = threading.Thread(
            target=self._listener.serve_forever, name="api-accept", daemon=True
        )
        self._thread.start()
        log.info("history served", extra={"url": self.url})

    def _bound(self) -> _Listener:
        try:
            return _Listener(self._address, partial(Exchange, self._engine, self._runs))
        except OSError as error:
            host, port = self._address
            if error.errno == errno.EADDRINUSE:
                reason = f"port {port} on {host} is taken: stop the other server or choose another"
            else:
                reason = f"cannot listen on {host} port {port}: {error.strerror}"
            raise ApiUnavailable(reason) from None

    def stop(self) -> None:
        """Stop listening, stop what runs, hang up; what was started must be stopped."""
        if self._listener is None or self._thread is None:
            return
        self._listener.shutdown()
        self._thread.join()
        self._engine.stop_all()
        if not self._listener.hang_up(timeout_s=STOP_TIMEOUT_S):
            log.error("queries still run after the deadline", extra={"queries": self._runs.count()})
        self._runs.stop()
        self._listener.server_close()
        self._engine.close()
        self._listener = self._thread = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _directory(path_or_dsn: str) -> str:
    parts = urlsplit(path_or_dsn)
    return parts.path if parts.scheme == "chdb" else path_or_dsn
