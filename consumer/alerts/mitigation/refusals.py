# SPDX-License-Identifier: Apache-2.0
"""Watch what our rules refuse: whether it is a connection that was good before."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from consumer.alerts import evidence
from consumer.alerts.alert import Sighting
from consumer.alerts.detector import Stateless
from consumer.alerts.mitigation.connections import Connections
from consumer.alerts.mitigation.mitigator import PREFIX, Mitigator
from consumer.alerts.mitigation.options import NAME
from consumer.alerts.rows import NS_PER_S, Rows

_TCP = 6
_MOST_CONNECTIONS = 100
_MOST_RULES = 1000


class Refusals(Stateless):
    """Looks at flows to know good connections, and at drops to see them refused."""

    name: ClassVar[str] = NAME
    about: ClassVar[str] = "A rule of this service was sent, refused by its caps, or taken back."
    kinds: ClassVar[tuple[str, ...]] = ("flow", "drop")
    hold_s: ClassVar[float] = 60.0

    def __init__(self, mitigator: Mitigator) -> None:
        self._mitigator = mitigator
        self._connections = Connections()
        # By rule, the good connections that it hit.
        self._hit: OrderedDict[str, dict[str, None]] = OrderedDict()

    @property
    def size_bytes(self) -> int:
        return self._connections.size_bytes

    def take(self, rows: Rows, now_ns: int) -> Sequence[Sighting]:
        if rows.record.kind == "flow":
            self._connections.learn(rows)
        else:
            self._take_drops(rows, now_ns)
        return ()

    def _take_drops(self, rows: Rows, now_ns: int) -> None:
        names = rows["rule"]
        for code, name in enumerate(names.categories):
            made_ns = self._mitigator.made_ns(name) if name.startswith(PREFIX) else 0
            if not made_ns:
                continue
            at = np.flatnonzero((names.codes == code) & (rows["protocol"] == _TCP))
            at = at[self._connections.are_known(rows, at, made_ns / NS_PER_S)]
            if len(at):
                hit = self._hit.setdefault(name, {})
                hit.update(dict.fromkeys(_texts(rows, at)[: _MOST_CONNECTIONS - len(hit)]))
                self._mitigator.hit(name, list(hit), now_ns)
        while len(self._hit) > _MOST_RULES:
            self._hit.popitem(last=False)


def _texts(rows: Rows, at: np.ndarray) -> list[str]:
    return [
        f"{evidence.address(rows['src_addr'][one])}:{rows['src_port'][one]} to"
        f" {evidence.address(rows['dst_addr'][one])}:{rows['dst_port'][one]}"
        for one in at[:_MOST_CONNECTIONS]
    ]
