# SPDX-License-Identifier: Apache-2.0
"""What observing sockets costs those who have them: over loopback, both ends in one thread.

    python -m bench.sockets [--quick | --long]

The thread moves between two cgroups, to one of which the programs are attached, and makes its
sockets anew there.  Both ends of a connection are observed, so one connection bears the programs of
a client's and of a server's.  Last, what the agent takes to make columns of the events.
"""

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from agent.clock import Anchor
from agent.points import number_points
from agent.sockets import socket_columns
from bench.programs_time import clocked_programs, times_at
from bench.rounds import Samples, cell, interleave, net, ratio, table
from bench.subject import Scale, main
from tests.lab.cgroups import Cgroup, a_cgroup, cgroup2
from tests.lab.sockets import SocketEvents, socket_events

HOME = ("127.0.0.1", 0)
STREAM_BYTES = 1 << 16
ANCHOR = Anchor(jiffies=0, monotonic_ns=0, wall_ns=0, tick_ns=1)
EVENTS = 8192

# The programs that a TCP connection calls.
CALLED = ("hook_connect4", "hook_tcp", "hook_peer4", "hook_release")

Work = Callable[[int], float]


def measure(scale: Scale) -> list[dict]:
    rounds, count = scale.pick(11, 5, 41), scale.pick(300, 300, 1000)
    works: dict[str, tuple[Work, int]] = {
        "TCP connection, opened and closed, both ends": (connections, count),
        "request and answer of 1 byte on a TCP connection": (requests, 5 * count),
        "64 KB sent on a TCP connection": (stream, count),
        "UDP socket, bound and closed": (udp_sockets, 5 * count),
        "UDP datagram, sent to an address and received": (datagrams, 5 * count),
    }
    with a_cgroup("bare") as bare, a_cgroup("seen") as seen, socket_events(seen) as events:
        samples = interleave(
            {
                (name, where is seen): placed(where, work, each, events)
                for name, (work, each) in works.items()
                for where in (bare, seen)
            },
            rounds,
        )
        with inside(seen):
            calls = calls_table(events, count, rounds)
            many_events(events)
            events_ns = [clocked_columns(events) for _ in range(rounds)]
    return [costs(samples, list(works)), calls, columns_table(events_ns)]


def costs(samples: Samples, works: list[str]) -> dict:
    rows = [
        [
            name,
            cell(samples[name, False], 0),
            cell(net(samples, (name, True), (name, False)), 0),
            cell(ratio(samples, (name, True), (name, False)), 3),
        ]
        for name in works
    ]
    return table("Observing sockets, in nanoseconds", ["for each", "bare", "more", "ratio"], rows)


def calls_table(events: SocketEvents, count: int, rounds: int) -> dict:
    """How often each program runs for a connection, and how long, by the kernel's statistics."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in CALLED}
    with clocked_programs():
        for _ in range(rounds):
            events.forget()
            before = {name: times_at(events.plan.pins.cgroup_link(name)) for name in CALLED}
            connections(count)
            for name, (ns, runs) in before.items():
                ns_after, runs_after = times_at(events.plan.pins.cgroup_link(name))
                each = (runs_after - runs) / count
                found[name].append((each, (ns_after - ns) / (runs_after - runs)))
    rows = [
        [name, cell([each for each, _ in one], 1), cell([ns for _, ns in one], 0)]
        for name, one in found.items()
    ]
    note = "Both ends; the kernel's reading of its clock is in it."
    columns = ["program", "runs for a connection", "ns a run"]
    return table("What a TCP connection calls", columns, rows, note)


def columns_table(events_ns: list[float]) -> dict:
    return table(
        f"Columns of {EVENTS:,} socket events",
        ["step", "CPU ns an event"],
        [["columns of records", cell(events_ns, 0)]],
    )


def placed(where: Cgroup, work: Work, count: int, events: SocketEvents) -> Callable[[], float]:
    """Nanoseconds for each of *count*, by a thread in that cgroup."""

    def run() -> float:
        events.forget()
        with inside(where):
            return work(count)

    return run


@contextmanager
def inside(group: Cgroup) -> Iterator[None]:
    enter(group.directory)
    try:
        yield
    finally:
        enter(cgroup2())


def enter(directory: Path) -> None:
    (directory / "cgroup.procs").write_text(str(os.getpid()))


def connections(count: int) -> float:
    with socket.create_server(HOME) as server:
        address = server.getsockname()
        began = time.perf_counter_ns()
        for _ in range(count):
            client = socket.create_connection(address)
            accepted, _ = server.accept()
            client.close()
            accepted.close()
        return (time.perf_counter_ns() - began) / count


@contextmanager
def connection() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(HOME) as server:
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
    with client, accepted:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield client, accepted


def requests(count: int) -> float:
    with connection() as (client, server):
        began = time.perf_counter_ns()
        for _ in range(count):
            client.send(b"?")
            server.recv(1)
            server.send(b"!")
            client.recv(1)
        return (time.perf_counter_ns() - began) / count


def stream(count: int) -> float:
    chunk = bytes(STREAM_BYTES)
    with connection() as (client, server):
        began = time.perf_counter_ns()
        for _ in range(count):
            client.sendall(chunk)
            left = STREAM_BYTES
            while left:
                left -= len(server.recv(left))
        return (time.perf_counter_ns() - began) / count


def udp_sockets(count: int) -> float:
    began = time.perf_counter_ns()
    for _ in range(count):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(HOME)
    return (time.perf_counter_ns() - began) / count


def datagrams(count: int) -> float:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        server.bind(HOME)
        address = server.getsockname()
        began = time.perf_counter_ns()
        for _ in range(count):
            client.sendto(b"?", address)
            server.recvfrom(1)
        return (time.perf_counter_ns() - began) / count


def many_events(events: SocketEvents) -> None:
    events.forget()
    while len(events.drain()) < EVENTS:
        connections(100)


def clocked_columns(events: SocketEvents) -> float:
    rows = events.rows[:EVENTS]
    began = time.thread_time_ns()
    columns = socket_columns(None, rows, POINTS, ANCHOR)
    took = time.thread_time_ns() - began
    assert np.asarray(columns["pid"]).all()
    return took / EVENTS


POINTS = number_points([])

if __name__ == "__main__":
    main(measure, __doc__)
