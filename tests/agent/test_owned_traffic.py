# SPDX-License-Identifier: Apache-2.0
"""Real traffic of real processes: whose a real agent says that it was."""

import os
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from agent.tuples import TCP, UDP
from schemas.fields import DIRECTIONS, OWNER
from tests.agent.ends import End
from tests.lab.agents import agent
from tests.lab.cgroups import Cgroup, a_cgroup
from tests.lab.published import Published, read_published
from tests.lab.waiting import wait_until

pytestmark = [pytest.mark.kernel, pytest.mark.services]

INGRESS, EGRESS = DIRECTIONS["ingress"], DIRECTIONS["egress"]

# It listens where it is told, says at which port, and answers whatever comes.
SERVER = """
import socket, sys
listener = socket.create_server((sys.argv[1], 0))
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.bind(("0.0.0.0", listener.getsockname()[1]))
print(listener.getsockname()[1], flush=True)
connection, _ = listener.accept()
while connection.recv(100):
    connection.sendall(b"tcp")
    datagrams.sendto(b"udp", datagrams.recvfrom(100)[1])
"""


def owners_at(published: Published, port: int) -> dict[tuple[int, int], set[tuple]]:
    """By protocol and direction, who the rows with that port say it was."""
    names = ("protocol", "direction", "src_port", "dst_port", *(field.name for field in OWNER))
    columns = [published.column("flow", name).tolist() for name in names]
    found: dict[tuple[int, int], set[tuple]] = {}
    for protocol, direction, src_port, dst_port, *owner in zip(*columns, strict=True):
        if port in (src_port, dst_port):
            found.setdefault((protocol, direction), set()).add(tuple(owner))
    return found


def answering(stack: ExitStack, group: Cgroup, address: str) -> tuple[subprocess.Popen, End]:
    """A server in a cgroup until *stack* is left, and where it listens."""
    options = {"stdout": subprocess.PIPE, "text": True}
    server = stack.enter_context(group.running(sys.executable, "-c", SERVER, address, **options))
    stack.callback(server.stdout.close)
    return server, (address, int(server.stdout.readline()))


def talk(client: socket.socket, datagrams: socket.socket, server: End) -> None:
    client.sendall(b"x")
    datagrams.sendto(b"x", server)
    assert client.recv(100) == b"tcp"
    assert datagrams.recv(100) == b"udp"


@pytest.mark.parametrize("is_asked", [True, False], ids=["owners", "none"])
def test_an_agent_knows_who_has_sockets_that_are_older_than_it(kafka, wire, is_asked):
    with ExitStack() as stack:
        web = stack.enter_context(a_cgroup("web.service"))
        server, where = answering(stack, web, wire.near.ipv4)
        with wire.far.namespace.entered():
            client = stack.enter_context(socket.create_connection(where))
            datagrams = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        for one in (client, datagrams):
            one.settimeout(20)
        flags = ("--interface", wire.near.name, "--owners", "yes" if is_asked else "no")
        observed = stack.enter_context(agent(*flags, kafka=kafka))
        talk(client, datagrams, where)
        assert observed.stop() == 0
        command = Path(f"/proc/{server.pid}/comm").read_text().strip()
        owner = (server.pid, 0, command, web.path, "web.service", "")
    expected = {owner} if is_asked else {(0, 0, "", "", "", "")}

    assert owners_at(read_published(kafka, observed.name), where[1]) == {
        (protocol, direction): expected
        for protocol in (TCP, UDP)
        for direction in (INGRESS, EGRESS)
    }


