# SPDX-License-Identifier: Apache-2.0
"""Learn from the kernel's socket events who has which socket.

Events come from every network namespace.  A socket of another one that is bound to any address, or
to loopback, is at addresses which mean others here, so it is left out; what is connected, or bound
to an address of its own, is told apart by that.
"""

import socket
import struct
import time
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from agent import tuples
from agent.owners import OwnerLookup
from agent.rows import Rows, chosen
from agent.tuples import Keys
from schemas.socket import EVENTS
from schemas.wire import Names

_SO_NETNS_COOKIE = 71  # include/uapi/asm-generic/socket.h, since Linux v5.14
_MIX = np.uint64(0x9E3779B97F4A7C15)


def own_namespace() -> int:
    """The kernel's number of this network namespace; 0 where it does not tell."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        try:
            cookie = one.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
        except OSError:
            return 0
    return int(struct.unpack("=Q", cookie)[0])


@dataclass(slots=True)
class SocketOwners:
    """Hands what events tell on to *lookup*."""

    lookup: OwnerLookup
    namespace: int = field(default_factory=own_namespace)

    def meet(self, events: Rows) -> None:
        """Look new processes up while they live."""
        self._located(events)

    def learn(self, events: Rows) -> None:
        """Learn all that *events*, in their order, say of sockets."""
        events, keys = self._clear(events)
        latest = _latest(keys, events["cookie"])
        owners = self.lookup.owners(
            pid=events["pid"],
            uid=events["uid"],
            command=np.ascontiguousarray(events["command"]),
            cgroup_id=events["cgroup_id"],
            now=time.monotonic(),
        )
        opened_ns = events["start_ns"].astype(np.int64)
        self.lookup.open(keys.take(latest, axis=0), opened_ns.take(latest), owners[latest])
        what = events["event"]
        has_ended = (what == EVENTS["close"]) | (what == EVENTS["fail"])
        ended = np.flatnonzero(has_ended)
        self.lookup.close(keys.take(ended, axis=0), events["seen_ns"][ended].astype(np.int64))

    def _clear(self, events: Rows) -> tuple[Rows, Keys]:
        """Those that have a port, and an address that means one here; and their keys."""
        keys = _keys(events)
        is_here = events["netns_cookie"] == self.namespace
        is_clear = is_here | ~(tuples.is_any(keys) | tuples.is_loopback(keys))
        is_clear &= events["local_port"] != 0
        # Of most all are, and a copy of them is saved.
        return (events, keys) if is_clear.all() else (chosen(events, is_clear), keys[is_clear])

    def columns(self, events: Rows) -> dict[str, Names]:
        """The columns `cgroup`, `unit` and `container` of the events' rows."""
        return self.lookup.cgroups.columns(self._located(events))

    def _located(self, events: Rows) -> NDArray[np.uint64]:
        cgroup_id = np.ascontiguousarray(events["cgroup_id"])
        return self.lookup.cgroups.located(events["pid"], cgroup_id, time.monotonic())


def _keys(events: Rows) -> Keys:
    return tuples.keys_of(
        local_addr=events["local_addr"],
        local_port=events["local_port"],
        remote_addr=events["remote_addr"],
        remote_port=events["remote_port"],
        protocol=events["protocol"],
    )


def _latest(keys: Keys, cookie: NDArray[np.uint64]) -> NDArray[np.intp]:
    """Of each socket the last event, which knows most; its number alone may have had two peers."""
    ends = tuples.mixed(keys) ^ cookie * _MIX
    _, backwards = np.unique(ends[::-1], return_index=True)
    return np.sort(len(ends) - 1 - backwards)
