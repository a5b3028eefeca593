# SPDX-License-Identifier: Apache-2.0
"""Sockets are reported with the process that has them, and with what it did."""

import pytest

from bench.programs_time import clocked_programs, times_at
from schemas.socket import ENDINGS, ROLES
from tests.lab.cgroups import a_cgroup
from tests.lab.published import text_from_address
from tests.lab.sockets import socket_events
from tests.lab.talkers import NOBODY, talk

pytestmark = pytest.mark.kernel

TCP = 6
UDP = 17
LOOPBACK = ["127.0.0.1", "::1"]


@pytest.fixture(scope="module")
def watched(lab):
    """A cgroup whose sockets are reported, and the events so far."""
    with a_cgroup("watched") as group, socket_events(group) as events:
        yield group, events


@pytest.fixture
def group(watched):
    return watched[0]


@pytest.fixture
def events(watched):
    watched[1].forget()
    return watched[1]


@pytest.mark.parametrize("address", LOOPBACK)
def test_a_connection_names_both_processes(group, events, address):
    said = talk(group, "connection", address)

    (client,) = events.until("open", role=ROLES["client"])
    (server,) = events.until("close", role=ROLES["server"])
    assert (client["pid"], client["remote_port"]) == (said["client"], said["port"])
    assert (server["pid"], server["local_port"]) == (said["worker"], said["port"])
    assert client["local_port"] == server["remote_port"] == said["client_port"]
    assert text_from_address(client["remote_addr"]) == address
    assert text_from_address(server["local_addr"]) == address
    assert client["cgroup_id"] == server["cgroup_id"] == group.number


def test_a_listener_is_reported_with_the_process_that_bound_it(group, events):
    said = talk(group, "connection", "127.0.0.1")

    (listener,) = events.until("listen")
    assert (listener["pid"], listener["local_port"]) == (said["listener"], said["port"])
    assert listener["role"] == ROLES["listener"]
    assert len(events.until("close", cookie=listener["cookie"])) == 1


def test_a_worker_that_accepts_is_told_from_the_process_that_listens(group, events):
    said = talk(group, "connection", "127.0.0.1")

    (opened,) = events.until("open", role=ROLES["server"])
    (accepted,) = events.until("accept")
    assert opened["pid"] == said["listener"] != said["worker"]
    assert accepted["pid"] == said["worker"]
    assert accepted["cookie"] == opened["cookie"]


def test_payload_is_counted_without_syn_and_fin(group, events):
    talk(group, "connection", "127.0.0.1")

    (client,) = events.until("close", role=ROLES["client"])
    (server,) = events.until("close", role=ROLES["server"])
    assert (client["bytes_sent"], client["bytes_received"]) == (100_000, 10)
    assert (server["bytes_sent"], server["bytes_received"]) == (10, 100_000)
    assert client["segments_sent"] >= 3


@pytest.mark.parametrize(
    ("scene", "client", "server"),
    [
        ("client-closes", "local", "remote"),
        ("server-closes", "remote", "local"),
        ("client-resets", "aborted", "reset"),
    ],
)
def test_how_a_connection_ended_is_told_from_either_side(group, events, scene, client, server):
    talk(group, scene, "127.0.0.1")

    (one,) = events.until("close", role=ROLES["client"])
    (other,) = events.until("close", role=ROLES["server"])
    assert (one["close_reason"], other["close_reason"]) == (ENDINGS[client], ENDINGS[server])


def test_an_exited_process_has_closed_its_connections(group, events):
    said = talk(group, "killed-worker", "127.0.0.1")

    (server,) = events.until("close", role=ROLES["server"])
    assert server["pid"] == said["worker"]
    assert bytes(server["command"]).startswith(b"python")


def test_a_refused_connection_is_reported(group, events):
    said = talk(group, "refused", "127.0.0.1")

    (failed,) = events.until("fail")
    assert (failed["pid"], failed["close_reason"]) == (said["client"], ENDINGS["reset"])
    assert failed["remote_port"] == said["port"]
    assert not len(events.of("open"))


def test_the_user_is_that_of_the_process(group, events):
    talk(group, "as-nobody", "127.0.0.1")

    (client,) = events.until("open", role=ROLES["client"])
    assert client["uid"] == NOBODY


@pytest.mark.parametrize("address", LOOPBACK)
def test_udp_sockets_name_their_process_once(group, events, address):
    said = talk(group, "udp", address)

    (server,) = events.until("open", protocol=UDP, role=ROLES["server"])
    (client,) = events.until("open", protocol=UDP, role=ROLES["client"])
    assert (server["pid"], server["local_port"]) == (said["worker"], said["port"])
    assert (client["pid"], client["local_port"]) == (said["client"], said["client_port"])
    assert len(events.until("close", 2, protocol=UDP)) == 2


@pytest.mark.parametrize("address", LOOPBACK)
def test_a_connected_udp_socket_is_known_with_its_peer(group, events, address):
    said = talk(group, "udp-connected", address)

    (closed,) = events.until("close", role=ROLES["client"])
    assert (closed["pid"], closed["remote_port"]) == (said["client"], said["port"])
    assert text_from_address(closed["remote_addr"]) == address


def test_a_udp_socket_that_never_had_a_port_is_not_reported(group, events):
    talk(group, "udp-probe", "127.0.0.1")
    talk(group, "udp", "127.0.0.1")

    events.until("close", 2, protocol=UDP)
    assert len(events.of("close")) == 2


def test_what_other_cgroups_do_is_not_seen(group, events, lab):
    with a_cgroup("watched") as other:
        talk(other, "connection", "127.0.0.1")
    talk(group, "connection", "127.0.0.1")

    events.until("close", role=ROLES["listener"])
    assert set(events.drain()["cgroup_id"]) == {group.number}


def test_tcp_calls_for_a_connection_as_seldom_as_it_can_be_asked_to(group, events):
    reported = events.books.events_total
    with clocked_programs():
        _, before = times_at(events.plan.pins.cgroup_link("hook_tcp"))
        talk(group, "many", "127.0.0.1")
        _, after = times_at(events.plan.pins.cgroup_link("hook_tcp"))

    # Ten listeners with a connection each: both ends of it and the listener begin and end.
    assert events.books.events_total - reported == 10 * (2 * 2 + 2)
    # At each end three questions that come unasked for, its beginning and four changes of state;
    # beside them a SYN, what becomes of the listener, and the answers to two FINs.  Not asked for
    # is the answer to the SYN, which says no more than that the connection is established.
    assert after - before <= 10 * (2 * 8 + 1 + 2 + 2)


def test_a_full_ring_buffer_is_counted(lab):
    with a_cgroup("watched") as group, socket_events(group, ring_bytes=4096) as events:
        talk(group, "many", "127.0.0.1")

        reported = len(events.drain())
        assert events.books.events_total == reported
        # Ten connections of two ends that open and close, and their listener.
        assert reported + events.books.lost_events_total >= 42
        assert events.books.lost_events_total > 0


def test_the_perf_buffer_serves_as_well(lab):
    with a_cgroup("watched") as group, socket_events(group, buffer="perf") as events:
        said = talk(group, "connection", "127.0.0.1")

        (client,) = events.until("open", role=ROLES["client"])
        assert client["pid"] == said["client"]