def test_on_loopback_each_direction_has_the_process_at_its_end(kafka, lab):
    with ExitStack() as stack:
        container = stack.enter_context(a_cgroup(f"docker-{'ab' * 32}.scope"))
        server, where = answering(stack, container, "127.0.0.1")
        client = stack.enter_context(socket.create_connection(where))
        datagrams = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        for one in (client, datagrams):
            one.settimeout(20)
        observed = stack.enter_context(agent("--interface", "lo", kafka=kafka))
        talk(client, datagrams, where)
        assert observed.stop() == 0
    published = read_published(kafka, observed.name)
    names = ("protocol", "direction", "dst_port", "pid", "container")
    columns = [published.column("flow", name).tolist() for name in names]
    said = {row[:2]: row[3:] for row in zip(*columns, strict=True) if row[2] == where[1]}

    assert said[TCP, EGRESS] == (os.getpid(), "")
    assert said[TCP, INGRESS] == (server.pid, "ab" * 32)
    assert said[UDP, INGRESS] == (server.pid, "ab" * 32)


def test_a_socket_made_later_is_learned_without_any_event(kafka, wire):
    flags = ("--interface", wire.near.name, "--interval", "0.5")
    with ExitStack() as stack:
        observed = stack.enter_context(agent(*flags, kafka=kafka))
        listener = stack.enter_context(socket.create_server((wire.near.ipv4, 0)))
        with wire.far.namespace.entered():
            client = stack.enter_context(socket.create_connection(listener.getsockname()))
        server = stack.enter_context(listener.accept()[0])
        port = listener.getsockname()[1]

        def is_known() -> bool:
            client.sendall(b"x")
            server.recv(1)
            owners = owners_at(read_published(kafka, observed.name), port)
            return os.getpid() in {owner[0] for one in owners.values() for owner in one}

        wait_until(is_known, "a row that knows its process", deadline_s=40)
        assert observed.stop() == 0


def watching(interface: str, group: Cgroup) -> list[str]:
    return ["--interface", interface, "--sockets", "yes", "--cgroup", str(group.directory)]


@pytest.mark.parametrize("is_held_up", [False, True], ids=["at once", "once all is over"])
def test_a_connection_that_was_short_is_known_by_its_events(kafka, wire, is_held_up):
    with ExitStack() as stack:
        web = stack.enter_context(a_cgroup("web.service"))
        observed = stack.enter_context(agent(*watching(wire.near.name, web), kafka=kafka))
        if is_held_up:
            os.kill(observed.pid, signal.SIGSTOP)
        server, where = answering(stack, web, wire.near.ipv4)
        with wire.far.namespace.entered():
            client = socket.create_connection(where)
            datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with client, datagrams:
            talk(client, datagrams, where)
        server.wait(20)
        os.kill(observed.pid, signal.SIGCONT)
        assert observed.stop() == 0
    published = read_published(kafka, observed.name)

    owners = owners_at(published, where[1])
    pids = {place: {owner[0] for owner in found} for place, found in owners.items()}
    assert pids == {
        (protocol, direction): {server.pid}
        for protocol in (TCP, UDP)
        for direction in (INGRESS, EGRESS)
    }
    assert set(published.column("socket", "unit").tolist()) == {"web.service"}


def test_a_process_in_another_namespace_is_known_at_the_host_s_end_of_its_link(kafka, wire):
    id_ = "cd" * 32
    program = f"import socket; print(socket.socket().connect_ex(({wire.near.ipv4!r}, 9))); input()"
    with a_cgroup(f"docker-{id_}.scope") as container:
        with agent(*watching(wire.near.name, container), kafka=kafka) as observed:
            # Nobody listens there, so only the far end has a socket.
            command = wire.far.namespace.command(sys.executable, "-uc", program)
            # It lives until its row is made, so that what it belongs to can be asked for.
            with subprocess.Popen(
                container.command(*command), stdin=subprocess.PIPE, stdout=subprocess.PIPE
            ) as process:
                process.stdout.readline()
                assert observed.stop() == 0
                process.communicate(b"\n", timeout=60)
        published = read_published(kafka, observed.name)
    owners = owners_at(published, 9)
    (found,) = owners[TCP, INGRESS]

    assert owners[TCP, EGRESS] == {found}
    assert found[0] > 0
    assert found[4:] == (f"docker-{id_}.scope", id_)
    assert set(published.column("socket", "container").tolist()) == {id_}
