# SPDX-License-Identifier: Apache-2.0
"""Keep the books: what each hook point saw, and what became of it.

The kernel's totals only grow.  The ledger remembers what it last read, so that every interval
gets the difference, and knows what the flow rows of the interval add up to.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.columns import Columns, typed
from agent.interfaces import LinkCounters
from agent.points import HookPoints, Pair
from agent.rows import Rows
from schemas.ledger import HOOKS, LEDGER

# Counters of the kernel that the ledger passes on as they are.
_PASSED_ON = (
    "seen_packets",
    "seen_bytes",
    "new_flows",
    "evictions",
    "overflows",
    "overflow_packets",
    "overflow_bytes",
    "samples",
    "lost_samples",
    "truncated_packets",
    "fragment_packets",
    "unmatched_fragment_packets",
    "tunnel_packets",
    "context_overflow_packets",
    "lost_dns_messages",
    "lost_tls_hellos",
)
# Counted here, kind by kind.
_REJECTED = {"dns": "rejected_dns_messages", "tls": "rejected_tls_hellos"}

OVERFLOW_COUNTERS = ("overflows", "overflow_packets", "overflow_bytes")

Counts = NDArray[np.uint64]  # by hook point
Lost = tuple[Counts, Counts]  # packets and bytes


@dataclass(slots=True)
class _Overflow:
    """Totals of flows whose detail is lost, by hook point, and how much of them rows report.

    The kernel adds all that such a flow counted; what snapshots have reported of it is taken off.
    That may come an interval before the kernel's part, which is never less: until then the balance
    is negative.
    """

    due: NDArray[np.int64]

    def add(self, counts: Counts) -> None:
        self.due += counts.astype(np.int64)

    def take(self, reported: Counts) -> Counts:
        """What rows must report now."""
        self.due -= reported.astype(np.int64)
        taken = np.maximum(self.due, 0)
        self.due -= taken
        return taken.astype(np.uint64)


@dataclass(slots=True)
class Ledger:
    """The books of one agent, from its start on."""

    points: HookPoints
    started_ns: int
    _links: dict[Pair, LinkCounters] = field(default_factory=dict)  # as last noted
    _last: dict[str, Counts] = field(default_factory=dict)
    # What a point had counted when its interface came to it.
    _before: dict[str, Counts] = field(default_factory=dict)
    _hooks: NDArray[np.uint8] = field(init=False)
    _opened_ns: NDArray[np.int64] = field(init=False)
    _flow_packets: Counts = field(init=False)
    _flow_bytes: Counts = field(init=False)
    _rejected: dict[str, Counts] = field(init=False)
    _link_packets: Counts = field(init=False)
    _link_bytes: Counts = field(init=False)
    _overflow_packets: _Overflow = field(init=False)
    _overflow_bytes: _Overflow = field(init=False)

    def __post_init__(self) -> None:
        count = self.points.capacity
        self._hooks = np.full(count, HOOKS["tcx"], np.uint8)
        self._opened_ns = np.zeros(count, np.int64)
        self._flow_packets, self._flow_bytes = np.zeros((2, count), np.uint64)
        self._link_packets, self._link_bytes = np.zeros((2, count), np.uint64)
        self._rejected = {name: np.zeros(count, np.uint64) for name in _REJECTED.values()}
        self._overflow_packets = _Overflow(np.zeros(count, np.int64))
        self._overflow_bytes = _Overflow(np.zeros(count, np.int64))

    def open(self, pair: Pair, ingress_hook: str, egress_hook: str, now_ns: int) -> None:
        """Begin the books of an interface that has just been given its points."""
        self._hooks[[pair.ingress, pair.egress]] = HOOKS[ingress_hook], HOOKS[egress_hook]
        self._opened_ns[[pair.ingress, pair.egress]] = now_ns
        for name in (*_PASSED_ON, *self._rejected):
            last = self._last.get(name, np.zeros(self.points.capacity, np.uint64))
            before = self._before.setdefault(name, np.zeros_like(last))
            before[[pair.ingress, pair.egress]] = last[[pair.ingress, pair.egress]]

    def note_link(self, pair: Pair, now: LinkCounters) -> None:
        """What the interface has counted by now; the first time says where it began."""
        before = self._links.get(pair, now)
        self._links[pair] = now
        # An interface that counts anew from zero has not counted backwards.
        self._link_packets[pair.ingress] += max(now.ingress_packets - before.ingress_packets, 0)
        self._link_packets[pair.egress] += max(now.egress_packets - before.egress_packets, 0)
        self._link_bytes[pair.ingress] += max(now.ingress_bytes - before.ingress_bytes, 0)
        self._link_bytes[pair.egress] += max(now.egress_bytes - before.egress_bytes, 0)

    def end_link(self, pair: Pair, last: LinkCounters) -> None:
        """What its interface had counted when it gave up the pair."""
        if pair in self._links:
            self.note_link(pair, last)
        self._links.pop(pair, None)

    def book_rows(self, point: NDArray[Any], packets: Counts, in_bytes: Counts) -> None:
        """Note flow rows that go out in this interval."""
        np.add.at(self._flow_packets, point, packets)
        np.add.at(self._flow_bytes, point, in_bytes)

    def book_rejected(self, kind: str, point: NDArray[Any]) -> None:
        """Note events of a kind, by their hook points, that could not be read."""
        np.add.at(self._rejected[_REJECTED[kind]], point, np.uint64(1))

    def take_overflow(self, totals: Rows, lost: Lost | None) -> tuple[NDArray[Any], Counts, Counts]:
        """Points, packets and bytes of the rows that stand for flows whose detail is lost.

        *totals* is this interval's reading, which `close` must be given too; its overflow must
        have been read before the snapshot.  *lost* are the packets and bytes that snapshots had
        reported of those flows; while that is not known, None, there are no rows.
        """
        self._overflow_packets.add(self._grown("overflow_packets", totals))
        self._overflow_bytes.add(self._grown("overflow_bytes", totals))
        if lost is None:
            return np.empty(0, np.intp), np.empty(0, np.uint64), np.empty(0, np.uint64)
        packets = self._overflow_packets.take(lost[0])
        in_bytes = self._overflow_bytes.take(lost[1])
        point = np.flatnonzero((packets > 0) | (in_bytes > 0))
        return point, packets[point], in_bytes[point]

    def _grown(self, name: str, totals: Rows) -> Counts:
        """How much a counter grew since the last interval, by hook point, all CPUs together."""
        now = np.zeros(self.points.capacity, np.uint64)
        now[: totals.shape[1]] = totals[name].sum(axis=0, dtype=np.uint64)
        return now - self._last.get(name, np.zeros_like(now))

    def close(self, totals: Rows, now_ns: int) -> Columns:
        """The columns of the `ledger` records of the interval that ends now."""
        columns: dict[str, Any] = {name: self._grown(name, totals) for name in _PASSED_ON}
        columns["flow_packets"], columns["flow_bytes"] = self._flow_packets, self._flow_bytes
        columns["link_packets"], columns["link_bytes"] = self._link_packets, self._link_bytes
        columns |= self._rejected
        for name in (*_PASSED_ON, *self._rejected):
            self._last[name] = self._last.get(name, np.uint64(0)) + columns[name]
        self._rejected = {name: np.zeros_like(counts) for name, counts in self._rejected.items()}
        self._flow_packets, self._flow_bytes = np.zeros((2, self.points.capacity), np.uint64)
        self._link_packets, self._link_bytes = np.zeros((2, self.points.capacity), np.uint64)
        started_ns, self.started_ns = self.started_ns, now_ns
        return self._rows(columns, started_ns, now_ns)

    def counted(self) -> dict[str, dict[tuple[str, str], int]]:
        """The kernel's counters by name, then by interface and direction, as of the last close."""
        places = {}
        for pair, name in list(self.points.taken.items()):
            places[pair.ingress] = (name, "ingress")
            places[pair.egress] = (name, "egress")
        return {
            name: {
                place: int(values[point] - self._before[name][point])
                for point, place in places.items()
            }
            for name, values in list(self._last.items())
            if name in self._before
        }

    def _rows(self, columns: dict[str, Any], start_ns: int, end_ns: int) -> Columns:
        """A row for each point in use, and for others that still had something to say."""
        is_told = np.any([values > 0 for values in columns.values()], axis=0)
        for pair in self.points.taken:
            is_told[[pair.ingress, pair.egress]] = True
        point = np.flatnonzero(is_told)
        given: dict[str, Any] = {
            "time": np.maximum(self._opened_ns[point], start_ns),
            "end": np.full(len(point), end_ns, np.int64),
            **self.points.columns(point),
            "hook": self._hooks[point],
            **{name: values[point] for name, values in columns.items()},
        }
        return typed(LEDGER, given)
