# SPDX-License-Identifier: Apache-2.0
"""Two nodes with a link between them, a web server on one and a client on the other.

A node is a network namespace and one CPU of this machine, for all that belongs to it.  Each thing
that is measured has two nodes of its own, set up once; who runs in the background there is frozen
until it is that one's turn.
"""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.ends import namespace, within
from bench.link import ip
from bench.processes import pin
from tests.lab.cgroups import Cgroup, a_cgroup

CPUS = sorted(os.sched_getaffinity(0))
CLIENT_ADDRESS, SERVER_ADDRESS, PORT = "198.18.0.1", "198.18.0.2", 80
ANSWER_BYTES = 200
_SETTLE_S = 0.1
_DEADLINE_S = 10.0

# Nothing but the answer: no log, no worker beside, and connections stay as long as the client likes.
_NGINX = """
daemon off; master_process off; worker_processes 1; pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 1h;
  client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
  uwsgi_temp_path {folder}; scgi_temp_path {folder};
  server {{ listen {port} backlog=4096; location / {{ return 200 "{answer}"; }} }}
}}
"""


@dataclass(slots=True)
class Node:
    """A namespace, its interface, its CPU, and the processes that serve on it."""

    namespace: str
    interface: str
    cpu: int
    group: Cgroup
    pids: list[int] = field(default_factory=list)

    def run(self, *command: str, text: str | None = None) -> None:
        with within(self.namespace):
            subprocess.run(command, input=text, text=True, check=True, stdout=subprocess.DEVNULL)

    def start(self, *command: str, **options: object) -> subprocess.Popen:
        """A program in this node's namespace and cgroup and on its CPU."""
        pinned = ("taskset", "--cpu-list", str(self.cpu), *command)
        with within(self.namespace):
            return subprocess.Popen(self.group.command(*pinned), **options)

    @contextmanager
    def running(self, *command: str, is_server: bool = True) -> Iterator[subprocess.Popen]:
        """A program on this node until the block is left; the CPU of one that serves counts."""
        process = self.start(*command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if is_server:
            self.pids.append(process.pid)
        try:
            yield process
        finally:
            process.terminate()
            process.wait()


@dataclass(slots=True)
class Site:
    """A client's node, a server's node, and what observes or serves there."""

    client: Node
    server: Node
    observers: list[int] = field(default_factory=list)  # processes that are there to observe

    @contextmanager
    def observed_by(self, pid: int, node: Node) -> Iterator[None]:
        """That process, started elsewhere, belongs to *node* of this site."""
        pin(pid, node.cpu)
        self.observers.append(pid)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)  # so that it can end

    def freeze(self) -> None:
        for pid in self.observers:
            os.kill(pid, signal.SIGSTOP)

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Its observers at work, and over what waking up was."""
        for pid in self.observers:
            os.kill(pid, signal.SIGCONT)
        if self.observers:
            time.sleep(_SETTLE_S)
        try:
            yield
        finally:
            self.freeze()


@contextmanager
def standing_still(pid: int, node: Node) -> Iterator[None]:
    """That process, started elsewhere, does nothing; what it has put into the kernel goes on."""
    pin(pid, node.cpu)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)  # so that it can end


@contextmanager
def a_site(number: int, folder: Path) -> Iterator[Site]:
    """Both nodes with a link between them, and the web server, which answers."""
    own = f"hlb{os.getpid()}-{number}"
    names = f"hlb{number}c", f"hlb{number}s"
    with ExitStack() as stack:
        client, server = (
            Node(
                stack.enter_context(namespace(f"{own}{name[-1]}")),
                name,
                cpu,
                stack.enter_context(a_cgroup(name)),
            )
            for name, cpu in zip(names, (CPUS[0], CPUS[-1]), strict=True)
        )
        ip(
            f"link add {names[0]} netns {client.namespace} type veth"
            f" peer name {names[1]} netns {server.namespace}"
        )
        for node, address in ((client, CLIENT_ADDRESS), (server, SERVER_ADDRESS)):
            ip(f"-n {node.namespace} link set lo up")
            # Without link-local addresses the kernel sends nothing by itself.
            ip(f"-n {node.namespace} link set {node.interface} addrgenmode none up")
            ip(f"-n {node.namespace} addr add {address}/30 dev {node.interface}")
            # As many connections, one after the other, as a client may ask for.
            node.run("sysctl", "-qw", "net.ipv4.ip_local_port_range=1024 65535")
        stack.enter_context(web_server(server, folder))
        yield Site(client, server)


@contextmanager
def web_server(node: Node, folder: Path) -> Iterator[None]:
    own = folder / node.namespace
    own.mkdir()
    text = _NGINX.format(folder=own, port=PORT, answer="x" * ANSWER_BYTES)
    (own / "nginx.conf").write_text(text)
    command = ("nginx", "-p", str(own), "-c", str(own / "nginx.conf"), "-e", str(own / "error.log"))
    with node.running(*command) as process:
        listens(node, PORT, process)
        yield


def listens(node: Node, port: int, process: subprocess.Popen) -> None:
    """Wait until *process* takes connections at that port of its node."""
    deadline = time.monotonic() + _DEADLINE_S
    while True:
        with within(node.namespace), socket.socket() as caller:
            if caller.connect_ex(("127.0.0.1", port)) == 0:
                return
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"{process.args[-1]} did not start")
        time.sleep(0.02)
