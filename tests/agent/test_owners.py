# SPDX-License-Identifier: Apache-2.0
"""Who a flow belongs to: by direction, mirrored, listening, and as a real agent says it."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path

import numpy as np
import pytest

from agent.cgroups import Cgroups
from agent.hierarchy import Hierarchies
from agent.owners import OwnerLookup
from agent.processes import find_holders
from agent.sockdiag import list_sockets
from agent.tuples import TCP, UDP, keys_of
from schemas.fields import DIRECTIONS, OWNER
from schemas.wire import Names
from tests.lab.agents import agent
from tests.lab.cgroups import Cgroup, a_cgroup
from tests.lab.published import Published, read_published
from tests.lab.waiting import wait_until

INGRESS, EGRESS = DIRECTIONS["ingress"], DIRECTIONS["egress"]
ICMP = 1
NGINX = (7, 33, b"nginx", 4001)
CURL = (8, 1000, b"curl", 4002)
End = tuple[str, int]
HERE: End = ("10.0.0.1", 443)
THERE: End = ("198.18.0.9", 50000)

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


def address(text: str) -> bytes:
    one = ip_address(text)
    return one.packed if one.version == 6 else bytes(10) + b"\xff\xff" + one.packed


def addresses(*texts: str) -> np.ndarray:
    return np.frombuffer(b"".join(map(address, texts)), "V16")


def key(local: End, remote: End = ("::", 0), protocol: int = TCP) -> np.ndarray:
    return keys_of(
        local_addr=addresses(local[0]),
        local_port=np.array([local[1]], np.uint16),
        remote_addr=addresses(remote[0]),
        remote_port=np.array([remote[1]], np.uint16),
        protocol=np.array([protocol], np.uint8),
    )


@pytest.fixture
def lookup(tmp_path) -> OwnerLookup:
    """It knows the units of two processes, and that 10.0.0.1 is here."""
    cgroups = Cgroups(Hierarchies(tmp_path, has_v1=False), proc=tmp_path)
    cgroups.learn({4001: "/system.slice/nginx.service", 4002: "/user.slice/session-3.scope"}, 0.0)
    found = OwnerLookup(cgroups)
    found.set_local_addresses(addresses("10.0.0.1", "2001:db8::1"))
    return found


def learn(lookup: OwnerLookup, who: tuple, *where: object, at: int = 0, **more: int) -> None:
    pid, uid, command, cgroup = who
    owners = lookup.owners(
        pid=np.array([pid], np.uint32),
        uid=np.array([uid], np.uint32),
        command=np.array([command], "S16"),
        cgroup_id=np.array([cgroup], np.uint64),
        now=0.0,
    )
    lookup.open(key(*where, **more), np.array([at], np.int64), owners)


def row_of(lookup: OwnerLookup, direction: int, src: End, dst: End, protocol: int = TCP) -> dict:
    flows = {
        "time": np.array([1_000_100]),
        "end": np.array([1_000_200]),
        "direction": np.array([direction], np.uint8),
        "src_addr": addresses(src[0]),
        "dst_addr": addresses(dst[0]),
        "src_port": np.array([src[1]], np.uint16),
        "dst_port": np.array([dst[1]], np.uint16),
        "protocol": np.array([protocol], np.uint8),
    }
    columns = lookup.flow_columns(flows, offset_ns=1_000_000)
    return {
        name: one.categories[one.codes[0]] if isinstance(one, Names) else int(one[0])
        for name, one in columns.items()
    }


def command_of(lookup: OwnerLookup, direction: int, src: End, dst: End, **more: int) -> str:
    return row_of(lookup, direction, src, dst, **more)["command"]


def test_a_row_says_process_user_command_cgroup_and_unit(lookup):
    learn(lookup, NGINX, HERE, THERE)
    row = row_of(lookup, INGRESS, THERE, HERE)

    assert list(row) == [field.name for field in OWNER]
    assert list(row.values()) == [
        *(7, 33, "nginx", "/system.slice/nginx.service", "nginx.service", ""),
    ]


def test_a_row_of_nobody_says_nothing(lookup):
    learn(lookup, NGINX, HERE, THERE)

    assert list(row_of(lookup, INGRESS, THERE, ("10.0.0.1", 444)).values()) == [
        0,
        0,
        "",
        "",
        "",
        "",
    ]
    assert command_of(lookup, INGRESS, THERE, HERE, protocol=UDP) == ""
    assert command_of(lookup, INGRESS, THERE, HERE, protocol=ICMP) == ""


def test_the_local_end_is_the_source_of_what_goes_out_and_the_destination_of_what_comes_in(lookup):
    # On loopback both ends of a connection are here.
    learn(lookup, NGINX, HERE, THERE)
    learn(lookup, CURL, THERE, HERE)

    assert command_of(lookup, EGRESS, THERE, HERE) == "curl"
    assert command_of(lookup, INGRESS, THERE, HERE) == "nginx"
    assert command_of(lookup, EGRESS, HERE, THERE) == "nginx"
    assert command_of(lookup, INGRESS, HERE, THERE) == "curl"


def test_a_container_is_found_at_the_host_s_end_of_its_link_where_all_is_mirrored(lookup):
    learn(lookup, CURL, ("172.17.0.2", 40000), THERE)

    assert command_of(lookup, INGRESS, ("172.17.0.2", 40000), THERE) == "curl"
    assert command_of(lookup, EGRESS, THERE, ("172.17.0.2", 40000)) == "curl"


def test_what_has_no_connection_belongs_to_the_socket_that_is_bound_there(lookup):
    learn(lookup, NGINX, HERE, protocol=UDP)

    assert command_of(lookup, INGRESS, THERE, HERE, protocol=UDP) == "nginx"
    assert command_of(lookup, EGRESS, HERE, THERE, protocol=UDP) == "nginx"
    assert command_of(lookup, INGRESS, THERE, HERE, protocol=TCP) == ""


@pytest.mark.parametrize("anywhere", ["0.0.0.0", "::"])
def test_a_socket_at_any_address_has_those_of_this_namespace_only(lookup, anywhere):
    learn(lookup, NGINX, (anywhere, 443))

    assert command_of(lookup, INGRESS, THERE, HERE) == "nginx"
    assert command_of(lookup, INGRESS, THERE, ("127.0.0.53", 443)) == "nginx"
    # Somebody else's traffic to a web server is not that of ours.
    assert command_of(lookup, INGRESS, THERE, ("198.18.0.1", 443)) == ""
    assert command_of(lookup, EGRESS, ("10.0.0.1", 40000), ("198.18.0.1", 443)) == ""


def test_ipv6_is_not_for_a_socket_at_ipv4_s_any_address(lookup):
    learn(lookup, NGINX, ("0.0.0.0", 443))
    learn(lookup, CURL, ("::", 80))

    assert command_of(lookup, INGRESS, ("2001:db8::9", 5), ("2001:db8::1", 443)) == ""
    assert command_of(lookup, INGRESS, ("2001:db8::9", 5), ("2001:db8::1", 80)) == "curl"


def test_a_connection_goes_before_who_listens(lookup):
    learn(lookup, NGINX, ("::", 443))
    learn(lookup, CURL, HERE, THERE)

    assert command_of(lookup, INGRESS, THERE, HERE) == "curl"


def test_a_bound_socket_that_has_closed_is_nobody_s(lookup):
    learn(lookup, NGINX, HERE, protocol=UDP)
    lookup.close(key(HERE, protocol=UDP), np.array([50]))
    lookup.forget_closed(5_000_000_000)

    assert len(lookup) == 0
    assert command_of(lookup, INGRESS, THERE, HERE, protocol=UDP) == ""


def test_a_command_need_be_no_text(lookup):
    learn(lookup, (7, 0, b"\xff\n~15_bytes_long", 0), HERE, THERE)

    assert command_of(lookup, INGRESS, THERE, HERE) == "\\xff\n~15_bytes_long"


def listed_keys() -> dict[bytes, int]:
    found = list_sockets()
    return dict(zip([one.tobytes() for one in found.keys], found.inode.tolist(), strict=True))


@pytest.mark.parametrize(
    ("family", "home"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
)
def test_every_socket_of_this_namespace_is_listed(family, home):
    with ExitStack() as stack:
        server, datagrams = (
            stack.enter_context(socket.socket(family, kind))
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)
        )
        server.bind((home, 0))
        server.listen()
        datagrams.bind(("", 0))
        client = stack.enter_context(socket.create_connection(server.getsockname()[:2]))
        accepted = stack.enter_context(server.accept()[0])
        ends = client.getsockname()[:2], server.getsockname()[:2]
        anywhere = "0.0.0.0" if family == socket.AF_INET else "::"
        expected = {
            key(ends[1]).tobytes(): server,
            key(*ends).tobytes(): client,
            key(*reversed(ends)).tobytes(): accepted,
            key((anywhere, datagrams.getsockname()[1]), protocol=UDP).tobytes(): datagrams,
        }
        inodes = {one: os.fstat(sock.fileno()).st_ino for one, sock in expected.items()}
        found = listed_keys()

        assert {one: found.get(one) for one in inodes} == inodes


def test_open_files_tell_which_process_has_a_socket():
    with socket.socket() as ours:
        inode = np.array([os.fstat(ours.fileno()).st_ino, 1], np.uint64)
        holders = find_holders(time.monotonic() + 60)
        pid, command = holders.of(inode)

        assert pid.tolist() == [os.getpid(), 0]
        comm = Path("/proc/self/comm").read_bytes().strip()
        assert command.tolist() == [comm, b""]
        assert holders.is_whole


def test_looking_at_processes_ends_at_its_deadline():
    holders = find_holders(time.monotonic() - 1)

    assert not holders.is_whole
    assert holders.of(np.array([1], np.uint64))[0].tolist() == [0]


@pytest.mark.kernel
@pytest.mark.parametrize(
    "less",
    [("--reuid=65534", "--clear-groups"), ("--inh-caps=-all", "--bounding-set=-all")],
    ids=str,
)
def test_somebody_without_the_right_to_look_knows_how_many_are_hidden(less):
    program = (
        "import time; from agent.processes import find_holders;"
        "print(find_holders(time.monotonic() + 60).hidden)"
    )
    done = subprocess.run(
        ["setpriv", *less, sys.executable, "-c", program],
        check=True,
        capture_output=True,
        text=True,
    )

    assert int(done.stdout) > 0


def owners_at(published: Published, port: int) -> dict[tuple[int, int], set[tuple]]:
    """By protocol and direction, who the rows with that port say it was."""
    names = ("protocol", "direction", "src_port", "dst_port", *(field.name for field in OWNER))
    columns = [published.column("flow", name).tolist() for name in names]
    found: dict[tuple[int, int], set[tuple]] = {}
    for protocol, direction, src_port, dst_port, *owner in zip(*columns, strict=True):
        if port in (src_port, dst_port):
            found.setdefault((protocol, direction), set()).add(tuple(owner))
    return found


def talk(client: socket.socket, datagrams: socket.socket, server: End) -> None:
    client.sendall(b"x")
    datagrams.sendto(b"x", server)
    assert client.recv(100) == b"tcp"
    assert datagrams.recv(100) == b"udp"


@pytest.mark.kernel
@pytest.mark.services
@pytest.mark.parametrize("is_asked", [True, False], ids=["owners", "none"])
def test_an_agent_knows_who_has_sockets_that_are_older_than_it(kafka, wire, is_asked):
    with ExitStack() as stack:
        web = stack.enter_context(a_cgroup("web.service"))
        options = {"stdout": subprocess.PIPE, "text": True}
        server = stack.enter_context(
            web.running(sys.executable, "-c", SERVER, wire.near.ipv4, **options)
        )
        stack.callback(server.stdout.close)
        where = wire.near.ipv4, int(server.stdout.readline())
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


@pytest.mark.kernel
@pytest.mark.services
def test_on_loopback_each_direction_has_the_process_at_its_end(kafka, lab):
    with ExitStack() as stack:
        container = stack.enter_context(a_cgroup(f"docker-{'ab' * 32}.scope"))
        options = {"stdout": subprocess.PIPE, "text": True}
        server = stack.enter_context(
            container.running(sys.executable, "-c", SERVER, "127.0.0.1", **options)
        )
        stack.callback(server.stdout.close)
        where = "127.0.0.1", int(server.stdout.readline())
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


@pytest.mark.kernel
@pytest.mark.services
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


@pytest.mark.kernel
@pytest.mark.services
@pytest.mark.parametrize("is_held_up", [False, True], ids=["at once", "once all is over"])
def test_a_connection_that_was_short_is_known_by_its_events(kafka, wire, is_held_up):
    with ExitStack() as stack:
        web = stack.enter_context(a_cgroup("web.service"))
        observed = stack.enter_context(agent(*watching(wire.near.name, web), kafka=kafka))
        if is_held_up:
            os.kill(observed.pid, signal.SIGSTOP)
        options = {"stdout": subprocess.PIPE, "text": True}
        server = stack.enter_context(
            web.running(sys.executable, "-c", SERVER, wire.near.ipv4, **options)
        )
        stack.callback(server.stdout.close)
        where = wire.near.ipv4, int(server.stdout.readline())
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


@pytest.mark.kernel
@pytest.mark.services
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
