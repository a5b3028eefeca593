# SPDX-License-Identifier: Apache-2.0
import numpy as np

from schemas.dtype import dtype_from_layout, unpack
from schemas.flow import FLOW_SLOT, LANE


def test_a_flow_slot_is_exactly_one_cache_line():
    assert dtype_from_layout(FLOW_SLOT).itemsize == 64


def test_padding_is_no_field_of_the_dtype():
    names = dtype_from_layout(FLOW_SLOT).names

    assert names is not None
    assert "" not in names


def test_an_address_that_ends_in_zeros_keeps_them():
    slots = np.zeros(1, dtype_from_layout(FLOW_SLOT))
    slots["src_addr"] = np.void(bytes(10) + b"\xff\xff\x0a\x00\x00\x00")

    assert slots["src_addr"][0].tobytes() == bytes(10) + b"\xff\xff\x0a\x00\x00\x00"


def test_the_parts_of_the_lane_come_back_as_they_were_packed():
    lane = np.array([7 | 100 << 12 | 46 << 24 | 2 << 30], np.uint32)

    parts = {name: int(unpack(LANE, name, lane)[0]) for name in ("point", "vlan", "dscp", "shape")}

    assert parts == {"point": 7, "vlan": 100, "dscp": 46, "shape": 2}
