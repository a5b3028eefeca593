# SPDX-License-Identifier: Apache-2.0
"""Every column of every shape of flow, from the bytes that the kernel wrote."""

from ipaddress import IPv6Address

import numpy as np
import pytest

from agent.clock import Anchor
from agent.columns import flow_columns, packet_columns, total_columns
from agent.flowcache import Counted
from agent.interfaces import Interface
from agent.points import number_points
from schemas.dtype import dtype_from_layout
from schemas.fields import TUNNELS
from schemas.flow import CONTEXT_LANE, FLOW, FLOW_CONTEXT, FLOW_SLOT, LANE, SHAPES
from schemas.packet import HEADER_BYTES, PACKET, PACKET_EVENT

WALL_NS = 1_800_000_000_000_000_000
ANCHOR = Anchor(jiffies=1000, monotonic_ns=10_000, wall_ns=WALL_NS, tick_ns=4_000_000)
INTERFACES = [
    Interface("eth0", 4, is_up=True, link_bytes=14, is_hardware=True),
    Interface("tun0", 9, is_up=True, link_bytes=0, is_hardware=False),
]
POINTS = number_points(INTERFACES)
INGRESS, EGRESS = 1, 2
CONTEXTS = np.zeros(1 << 17, dtype_from_layout(FLOW_CONTEXT))


NOT_AROUND = {
    "inner_vlan": 0,
    "icmp_id": 0,
    "tunnel": TUNNELS["none"],
    "outer_src_addr": bytes(16),
    "outer_dst_addr": bytes(16),
    "vni": 0,
}


def lane(**parts: int) -> int:
    return sum(value << LANE.shift(name) for name, value in parts.items())


def network(number: int) -> int:
    """A 16-bit number as its bytes in network order read on this machine."""
    return int(np.uint16(number).byteswap())


def a_slot(**fields) -> np.ndarray:
    slot = np.zeros(1, dtype_from_layout(FLOW_SLOT))
    slot["last_jiffies"] = 998
    for name, value in fields.items():
        slot[name] = value
    return slot


def a_row(slot: np.ndarray, *, first_ns: int = 4_000) -> dict:
    one = np.array([1], np.uint64)
    counted = Counted(slot, np.array([first_ns], np.uint64), one * 3, one * 180)
    columns = flow_columns(counted, POINTS, CONTEXTS, ANCHOR)
    assert list(columns) == [field.name for field in FLOW.fields]
    row = {
        name: column.item(0) for name, column in columns.items() if isinstance(column, np.ndarray)
    }
    names = columns["interface"]
    return row | {"interface": names.categories[names.codes[0]]}


TCP_SLOT = a_slot(
    src_addr=IPv6Address("::ffff:198.18.0.1").packed,
    dst_addr=IPv6Address("::ffff:198.18.0.2").packed,
    src_port_be=network(40000),
    dst_port_be=network(443),
    lane=lane(point=1, vlan=7, dscp=46, shape=SHAPES["ipv4"]),
    protocol=6,
    tcp_flags=18,
    min_bytes=54,
    max_bytes=65535,
)


def test_a_tcp_flow():
    row = a_row(TCP_SLOT)

    assert row == {
        "time": WALL_NS - 6_000,
        "end": WALL_NS,
        "interface": "eth0",
        "direction": INGRESS,
        "src_addr": IPv6Address("::ffff:198.18.0.1").packed,
        "dst_addr": IPv6Address("::ffff:198.18.0.2").packed,
        "src_port": 40000,
        "dst_port": 443,
        "protocol": 6,
        "ethertype": 0x0800,
        "vlan": 7,
        "dscp": 46,
        "icmp_type": 0,
        "icmp_code": 0,
        "tcp_flags": 18,
        "packets": 3,
        "bytes": 180,
        "min_bytes": 54,
        "max_bytes": 65535,
        **NOT_AROUND,
        "inner_packets": 0,
        "inner_bytes": 0,
        "pid": 0,
        "uid": 0,
    }


def test_an_icmpv6_flow_has_type_and_code_and_no_ports():
    slot = a_slot(
        src_port_be=network(128 << 8 | 3),
        protocol=58,
        lane=lane(point=4, shape=SHAPES["ipv6"]),
    )
    row = a_row(slot)

    assert (row["icmp_type"], row["icmp_code"]) == (128, 3)
    assert (row["src_port"], row["dst_port"]) == (0, 0)
    assert (row["interface"], row["direction"], row["ethertype"]) == ("tun0", EGRESS, 0x86DD)


def test_a_packet_that_is_not_ip_is_named_by_its_ethertype():
    row = a_row(a_slot(src_port_be=network(0x88CC), lane=lane(point=2, shape=SHAPES["other"])))

    assert row["ethertype"] == 0x88CC
    assert (row["src_port"], row["icmp_type"], row["protocol"]) == (0, 0, 0)
    assert (row["interface"], row["direction"]) == ("eth0", EGRESS)


