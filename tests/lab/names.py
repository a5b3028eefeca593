# SPDX-License-Identifier: Apache-2.0
"""Servers of DNS and TLS at the far end of a link, and clients at the near one."""

import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.lab.links import End, Link

_NO_SUCH_NAME, _TRUNCATED = 0x8183, 0x8380
_DEADLINE_S = 20
_LOOK_S = 0.1  # how often a server looks whether it is to stop

Serve = Callable[[socket.socket], None]


@contextmanager
def _serving(*pairs: tuple[socket.socket, Serve]) -> Iterator[None]:
    """Each of the sockets served by a thread, until the block is left."""
    stop = threading.Event()

    def run(sock: socket.socket, serve: Serve) -> None:
        sock.settimeout(_LOOK_S)
        while not stop.is_set():
            with suppress(OSError):
                serve(sock)

    threads = [threading.Thread(target=run, args=pair) for pair in pairs]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@contextmanager
def dns_server(end: End, *, ipv6: bool = False) -> Iterator[None]:
    """Answers each query, over UDP and TCP, until the block is left.

    Names that begin with `no` do not exist, those that begin with `long` are cut off over UDP.
    """
    address = (end.ipv6 if ipv6 else end.ipv4, 53)
    family = socket.AF_INET6 if ipv6 else socket.AF_INET
    with end.namespace.entered():
        datagrams = socket.socket(family, socket.SOCK_DGRAM)
        listener = socket.create_server(address, family=family)
    datagrams.bind(address)
    with datagrams, listener, _serving((datagrams, _answer_one), (listener, _answer_stream)):
        yield


def _answer_one(sock: socket.socket) -> None:
    query, client = sock.recvfrom(4096)
    sock.sendto(_answer(query, may_truncate=True), client)


def _answer_stream(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    connection.settimeout(_DEADLINE_S)
    with connection, connection.makefile("rb") as stream:
        while prefix := stream.read(2):
            answer = _answer(stream.read(int.from_bytes(prefix, "big")))
            connection.sendall(len(answer).to_bytes(2, "big") + answer)


def _answer(query: bytes, *, may_truncate: bool = False) -> bytes:
    """The query's question, and as many addresses as its name asks for."""
    end = query.index(0, 12) + 5
    question, first = query[12:end], query[13:17]
    flags, answers = 0x8180, 3
    if first.startswith(b"no"):
        flags, answers = _NO_SUCH_NAME, 0
    elif first == b"long":
        flags, answers = (_TRUNCATED, 0) if may_truncate else (0x8180, 200)
    record = b"\xc0\x0c" + bytes.fromhex("00010001000000ff0004") + bytes([192, 0, 2, 1])
    counts = b"\0\1" + answers.to_bytes(2, "big") + bytes(4)
    return query[:2] + flags.to_bytes(2, "big") + counts + question + record * answers


def dig(server: str, *arguments: str) -> None:
    """Ask from this end, as an administrator does."""
    subprocess.run(
        ["dig", f"@{server}", "+tries=1", "+time=5", *arguments],
        check=True,
        capture_output=True,
        timeout=_DEADLINE_S,
    )


@contextmanager
def tls_server(end: End, port: int, folder: Path, *, ipv6: bool = False) -> Iterator[None]:
    """Shakes hands with whoever comes, until the block is left; what is no TLS it hangs up on."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*_certificate(folder))
    context.set_alpn_protocols(["h2", "http/1.1"])

    def shake_hands(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        connection.settimeout(_DEADLINE_S)
        with connection, context.wrap_socket(connection, server_side=True) as secured:
            secured.recv(1)

    address = (end.ipv6 if ipv6 else end.ipv4, port)
    with end.namespace.entered():
        listener = socket.create_server(address, family=socket.AF_INET6 if ipv6 else socket.AF_INET)
    with listener, _serving((listener, shake_hands)):
        yield


def _certificate(folder: Path) -> tuple[Path, Path]:
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "1", "-subj", "/CN=lab", "-keyout", key, "-out", certificate),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key


def tls_client(
    link: Link, port: int, name: str | None, alpn: tuple[str, ...] = (), *, ipv6: bool = False
) -> None:
    """A handshake from the near end."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols(list(alpn))
    address = link.far.ipv6 if ipv6 else link.far.ipv4
    with (
        socket.create_connection((address, port), _DEADLINE_S) as plain,
        context.wrap_socket(plain, server_hostname=name) as secured,
    ):
        secured.sendall(b"x")


def send_raw(link: Link, port: int, *payloads: bytes) -> None:
    """A connection from the near end that sends these, each at once."""
    with socket.create_connection((link.far.ipv4, port), _DEADLINE_S) as plain:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for payload in payloads:
            plain.sendall(payload)
        plain.shutdown(socket.SHUT_WR)
        with suppress(OSError):
            while plain.recv(4096):
                pass
