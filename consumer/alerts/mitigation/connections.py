# SPDX-License-Identifier: Apache-2.0
"""Good connections: TCP that carried something both ways, and since when.

A rule against an attack must not hit those.  Of spoofed packets there is no way back, so no attacker
fills this table; who answers with resets alone has no connection either.
"""

import numpy as np
from numpy.typing import NDArray

from consumer.alerts import keys
from consumer.alerts.rows import NS_PER_S, Rows
from consumer.alerts.sketches import Keys, Places

_SETS = 1 << 16  # of four each
_KEEP_S = 600.0
_LEAST_PACKETS = 3


class Connections:
    """Which connections are known, by the side that came in and the side that went out."""

    def __init__(self, sets: int = _SETS) -> None:
        self._sides = {keys.INGRESS: Places(sets, _KEEP_S), keys.EGRESS: Places(sets, _KEEP_S)}
        # When each was met first, in seconds; of no use where the place is free.
        self._since = {side: np.zeros(len(places)) for side, places in self._sides.items()}

    @property
    def size_bytes(self) -> int:
        return sum(since.nbytes + 16 * len(since) for since in self._since.values())

    def learn(self, rows: Rows) -> None:
        """Learn of flow rows."""
        flags = rows["tcp_flags"]
        is_one = (rows["protocol"] == keys.TCP) & ((flags & keys.ACK) != 0)
        is_one &= ((flags & keys.RST) == 0) & (rows["packets"] >= _LEAST_PACKETS)
        for side in self._sides:
            at = np.flatnonzero(is_one & (rows["direction"] == side))
            if len(at):
                self._add(side, _identity(rows, at, is_turned=side == keys.EGRESS), rows, at)

    def _add(self, side: int, found: Keys, rows: Rows, at: NDArray[np.intp]) -> None:
        found, first = np.unique(found, return_index=True)
        began = rows["time"][at][first] / NS_PER_S
        places, is_new = self._sides[side].of(found, float(began.max()))
        fresh = places[is_new]
        self._since[side][fresh] = began[is_new]

    def are_known(self, rows: Rows, at: NDArray[np.intp], before_s: float) -> NDArray[np.bool_]:
        """Which of the rows *at* belong to a connection that was there before that time."""
        known = np.ones(len(at), np.bool_)
        direction = rows["direction"][at]
        found = np.where(
            direction == keys.EGRESS,
            _identity(rows, at, is_turned=True),
            _identity(rows, at, is_turned=False),
        )
        for side, places in self._sides.items():
            where = places.find(found)
            since = np.where(where >= 0, self._since[side][where], np.inf)
            known &= since < before_s
        return known


def _identity(rows: Rows, at: NDArray[np.intp], *, is_turned: bool) -> Keys:
    """A connection as the side that comes in has it."""
    src, dst = rows["src_addr"][at], rows["dst_addr"][at]
    src_port, dst_port = rows["src_port"][at], rows["dst_port"][at]
    if is_turned:
        src, dst, src_port, dst_port = dst, src, dst_port, src_port
    return keys.HASH.of(
        keys.HASH.of(src), keys.HASH.of(dst), src_port.astype(np.uint64), dst_port.astype(np.uint64)
    )
