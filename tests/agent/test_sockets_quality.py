# SPDX-License-Identifier: Apache-2.0
"""What rows say of a connection's quality is what the kernel says itself, by ss and nstat."""

import ctypes
import os
import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from agent.socket_hooks import SOCKETS
from schemas.socket import ENDINGS, ROLES
from tests.lab.cgroups import Cgroup, a_cgroup
from tests.lab.links import Namespace
from tests.lab.relay import FAR, relay
from tests.lab.sockets import socket_events
from tests.lab.talkers import talk, talking
from tests.lab.waiting import wait_until

pytestmark = pytest.mark.kernel

DELAY_S = 0.03
ATTACH_TYPES = SOCKETS.attach_types.values()


@pytest.fixture(scope="module")
def group(lab):
    with a_cgroup("watched") as made:
        yield made


@pytest.fixture(scope="module")
def path(lab):
    """A path of 30 ms each way."""
    with relay(delay_s=DELAY_S) as made:
        yield made


@pytest.fixture(scope="module")
def all_events(group):
    with socket_events(group, ticks=25) as made:
        yield made


@pytest.fixture
def events(all_events):
    """The events from here on."""
    all_events.forget()
    return all_events


def nstat(namespace: Namespace, name: str) -> int:
    lines = namespace.run("nstat", "-asz", name).splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def ss(namespace: Namespace, port: int) -> dict[str, str]:
    """What `ss -ti` says of the connection with that local port, once it says the same twice."""
    said: list[str] = []

    def look() -> str | None:
        text = namespace.run("ss", "-tinH", "sport", "=", f":{port}")
        # How long ago something was sent or received grows while nothing is.
        said.append(re.sub(r"last\w+:\d+", "", text))
        is_steady = len(said) > 5 and said[-1] == said[-6]
        return said[-1] if is_steady and "bytes_acked" in said[-1] else None

    text = wait_until(look, f"port {port} to fall silent")
    return dict(re.findall(r"(\w+):(\S+)", text))


def test_rows_say_what_ss_says(group, events, path):
    with (
        talking(group, "serve", FAR, 1, namespace=path.far) as (served, _),
        talking(group, "hold", FAR, served["port"], 200_000, namespace=path.near) as (held, _),
    ):
        said = ss(path.near, held["port"])

    (row,) = events.until("close", local_port=held["port"], role=ROLES["client"])
    # The SYN counts as a byte there.
    assert row["bytes_sent"] == int(said["bytes_acked"]) - 1 == 200_000
    assert row["bytes_received"] == 0
    assert row["segments_sent"] == int(said["segs_out"])
    assert row["segments_received"] == int(said["segs_in"])
    assert row["cwnd"] == int(said["cwnd"])
    assert row["srtt_us"] == pytest.approx(float(said["rtt"].partition("/")[0]) * 1000, abs=1)
    assert row["min_rtt_us"] == pytest.approx(float(said["minrtt"]) * 1000, abs=1)
    assert row["retransmits"] == int(said.get("retrans", "0/0").partition("/")[2])
    assert row["close_reason"] == ENDINGS["aborted"]


def test_delay_shows_in_handshake_and_round_trip(group, events, path):
    with talking(group, "serve", FAR, 1, namespace=path.far) as (served, _):
        talk(group, "ask", FAR, served["port"], 1, 10, namespace=path.near)

        (client,) = events.until("close", role=ROLES["client"])
        (server,) = events.until("close", remote_port=client["local_port"])
    for row in (client, server):
        for seconds in (row["handshake_ns"] / 1e9, row["srtt_us"] / 1e6, row["min_rtt_us"] / 1e6):
            assert 2 * DELAY_S <= seconds < 2 * DELAY_S + 0.5


def test_a_long_connection_is_reported_while_it_lasts(group, events, path):
    with talking(group, "serve", FAR, 1, namespace=path.far) as (served, _):
        talk(group, "ask", FAR, served["port"], 1, 2_000_000, namespace=path.near)

    updates = events.of("update", role=ROLES["client"])
    (closed,) = events.until("close", role=ROLES["client"])
    assert len(updates) >= 2
    assert (updates["bytes_sent"][1:] > updates["bytes_sent"][:-1]).all()
    assert (updates["seen_ns"][1:] - updates["seen_ns"][:-1] >= 90_000_000).all()
    assert closed["bytes_sent"] == 2_000_000 > updates["bytes_sent"][-1]


