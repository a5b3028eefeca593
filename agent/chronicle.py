# SPDX-License-Identifier: Apache-2.0
"""The rows of kind `interface`: what happened to interfaces, until it goes out.

They are few, and each is made when something happens, so this is the one kind that is not written
by the kernel.
"""

from collections import deque
from typing import Any

import numpy as np

from agent.attach import Attached
from agent.columns import Columns, typed
from agent.interfaces import Interface
from schemas.interface import EVENTS, INTERFACE
from schemas.layout import NAME
from schemas.ledger import HOOKS
from schemas.wire import Names

# Of an outage of the brokers the latest are kept.
_MOST_ROWS = 10_000


class Chronicle:
    """Rows that wait for their batch."""

    def __init__(self) -> None:
        self._rows: deque[dict[str, Any]] = deque(maxlen=_MOST_ROWS)
        self.dropped_rows_total = 0

    def add(
        self, event: str, one: Interface, attached: Attached, *, foreign_xdp: int, now_ns: int
    ) -> None:
        """Note that *event* happened to an interface that was then as it is told."""
        if len(self._rows) == _MOST_ROWS:
            self.dropped_rows_total += 1
        self._rows.append(
            {
                "time": now_ns,
                "interface": one.full_name,
                "event": EVENTS[event],
                "netns": one.netns,
                "ifindex": one.ifindex,
                "mac": one.mac,
                "kind": one.kind,
                "mtu": one.mtu,
                "link_bytes": one.link_bytes,
                "ingress_hook": HOOKS[attached.ingress_hook],
                "egress_hook": HOOKS[attached.egress_hook],
                "foreign_xdp": foreign_xdp,
            }
        )

    def take(self) -> Columns | None:
        """The columns of all rows that wait; None where there are none."""
        rows, self._rows = list(self._rows), deque(maxlen=_MOST_ROWS)
        if not rows:
            return None
        columns: dict[str, Any] = {}
        for field in INTERFACE.fields:
            values = [row[field.name] for row in rows]
            columns[field.name] = _names(values) if field.kind is NAME else np.array(values)
        return typed(INTERFACE, columns)


def _names(values: list[str]) -> Names:
    categories = tuple(dict.fromkeys(values))
    codes = {name: code for code, name in enumerate(categories)}
    dtype = np.uint8 if len(categories) <= 256 else np.dtype("<u2")
    return Names(np.array([codes[value] for value in values], dtype), categories)
