# SPDX-License-Identifier: Apache-2.0
"""What surrounds packets: VLAN tags, DSCP, and the tunnel they came in, by the lane of their flow.

A lane holds VLAN and DSCP itself.  Where there is more to tell, it holds the number of a context,
which the kernel has entered in a table and never changes.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.rows import Rows
from schemas.dtype import unpack
from schemas.flow import CONTEXT_LANE, LANE, SHAPES

_OF_CONTEXT = ("inner_vlan", "tunnel", "vni", "outer_src_addr", "outer_dst_addr")
_IN_LANE = ("vlan", "dscp", "shape")


def surroundings(lane: NDArray[np.uint32], contexts: Rows) -> dict[str, Any]:
    """Columns by name, and `shape`, which is never that of a context."""
    columns = {name: unpack(LANE, name, lane) for name in _IN_LANE}
    index, found = _found(lane, contexts)
    if not len(index):
        return columns
    for name in _IN_LANE:
        columns[name] = columns[name].copy()
        columns[name][index] = found[name]
    for name in _OF_CONTEXT:
        columns[name] = np.zeros(len(lane), found.dtype[name])
        columns[name][index] = found[name]
    return columns


def copies(lane: NDArray[np.uint32], contexts: Rows) -> NDArray[np.bool_]:
    """Which flows tell of packets that another flow counts."""
    is_copy = np.zeros(len(lane), np.bool_)
    index, found = _found(lane, contexts)
    is_copy[index] = found["is_copy"] != 0
    return is_copy


def _found(lane: NDArray[np.uint32], contexts: Rows) -> tuple[NDArray[Any], Rows]:
    """Rows whose lane names a context, and those contexts."""
    index = np.flatnonzero(unpack(LANE, "shape", lane) == SHAPES["context"])
    return index, contexts[unpack(CONTEXT_LANE, "context", lane[index])]
