# SPDX-License-Identifier: Apache-2.0
"""Say which process, unit and container had the socket that a flow belongs to.

Sockets are learned from the list that the kernel gives at the start and from its events later.
A flow is looked for as the interface sees it: the local end is the source of what goes out and the
destination of what comes in; then the other way round, since the host's end of a container's link
sees its traffic mirrored.  What has no connected socket may belong to one that listens or is only
bound: at the same address, or at any address where the address is one of this namespace.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent import tuples
from agent.cgroups import Cgroups
from agent.commands import Commands
from agent.processes import Holders
from agent.sockdiag import Listed
from agent.sockettable import Owners, SocketTable, Times
from agent.tuples import Keys
from agent.vocabulary import Ids
from schemas.fields import DIRECTIONS
from schemas.wire import Column

MOST_SOCKETS = 1 << 17
_HAS_PORTS = np.isin(np.arange(256), [6, 17, 33, 132, 136])  # TCP, UDP, DCCP, SCTP, UDP-Lite
# Rows looked up together: what is computed for them stays in the CPU's cache.
_CHUNK = 1 << 13

Slots = NDArray[np.intp]


class OwnerLookup:
    """Everything known of who has which socket."""

    def __init__(self, cgroups: Cgroups, most: int = MOST_SOCKETS) -> None:
        self.cgroups = cgroups
        self._commands = Commands()
        self._table = SocketTable(most)
        self._local_addresses = np.empty(0, np.uint64)
        # Ports that some socket without a peer is bound to; most rows need not look further.
        self._is_bound_port = np.zeros(1 << 16, np.bool_)

    def __len__(self) -> int:
        return len(self._table)

    @property
    def evicted_total(self) -> int:
        """Sockets forgotten for want of room."""
        return self._table.evicted_total

    def set_local_addresses(self, addresses: NDArray[Any]) -> None:
        """Take the addresses of this namespace, 16 bytes each."""
        words = np.ascontiguousarray(addresses).view(np.uint64).reshape(-1, 2)
        self._local_addresses = tuples.mixed(words)

    def owners(
        self,
        *,
        pid: NDArray[np.uint32],
        uid: NDArray[np.uint32],
        command: NDArray[Any],
        cgroup_id: Ids,
        now: float,
    ) -> Owners:
        """Owners as the kernel tells of them: commands of 16 bytes, numbers of cgroups."""
        located = self.cgroups.located(pid, cgroup_id, now)
        return Owners(pid, uid, self._commands.ids_of(command), located)

    def take_listed(
        self, listed: Listed, holders: Holders, *, seen_ns: int, now: float, before_ns: int = 0
    ) -> None:
        """Learn the sockets that there were at *seen_ns*, opened after *before_ns*."""
        pid, command = holders.of(listed.inode)
        owners = self.owners(
            pid=pid, uid=listed.uid, command=command, cgroup_id=listed.cgroup, now=now
        )
        opened_ns = np.full(len(listed), before_ns, np.int64)
        self.open(listed.keys, opened_ns, owners, seen_ns=seen_ns)

    def close_unlisted(self, listed: Listed, seen_ns: int) -> None:
        """Learn that sockets have closed which are not there any more at *seen_ns*."""
        self._table.close_unlisted(listed.keys, seen_ns)

    def open(self, keys: Keys, opened_ns: Times, owners: Owners, *, seen_ns: int = 0) -> None:
        """Learn sockets; of those known already, what is new."""
        self._table.open(keys, opened_ns, owners, seen_ns=seen_ns)
        self._is_bound_port[tuples.local_ports(keys[~tuples.has_remote(keys)])] = True

    def close(self, keys: Keys, closed_ns: Times) -> None:
        """Learn that sockets have closed."""
        self._table.close(keys, closed_ns)

    def forget_closed(self, before_ns: int) -> None:
        """Let go of sockets without which all rows that begin at *before_ns* can be made."""
        forgotten = self._table.forget_closed(before_ns)
        if not tuples.has_remote(forgotten).all():
            self._is_bound_port[:] = False
            bound = self._table.keys(self._table.bound())
            self._is_bound_port[tuples.local_ports(bound)] = True

    def flow_columns(self, flows: Mapping[str, Any], offset_ns: int) -> dict[str, Column]:
        """The owner's columns for the columns of flows; *offset_ns* is wall time of the boot."""
        slots = np.zeros(len(flows["protocol"]), np.intp)
        all_rows = np.flatnonzero(_HAS_PORTS[flows["protocol"]]) if len(self._table) else slots[:0]
        for start in range(0, len(all_rows), _CHUNK):
            rows = all_rows[start : start + _CHUNK]
            first_ns, last_ns = flows["time"][rows] - offset_ns, flows["end"][rows] - offset_ns
            slots[rows] = self._find(_keys_of_flows(flows, rows), first_ns, last_ns)
        return self.columns(self._table.owners[slots])

    def columns(self, owners: Owners) -> dict[str, Column]:
        """The columns `pid`, `uid`, `command`, `cgroup`, `unit` and `container`."""
        return {
            "pid": owners.pid,
            "uid": owners.uid,
            "command": self._commands.column(owners.command),
            **self.cgroups.columns(owners.cgroup),
        }

    def _find(self, keys: Keys, first_ns: Times, last_ns: Times) -> Slots:
        slots = self._table.find(keys, first_ns, last_ns)
        for is_turned, find in (
            (True, self._table.find),
            (False, self._find_bound),
            (True, self._find_bound),
        ):
            left = np.flatnonzero(slots == 0)
            if not len(left):
                break
            remaining = keys.take(left, axis=0)
            sought = tuples.turned(remaining) if is_turned else remaining
            slots[left] = find(sought, first_ns[left], last_ns[left])
        return slots

    def _find_bound(self, keys: Keys, first_ns: Times, last_ns: Times) -> Slots:
        """Sockets without a peer at the local ends of *keys*."""
        slots = np.zeros(len(keys), np.intp)
        rows = np.flatnonzero(self._is_bound_port[tuples.local_ports(keys)])
        if not len(rows):
            return slots
        alone = tuples.without_remote(keys.take(rows, axis=0))
        first_ns, last_ns = first_ns.take(rows), last_ns.take(rows)
        found = self._table.find(alone, first_ns, last_ns)
        is_local, is_ipv4 = self._are_local(alone), tuples.is_ipv4(alone)
        # A socket at :: takes IPv4 as well.
        for ipv4, may_be in ((True, is_local & is_ipv4), (False, is_local)):
            left = np.flatnonzero((found == 0) & may_be)
            anywhere = tuples.at_any_address(alone[left], ipv4=ipv4)
            found[left] = self._table.find(anywhere, first_ns[left], last_ns[left])
        slots[rows] = found
        return slots

    def _are_local(self, keys: Keys) -> NDArray[np.bool_]:
        is_local: NDArray[np.bool_] = np.isin(tuples.mixed(keys[:, :2]), self._local_addresses)
        return is_local | tuples.is_loopback(keys)


def _keys_of_flows(flows: Mapping[str, Any], rows: NDArray[np.intp]) -> Keys:
    """Keys with the local end where the direction puts it."""
    keys = tuples.keys_of(
        local_addr=flows["src_addr"][rows],
        local_port=flows["src_port"][rows],
        remote_addr=flows["dst_addr"][rows],
        remote_port=flows["dst_port"][rows],
        protocol=flows["protocol"][rows],
    )
    is_ingress = flows["direction"][rows] == DIRECTIONS["ingress"]
    return np.where(is_ingress[:, None], tuples.turned(keys), keys)