def test_what_met_no_known_interface_is_named_so():
    assert a_row(a_slot(lane=lane(point=0)))["interface"] == "unknown"


def test_a_flow_ends_with_its_last_tick_and_never_before_it_begins():
    long = a_row(TCP_SLOT, first_ns=0)
    early = a_row(a_slot(last_jiffies=900), first_ns=9_000)

    assert long["end"] - long["time"] >= 0
    assert (early["time"], early["end"]) == (WALL_NS - 1_000, WALL_NS)


def test_totals_without_flows_have_only_interface_direction_and_time():
    columns = total_columns(
        np.array([1, 4]),
        np.array([5, 6], np.uint64),
        np.array([500, 600], np.uint64),
        POINTS,
        start_ns=WALL_NS - 10,
        end_ns=WALL_NS,
    )

    assert columns["interface"].codes.tolist() == [1, 2]
    assert columns["direction"].tolist() == [INGRESS, EGRESS]
    assert columns["packets"].tolist() == [5, 6]
    assert columns["time"].tolist() == [WALL_NS - 10] * 2
    assert columns["ethertype"].tolist() == [0, 0]
    assert columns["max_bytes"].tolist() == [0, 0]


def test_a_packet_keeps_the_bytes_of_its_header():
    event = np.zeros(1, dtype_from_layout(PACKET_EVENT))
    header = bytes(range(HEADER_BYTES))
    for name in ("src_port_be", "dst_port_be", "lane", "protocol", "tcp_flags"):
        event[name] = TCP_SLOT[name]
    event["seen_ns"], event["header"], event["header_bytes"] = 9_000, header, 96
    event["hop_limit"], event["reason"], event["bytes"], event["packets"] = 64, 2, 70_000, 46

    columns = packet_columns(CONTEXTS, event, POINTS, ANCHOR)

    assert list(columns) == [field.name for field in PACKET.fields]
    assert columns["time"].tolist() == [WALL_NS - 1_000]
    assert columns["header"][0].tobytes() == header
    names = ("hop_limit", "reason", "bytes", "packets", "header_bytes", "src_port", "vlan")
    assert [int(columns[name][0]) for name in names] == [64, 2, 70_000, 46, 96, 40000, 7]


def test_each_interface_gets_a_point_a_direction_and_none_gets_point_zero():
    points = [point for pair in POINTS.taken for point in (pair.ingress, pair.egress)]

    assert points == [1, 2, 3, 4]
    assert POINTS.directions.tolist() == [INGRESS, INGRESS, EGRESS, INGRESS, EGRESS]


@pytest.mark.parametrize(("count", "code_type"), [(255, "uint8"), (256, "uint16")])
def test_many_interfaces_have_codes_wide_enough(count, code_type):
    many = [
        Interface(f"veth{number}", number + 1, is_up=True, link_bytes=14, is_hardware=False)
        for number in range(count)
    ]
    points = number_points(many)
    column = points.columns(np.array([2 * count]))["interface"]

    assert column.codes.dtype.name == code_type
    assert column.categories[column.codes[0]] == f"veth{count - 1}"


def test_what_surrounds_a_packet_is_in_the_context_that_its_lane_names():
    context = np.zeros(1, dtype_from_layout(FLOW_CONTEXT))
    context["vlan"], context["inner_vlan"], context["dscp"] = 7, 9, 46
    context["tunnel"], context["vni"] = TUNNELS["vxlan"], 0xABCDEF
    context["shape"] = SHAPES["ipv6"]
    context["outer_src_addr"] = IPv6Address("::ffff:192.0.2.1").packed
    number = 70_000
    CONTEXTS[number] = context[0]
    shift = CONTEXT_LANE.shift("context")
    slot = a_slot(
        lane=lane(point=INGRESS, shape=SHAPES["context"]) | number << shift,
        protocol=58,
        src_port_be=network(0x8000),
        dst_port_be=network(77),
    )

    row = a_row(slot)

    assert (row["vlan"], row["inner_vlan"], row["dscp"], row["ethertype"]) == (7, 9, 46, 0x86DD)
    assert (row["tunnel"], row["vni"]) == (TUNNELS["vxlan"], 0xABCDEF)
    assert row["outer_src_addr"] == IPv6Address("::ffff:192.0.2.1").packed
    assert (row["icmp_type"], row["icmp_id"], row["dst_port"]) == (128, 77, 0)


def test_a_copy_counts_apart_from_what_is_counted_outside():
    CONTEXTS[3] = np.zeros(1, dtype_from_layout(FLOW_CONTEXT))[0]
    CONTEXTS["is_copy"][3], CONTEXTS["tunnel"][3] = 1, TUNNELS["gre"]
    shift = CONTEXT_LANE.shift("context")

    row = a_row(a_slot(lane=lane(point=INGRESS, shape=SHAPES["context"]) | 3 << shift))

    assert (row["packets"], row["bytes"]) == (0, 0)
    assert (row["inner_packets"], row["inner_bytes"]) == (3, 180)
