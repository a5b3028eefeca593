# SPDX-License-Identifier: Apache-2.0
"""Processes that have sockets, in scenes that a test can ask for: `python -m tests.lab.talkers`.

Each scene prints, as JSON, which processes took part and which ports they had.
"""

import json
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.lab.cgroups import Cgroup
from tests.lab.links import HERE, Namespace

ROOT = Path(__file__).parents[2]
NOBODY = 65534
SENT_BYTES = 100_000
ANSWER_BYTES = 10
_DEADLINE_S = 30
_TCP_USER_TIMEOUT = 18  # include/uapi/linux/tcp.h

Said = dict[str, Any]


def command(
    group: Cgroup, scene: str, *arguments: object, namespace: Namespace = HERE
) -> list[str]:
    """What plays a scene in *group* and *namespace*."""
    words = [sys.executable, "-m", "tests.lab.talkers", scene, *map(str, arguments)]
    return group.command(*namespace.command(*words))


@contextmanager
def talking(
    group: Cgroup, scene: str, *arguments: object, namespace: Namespace = HERE
) -> Iterator[tuple[Said, subprocess.Popen]]:
    """A scene that waits for its standard input, once it has said the first; ended by then."""
    process = subprocess.Popen(
        command(group, scene, *arguments, namespace=namespace),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    try:
        yield json.loads(process.stdout.readline()), process
        process.stdin.close()
        assert process.wait(_DEADLINE_S) == 0
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def talk(group: Cgroup, scene: str, *arguments: object, namespace: Namespace = HERE) -> Said:
    """What took part in a scene that was played in *group*; all its processes have ended."""
    done = subprocess.run(
        command(group, scene, *arguments, namespace=namespace),
        check=False,
        capture_output=True,
        text=True,
        timeout=_DEADLINE_S,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _listener(address: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.create_server((address, 0), family=family, backlog=128)


def _read_all(sock: socket.socket) -> int:
    count = 0
    while chunk := sock.recv(1 << 16):
        count += len(chunk)
    return count


def _forked(work) -> int:
    """The process id of a child that does *work* and ends."""
    if pid := os.fork():
        return pid
    try:
        work()
    finally:
        os._exit(0)


def _connection(address: str) -> Said:
    """A parent listens, one child accepts, another connects."""
    listener = _listener(address)

    def serve() -> None:
        sock, _ = listener.accept()
        listener.close()
        _read_all(sock)
        sock.sendall(bytes(ANSWER_BYTES))
        sock.close()

    worker = _forked(serve)
    said_in, said_out = os.pipe()

    def ask() -> None:
        with socket.create_connection(listener.getsockname()[:2]) as sock:
            os.write(said_out, struct.pack("H", sock.getsockname()[1]))
            sock.sendall(bytes(SENT_BYTES))
            sock.shutdown(socket.SHUT_WR)
            _read_all(sock)

    client = _forked(ask)
    os.waitpid(client, 0)
    os.waitpid(worker, 0)
    (client_port,) = struct.unpack("H", os.read(said_in, 2))
    return {
        "listener": os.getpid(),
        "worker": worker,
        "client": client,
        "port": listener.getsockname()[1],
        "client_port": client_port,
    }


def _pair(address: str) -> tuple[socket.socket, socket.socket, socket.socket]:
    listener = _listener(address)
    client = socket.create_connection(listener.getsockname()[:2])
    server, _ = listener.accept()
    return listener, client, server


def _client_closes(address: str) -> Said:
    _, client, server = _pair(address)
    client.close()
    assert server.recv(1) == b""
    server.close()
    return {}


def _server_closes(address: str) -> Said:
    _, client, server = _pair(address)
    server.close()
    assert client.recv(1) == b""
    client.close()
    return {}


def _client_resets(address: str) -> Said:
    _, client, server = _pair(address)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    try:
        server.recv(1)
    except ConnectionResetError:
        server.close()
    return {}


def _killed_worker(address: str) -> Said:
    listener = _listener(address)

    def serve() -> None:
        sock, _ = listener.accept()
        sock.sendall(b"!")
        signal.pause()

    worker = _forked(serve)
    with socket.create_connection(listener.getsockname()[:2]) as client:
        client.recv(1)
        os.kill(worker, signal.SIGKILL)
        os.waitpid(worker, 0)
        assert client.recv(1) == b""
    return {"worker": worker}


def _refused(address: str) -> Said:
    with _listener(address) as gone:
        port = gone.getsockname()[1]
    with socket.socket() as client:
        assert client.connect_ex((address, port))
    return {"client": os.getpid(), "port": port}


def _as_nobody(address: str) -> Said:
    listener = _listener(address)

    def ask() -> None:
        os.setuid(NOBODY)
        socket.create_connection(listener.getsockname()[:2]).close()

    os.waitpid(_forked(ask), 0)
    return {}


def _udp_server(address: str) -> tuple[socket.socket, int]:
    """A bound socket of a child that answers one datagram."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    said_in, said_out = os.pipe()

    def serve() -> None:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.bind((address, 0))
            os.write(said_out, struct.pack("H", sock.getsockname()[1]))
            _, peer = sock.recvfrom(100)
            sock.sendto(b"answer", peer)

    worker = _forked(serve)
    (port,) = struct.unpack("H", os.read(said_in, 2))
    return worker, port


def _udp(address: str) -> Said:
    worker, port = _udp_server(address)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        client.sendto(b"question", (address, port))
        client.recv(100)
        client_port = client.getsockname()[1]
    os.waitpid(worker, 0)
    return {"worker": worker, "client": os.getpid(), "port": port, "client_port": client_port}


def _udp_connected(address: str) -> Said:
    worker, port = _udp_server(address)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        client.connect((address, port))
        client.send(b"question")
        client.recv(100)
    os.waitpid(worker, 0)
    return {"client": os.getpid(), "port": port}


def _many(address: str) -> Said:
    for _ in range(10):
        _client_closes(address)
    return {}


def _serve(address: str, workers: str) -> Said:
    """Workers accept from one listener, and answer each connection with their process id."""
    listener = _listener(address)

    def work() -> None:
        while True:
            sock, _ = listener.accept()
            with sock:
                _read_all(sock)
                sock.sendall(struct.pack("I", os.getpid()))

    pids = [_forked(work) for _ in range(int(workers))]
    port = listener.getsockname()[1]
    print(json.dumps({"listener": os.getpid(), "port": port}), flush=True)
    sys.stdin.read()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return {}


def _ask(address: str, port: str, count: str, bytes_each: str) -> Said:
    """Connections one after the other; by client port, which worker answered."""
    workers = {}
    for _ in range(int(count)):
        with socket.create_connection((address, int(port))) as sock:
            sock.sendall(bytes(int(bytes_each)))
            sock.shutdown(socket.SHUT_WR)
            answer = sock.recv(4, socket.MSG_WAITALL)
            assert sock.recv(1) == b""
            (workers[str(sock.getsockname()[1])],) = struct.unpack("I", answer)
    return {"client": os.getpid(), "workers": workers}


def _hold(address: str, port: str, bytes_sent: str) -> Said:
    """A connection that has sent, and is answered once the test says so; then it is reset."""
    with socket.create_connection((address, int(port))) as sock:
        sock.sendall(bytes(int(bytes_sent)))
        print(json.dumps({"port": sock.getsockname()[1]}), flush=True)
        sys.stdin.read()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return {}


def _give_up(address: str, port: str) -> Said:
    """A connection whose peer falls silent; ended when the kernel has given it up."""
    with socket.create_connection((address, int(port))) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, _TCP_USER_TIMEOUT, 1000)
        print(json.dumps({"port": sock.getsockname()[1]}), flush=True)
        sys.stdin.readline()
        sock.sendall(b"is anybody there?")
        try:
            sock.recv(1)
        except TimeoutError:
            return {}
    raise AssertionError("the peer has answered")


def _connect_in_vain(address: str) -> Said:
    with socket.socket() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, _TCP_USER_TIMEOUT, 1200)
        assert sock.connect_ex((address, 9))
    return {"client": os.getpid()}


def _udp_probe(address: str) -> Said:
    """What resolving a name does to learn which address it would send from; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((address, 0))
    return {}


_SCENES = {
    "udp-probe": _udp_probe,
    "serve": _serve,
    "ask": _ask,
    "hold": _hold,
    "give-up": _give_up,
    "connect-in-vain": _connect_in_vain,
    "connection": _connection,
    "client-closes": _client_closes,
    "server-closes": _server_closes,
    "client-resets": _client_resets,
    "killed-worker": _killed_worker,
    "refused": _refused,
    "as-nobody": _as_nobody,
    "udp": _udp,
    "udp-connected": _udp_connected,
    "many": _many,
}

if __name__ == "__main__":
    print(json.dumps(_SCENES[sys.argv[1]](*sys.argv[2:])))
