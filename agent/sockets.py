# SPDX-License-Identifier: Apache-2.0
"""Turn the kernel's socket events into the columns of `socket` records, and count those lost."""

import logging
from dataclasses import dataclass, field

import numpy as np

from agent.clock import Anchor
from agent.columns import Columns, typed
from agent.points import HookPoints
from agent.rows import Rows
from agent.socketowners import SocketOwners
from agent.tuples import mixed
from schemas.socket import COMMAND_BYTES, SOCKET, SOCKET_EVENT
from schemas.wire import Names

log = logging.getLogger(__name__)

_SAME = {one.name for one in SOCKET.fields} & {one.name for one in SOCKET_EVENT.fields}


def socket_columns(
    owners: SocketOwners | None, events: Rows, _points: HookPoints, anchor: Anchor
) -> Columns:
    """The columns of `socket` records, with the names of cgroups where *owners* are looked up."""
    return typed(
        SOCKET,
        {
            **{name: events[name] for name in _SAME},
            "time": anchor.wall_from_monotonic(events["seen_ns"]),
            "start": anchor.wall_from_monotonic(events["start_ns"]),
            "command": _commands(events),
            **(owners.columns(events) if owners else {}),
        },
    )


def _commands(events: Rows) -> Names:
    """Commands by number; a name that is no UTF-8 keeps what of it is."""
    texts = np.ascontiguousarray(events["command"]).view(f"S{COMMAND_BYTES}")
    # Numbers are sorted in a fraction of the time that texts are.
    hashes = mixed(texts.view(np.uint64).reshape(-1, 2))
    _, first, codes = np.unique(hashes, return_index=True, return_inverse=True)
    categories = tuple(name.decode(errors="replace") for name in texts[first].tolist())
    return Names(codes.astype(np.uint8 if len(first) <= 256 else np.dtype("<u2")), categories)


@dataclass(slots=True)
class SocketBooks:
    """What the socket programs have reported and lost, all CPUs together, since they run."""

    totals: Rows
    _warned_of: int = field(default=0)

    @property
    def events_total(self) -> int:
        return int(self.totals["events"].sum())

    @property
    def lost_events_total(self) -> int:
        return int(self.totals["lost_events"].sum())

    def warn_of_lost(self) -> None:
        """Say how many events were lost since this was asked last."""
        lost = self.lost_events_total
        if lost > self._warned_of:
            log.warning(
                "socket events are lost; consider more --ring-bytes",
                extra={"events": lost - self._warned_of},
            )
        self._warned_of = lost
