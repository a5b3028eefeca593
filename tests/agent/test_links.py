# SPDX-License-Identifier: Apache-2.0
"""What the kernel says of its links, beside what iproute2 makes of it."""

import json
import socket
from ipaddress import IPv6Address, ip_address

import pytest

from agent.links import LinkSocket, local_addresses
from tests.lab.foreign import foreign_xdp_program
from tests.lab.links import HERE
from tests.lab.tun import tun

pytestmark = pytest.mark.kernel


def iproute2(name: str) -> dict:
    (link,) = json.loads(HERE.run("ip", "-json", "-details", "-statistics", "link", "show", name))
    return link


def test_an_interface_is_told_as_iproute2_tells_it(wire):
    with LinkSocket() as links, foreign_xdp_program(wire.near):
        told = links.one(wire.near.ifindex)
        expected = iproute2(wire.near.name)

        assert told in links.all()
    assert (told.name, told.ifindex, told.mac, told.mtu, told.kind) == (
        expected["ifname"],
        expected["ifindex"],
        expected["address"],
        expected["mtu"],
        expected["linkinfo"]["info_kind"],
    )
    assert told.xdp_programs == (expected["xdp"]["prog"]["id"],)
    assert told.counters.egress_bytes == expected["stats64"]["tx"]["bytes"]
    assert (told.is_up, told.link_bytes, told.is_hardware) == (True, 14, False)


def test_a_tunnel_has_no_link_header_and_no_address(lab):
    with tun() as device, LinkSocket() as links:
        told = links.one(socket.if_nametoindex(device.name))

    assert (told.link_bytes, told.mac, told.kind) == (0, "", "tun")


def test_addresses_are_told_as_iproute2_tells_them(dual_wire):
    far = dual_wire.far.namespace
    with far.entered():
        told = {IPv6Address(bytes(one)) for one in local_addresses()}
    expected = {
        ip_address(one["local"])
        for link in json.loads(far.run("ip", "-json", "address", "show"))
        for one in link["addr_info"]
    }

    assert {one.ipv4_mapped or one for one in told} == expected
    assert {ip_address(dual_wire.far.ipv4), ip_address(dual_wire.far.ipv6)} <= expected


def test_an_index_that_no_interface_has_is_none():
    with LinkSocket() as links:
        assert links.one(2_000_000_000) is None


def test_a_change_is_told_by_the_index_and_a_going_with_last_words(wire):
    index = wire.near.ifindex
    with LinkSocket() as links:
        HERE.run("ip", "link", "set", wire.near.name, "mtu", "1400")
        after_change = links.changed()
        HERE.run("ip", "link", "del", wire.near.name)
        after_going = links.changed()

    assert after_change[index] is None
    assert (after_going[index].name, after_going[index].mtu) == (wire.near.name, 1400)


def test_more_changes_than_there_is_room_for_are_told_as_such_and_once(wire):
    with LinkSocket() as links:
        links._changes.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        for number in range(40):
            HERE.run("ip", "link", "set", wire.near.name, "mtu", str(1400 + number))

        assert links.changed() is None
        assert links.changed() == {}
