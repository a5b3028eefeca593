# SPDX-License-Identifier: Apache-2.0
"""A lookup of owners, and what it says of one flow."""

import numpy as np
import pytest

from agent.cgroups import Cgroups
from agent.hierarchy import Hierarchies
from agent.owners import OwnerLookup
from agent.tuples import TCP
from schemas.fields import DIRECTIONS
from schemas.wire import Names
from tests.agent.ends import End, addresses

INGRESS, EGRESS = DIRECTIONS["ingress"], DIRECTIONS["egress"]


@pytest.fixture
def lookup(tmp_path) -> OwnerLookup:
    """It knows the units of two processes, and that 10.0.0.1 is here."""
    cgroups = Cgroups(Hierarchies(tmp_path, has_v1=False), proc=tmp_path)
    cgroups.learn({4001: "/system.slice/nginx.service", 4002: "/user.slice/session-3.scope"}, 0.0)
    found = OwnerLookup(cgroups)
    found.set_local_addresses(addresses("10.0.0.1", "2001:db8::1"))
    return found


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
