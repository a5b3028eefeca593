# SPDX-License-Identifier: Apache-2.0
"""Keep the books: what each hook point saw, and what became of it.

The kernel's totals only grow.  The ledger remembers what it last read, so that every interval
gets the difference, and knows what the flow rows of the interval add up to.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.columns import Columns, typed
from agent.interfaces import LinkCounters
from agent.plan import FIRST_POINT
from agent.points import HookPoints
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
    hooks: Mapping[int, int]  # hook point: number in HOOKS
    links: Mapping[str, LinkCounters]  # as of the last interval
    started_ns: int
    _last: dict[str, Counts] = field(default_factory=dict)
    _flow_packets: Counts = field(init=False)
    _flow_bytes: Counts = field(init=False)
    _rejected: dict[str, Counts] = field(init=False)
    _overflow_packets: _Overflow = field(init=False)
    _overflow_bytes: _Overflow = field(init=False)

    def __post_init__(self) -> None:
        count = self.count
        self._flow_packets = np.zeros(count, np.uint64)
        self._flow_bytes = np.zeros(count, np.uint64)
        self._rejected = {name: np.zeros(count, np.uint64) for name in _REJECTED.values()}
        self._overflow_packets = _Overflow(np.zeros(count, np.int64))
        self._overflow_bytes = _Overflow(np.zeros(count, np.int64))

    @property
    def count(self) -> int:
        """How many hook points there are."""
        return len(self.points.directions)

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
        packets = self._overflow_packets.take(lost[0][: self.count])
        in_bytes = self._overflow_bytes.take(lost[1][: self.count])
        point = np.flatnonzero((packets > 0) | (in_bytes > 0))
        return point, packets[point], in_bytes[point]

    def _grown(self, name: str, totals: Rows) -> Counts:
        """How much a counter grew since the last interval, by hook point, all CPUs together."""
        now: Counts = totals[name].sum(axis=0, dtype=np.uint64)[: self.count]
        return now - self._last.get(name, np.zeros(self.count, np.uint64))

    def close(self, totals: Rows, links: Mapping[str, LinkCounters], now_ns: int) -> Columns:
        """The columns of the `ledger` records of the interval that ends now."""
        columns: dict[str, Any] = {name: self._grown(name, totals) for name in _PASSED_ON}
        columns["flow_packets"], columns["flow_bytes"] = self._flow_packets, self._flow_bytes
        columns["link_packets"], columns["link_bytes"] = self._link_growth(links)
        columns |= self._rejected
        for name in (*_PASSED_ON, *self._rejected):
            self._last[name] = self._last.get(name, np.uint64(0)) + columns[name]
        self._rejected = {name: np.zeros_like(counts) for name, counts in self._rejected.items()}
        self._flow_packets = np.zeros(self.count, np.uint64)
        self._flow_bytes = np.zeros(self.count, np.uint64)
        started_ns, self.started_ns = self.started_ns, now_ns
        return self._rows(columns, started_ns, now_ns)

    def counted(self) -> dict[str, dict[tuple[str, str], int]]:
        """The kernel's counters by name, then by interface and direction, as of the last close."""
        places = {}
        for target in self.points.targets:
            places[target.ingress_point] = (target.name, "ingress")
            places[target.egress_point] = (target.name, "egress")
        return {
            name: {place: int(values[point]) for point, place in places.items()}
            for name, values in list(self._last.items())
        }

    def _link_growth(self, links: Mapping[str, LinkCounters]) -> tuple[Counts, Counts]:
        packets, in_bytes = np.zeros((2, self.count), np.uint64)
        for target in self.points.targets:
            now, before = links.get(target.name), self.links.get(target.name)
            if now is None or before is None:
                continue
            for point, direction in (
                (target.ingress_point, "ingress"),
                (target.egress_point, "egress"),
            ):
                for growth, unit in ((packets, "packets"), (in_bytes, "bytes")):
                    name = f"{direction}_{unit}"
                    # An interface that was made anew under its name has begun at zero.
                    growth[point] = max(getattr(now, name) - getattr(before, name), 0)
        self.links = links
        return packets, in_bytes

    def _rows(self, columns: dict[str, Any], start_ns: int, end_ns: int) -> Columns:
        """One row per hook point; point 0 only when something met no known interface."""
        first = 0 if columns["seen_packets"][0] else FIRST_POINT
        point = np.arange(first, self.count)
        named = self.points.columns(point)
        hooks = np.array([self.hooks.get(int(one), HOOKS["tcx"]) for one in point], np.uint8)
        given: dict[str, Any] = {
            "time": np.full(len(point), start_ns, np.int64),
            "end": np.full(len(point), end_ns, np.int64),
            **named,
            "hook": hooks,
            **{name: values[point] for name, values in columns.items()},
        }
        return typed(LEDGER, given)
