# SPDX-License-Identifier: Apache-2.0
"""What socket events tell of owners, and what they do not."""

from pathlib import Path

import numpy as np
import pytest

from agent.owners import OwnerLookup
from agent.rows import Rows
from agent.socketowners import SocketOwners, own_namespace
from agent.tuples import TCP
from schemas.dtype import dtype_from_layout
from schemas.socket import EVENTS, SOCKET_EVENT
from tests.agent.ends import HERE, THERE, addresses
from tests.agent.lookups import INGRESS, command_of, lookup

__all__ = ["lookup"]  # a fixture
SECOND_NS = 1_000_000_000
OURS, OTHERS = 77, 78


@pytest.fixture
def owners(lookup: OwnerLookup) -> SocketOwners:
    return SocketOwners(lookup, namespace=OURS)


def an_event(event: str, local=HERE, remote=THERE, **fields: object) -> Rows:
    row = np.zeros(1, dtype_from_layout(SOCKET_EVENT))
    row["event"], row["protocol"], row["cookie"] = EVENTS[event], TCP, 5
    row["netns_cookie"], row["pid"], row["command"] = OURS, 7, np.void(b"nginx".ljust(16, b"\0"))
    row["local_addr"], row["local_port"] = addresses(local[0])[0], local[1]
    row["remote_addr"], row["remote_port"] = addresses(remote[0])[0], remote[1]
    row["seen_ns"] = row["start_ns"] = 10
    for name, value in fields.items():
        row[name] = np.void(value.ljust(16, b"\0")) if isinstance(value, bytes) else value
    return row


def learn(owners: SocketOwners, *events: Rows) -> None:
    owners.learn(np.concatenate(events))


def test_who_accepts_a_connection_has_it_and_not_who_listens(owners):
    learn(
        owners,
        an_event("open", pid=7, command=b"listens"),
        an_event("accept", pid=8, command=b"works", seen_ns=20),
    )

    assert len(owners.lookup) == 1
    assert command_of(owners.lookup, INGRESS, THERE, HERE) == "works"


def test_a_worker_that_is_told_of_later_takes_the_connection(owners):
    learn(owners, an_event("open", pid=7, command=b"listens"))
    learn(owners, an_event("accept", pid=8, command=b"works", seen_ns=20))

    assert len(owners.lookup) == 1
    assert command_of(owners.lookup, INGRESS, THERE, HERE) == "works"


@pytest.mark.parametrize("ending", ["close", "fail"])
def test_a_socket_that_ended_in_the_interval_is_known_until_its_rows_are_made(owners, ending):
    learn(owners, an_event("open"), an_event(ending, seen_ns=50))

    assert command_of(owners.lookup, INGRESS, THERE, HERE) == "nginx"
    owners.lookup.forget_closed(100 * SECOND_NS)
    assert len(owners.lookup) == 0


def test_a_tuple_that_changes_hands_within_an_interval_is_two_sockets(owners):
    learn(
        owners,
        an_event("open"),
        an_event("close", seen_ns=20),
        an_event("open", cookie=6, pid=8, command=b"curl", start_ns=30, seen_ns=30),
    )

    assert len(owners.lookup) == 2
    assert command_of(owners.lookup, INGRESS, THERE, HERE) == "curl"


@pytest.mark.parametrize(
    ("namespace", "bound", "expected"),
    [
        (OURS, "0.0.0.0", "nginx"),
        (OTHERS, "0.0.0.0", ""),
        (OTHERS, "::", ""),
        # An address of its own is no other namespace's.
        (OTHERS, "10.0.0.1", "nginx"),
    ],
)
def test_a_listener_elsewhere_is_not_taken_for_one_here(owners, namespace, bound, expected):
    nowhere = ("::", 0)
    learn(owners, an_event("listen", (bound, 443), nowhere, netns_cookie=namespace))

    assert command_of(owners.lookup, INGRESS, THERE, HERE) == expected


def test_loopback_of_another_namespace_is_not_ours(owners):
    ends = ("127.0.0.1", 80), ("127.0.0.1", 5000)
    learn(owners, an_event("open", *ends, netns_cookie=OTHERS))

    assert command_of(owners.lookup, INGRESS, ends[1], ends[0]) == ""


def test_what_has_no_port_yet_is_nobody_s(owners):
    learn(owners, an_event("fail", ("10.0.0.1", 0)))

    assert len(owners.lookup) == 0


def test_the_kernel_numbers_this_namespace():
    assert own_namespace() > 0
    assert Path("/proc/self/ns/net").exists()
