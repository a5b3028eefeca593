# SPDX-License-Identifier: Apache-2.0
"""What the demo's hosts do: `python -m hookline.demo.traffic ROLE ARGUMENTS`, in a namespace.

Servers run until they are ended.  Clients run until their time is over, and pause between two
rounds, so that an hour of them does no harm.
"""

import contextlib
import http.client
import http.server
import socket
import socketserver
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

HTTP_PORT = 80
DNS_PORT = 53
BULK_PORT = 9000
BULK_BYTES = 20_000_000
SCANNED_PORTS = range(1, 1001)
_PAGE = b"<p>hello</p>\n" * 200
_NAMES = ("www.example.com", "store.example.com", "mail.example.net", "example.org")


class _Page(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(_PAGE)))
        self.end_headers()
        self.wfile.write(_PAGE)

    def log_message(self, *_: Any) -> None:
        pass


class _Answer(socketserver.BaseRequestHandler):
    """Answers any DNS question with the address of the web host."""

    def handle(self) -> None:
        question, sock = self.request
        # Header (RFC 1035, 4.1.1): the same id, a response, one question, one answer.
        header = question[:2] + struct.pack("!HHHHH", 0x8180, 1, 1, 0, 0)
        answer = struct.pack("!HHHIH4s", 0xC00C, 1, 1, 60, 4, socket.inet_aton("198.51.100.10"))
        sock.sendto(header + question[12:] + answer, self.client_address)


class _Sink(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while self.request.recv(1 << 16):
            pass


class _BulkServer(socketserver.ThreadingTCPServer):
    address_family = socket.AF_INET6


def serve_web() -> None:
    with http.server.ThreadingHTTPServer(("", HTTP_PORT), _Page) as web:
        web.serve_forever()


def serve_store() -> None:
    """Names by UDP, and room for bulk data."""
    with (
        socketserver.ThreadingUDPServer(("", DNS_PORT), _Answer) as names,
        _BulkServer(("", BULK_PORT), _Sink) as bulk,
    ):
        threading.Thread(target=names.serve_forever, daemon=True).start()
        bulk.serve_forever()


def browse(web: str, store: str, seconds: str) -> None:
    """Look a name up, then fetch ten pages over one connection."""
    for turn in _rounds(float(seconds), pause=0.2):
        _resolve(store, _NAMES[turn % len(_NAMES)])
        connection = http.client.HTTPConnection(web, HTTP_PORT, timeout=5)
        for _ in range(10):
            connection.request("GET", "/")
            connection.getresponse().read()
        connection.close()


def _resolve(server: str, name: str) -> None:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    question = struct.pack("!HHHHHH", 7, 0x0100, 1, 0, 0, 0) + labels + b"\0\0\1\0\1"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(2)
        sock.sendto(question, (server, DNS_PORT))
        sock.recv(512)


def copy(store: str, seconds: str) -> None:
    """A bulk transfer every few seconds."""
    piece = bytes(1 << 16)
    for _ in _rounds(float(seconds), pause=3):
        with socket.create_connection((store, BULK_PORT), timeout=5) as sock:
            for _ in range(BULK_BYTES // len(piece)):
                sock.sendall(piece)


def ping(ipv4: str, ipv6: str, seconds: str) -> None:
    for _ in _rounds(float(seconds), pause=1):
        for address in (ipv4, ipv6):
            subprocess.run(
                ["ping", "-c", "1", "-W", "1", address], check=False, capture_output=True
            )


def scan(victim: str) -> None:
    """Try a thousand ports, most of which are closed."""
    for port in SCANNED_PORTS:
        with contextlib.suppress(OSError), socket.socket() as sock:
            sock.settimeout(0.2)
            sock.connect((victim, port))


def _rounds(seconds: float, *, pause: float) -> Iterator[int]:
    """Count rounds until the time is over."""
    deadline = time.monotonic() + seconds
    turn = 0
    while time.monotonic() < deadline:
        yield turn
        turn += 1
        time.sleep(pause)


ROLES: dict[str, Callable[..., None]] = {
    "serve-web": serve_web,
    "serve-store": serve_store,
    "browse": browse,
    "copy": copy,
    "ping": ping,
    "scan": scan,
}

if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        ROLES[sys.argv[1]](*sys.argv[2:])
