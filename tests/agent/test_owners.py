# SPDX-License-Identifier: Apache-2.0
"""Who a flow belongs to: by direction, mirrored, listening, bound."""

import numpy as np
import pytest

from agent.owners import OwnerLookup
from agent.tuples import TCP, UDP
from schemas.fields import OWNER
from tests.agent.ends import HERE, THERE, key
from tests.agent.lookups import EGRESS, INGRESS, command_of, lookup, row_of

__all__ = ["lookup"]  # a fixture
ICMP = 1
NGINX = (7, 33, b"nginx", 4001)
CURL = (8, 1000, b"curl", 4002)


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


def test_a_row_says_process_user_command_cgroup_and_unit(lookup):
    learn(lookup, NGINX, HERE, THERE)
    row = row_of(lookup, INGRESS, THERE, HERE)

    assert list(row) == [field.name for field in OWNER]
    assert list(row.values()) == [
        *(7, 33, "nginx", "/system.slice/nginx.service", "nginx.service", ""),
    ]


def test_a_row_of_nobody_says_nothing(lookup):
    learn(lookup, NGINX, HERE, THERE)

    nobody = row_of(lookup, INGRESS, THERE, ("10.0.0.1", 444))
    assert list(nobody.values()) == [0, 0, "", "", "", ""]
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