def test_retransmits_are_those_that_the_kernel_counts(group, events):
    with relay(delay_s=0.002, drops=lambda number: number % 40 == 7) as path:
        with talking(group, "serve", FAR, 2, namespace=path.far) as (served, _):
            talk(group, "ask", FAR, served["port"], 5, 300_000, namespace=path.near)

        closed = events.until("close", 5, role=ROLES["client"])
        assert path.dropped > 10
        assert closed["retransmits"].sum() == nstat(path.near, "TcpRetransSegs") >= path.dropped
        assert (closed["bytes_sent"] == 300_000).all()
        assert nstat(path.near, "TcpActiveOpens") == len(closed)
        assert nstat(path.far, "TcpPassiveOpens") == len(events.of("open", role=ROLES["server"]))


def test_a_peer_that_falls_silent_is_told_from_one_that_resets(group, events):
    with relay() as path, talking(group, "serve", FAR, 1, namespace=path.far) as (served, _):
        with talking(group, "give-up", FAR, served["port"], namespace=path.near) as (_, client):
            path.is_dark = True
            client.stdin.write("go on\n")
            client.stdin.flush()
            (closed,) = events.until("close", role=ROLES["client"])
        talk(group, "connect-in-vain", FAR, namespace=path.near)
        (failed,) = events.until("fail")

    assert closed["close_reason"] == failed["close_reason"] == ENDINGS["timeout"]
    assert closed["retransmits"] > 0


@pytest.mark.parametrize("ipv6", [False, True])
def test_two_thousand_connections_know_their_processes(group, events, dual_wire, ipv6):
    count = 250 if ipv6 else 500
    address = dual_wire.near.ipv6 if ipv6 else dual_wire.near.ipv4
    far = dual_wire.far.namespace
    with (
        talking(group, "serve", address, 4) as (served, _),
        ThreadPoolExecutor(4) as pool,
    ):
        asked = list(
            pool.map(
                lambda _: talk(group, "ask", address, served["port"], count, 1000, namespace=far),
                range(4),
            )
        )
        clients = {int(port): one["client"] for one in asked for port in one["workers"]}
        workers = {int(port): pid for one in asked for port, pid in one["workers"].items()}
        ours = events.until("close", 4 * count, role=ROLES["client"])
        theirs = events.until("close", 4 * count, role=ROLES["server"])

        assert len(clients) == 4 * count
        assert dict(zip(ours["local_port"].tolist(), ours["pid"].tolist(), strict=True)) == clients
        assert (
            dict(zip(theirs["remote_port"].tolist(), theirs["pid"].tolist(), strict=True))
            == workers
        )
        assert set(ours["bytes_sent"]) == set(theirs["bytes_received"]) == {1000}
        assert set(ours["bytes_received"]) == set(theirs["bytes_sent"]) == {4}
        assert len(events.of("open")) == 8 * count
        assert events.books.lost_events_total == 0


def test_nothing_stays_attached(lab):
    with a_cgroup("left") as group:
        with socket_events(group) as events:
            assert {attached_to(group, kind) for kind in ATTACH_TYPES} == {1}

        assert not events.plan.pins.root.exists()
        wait_until(
            lambda: {attached_to(group, kind) for kind in ATTACH_TYPES} == {0},
            "the programs to be detached",
        )


def attached_to(group: Cgroup, attach_type: int) -> int:
    """How many programs of one kind the kernel says a cgroup has."""
    libbpf = ctypes.CDLL("libbpf.so.1", use_errno=True)
    ids, count = (ctypes.c_uint32 * 8)(), ctypes.c_uint32(8)
    fd = os.open(group.directory, os.O_RDONLY)
    try:
        assert libbpf.bpf_prog_query(fd, attach_type, 0, None, ids, ctypes.byref(count)) == 0
    finally:
        os.close(fd)
    return count.value
