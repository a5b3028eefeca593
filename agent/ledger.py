# SPDX-License-Identifier: Apache-2.0
"""Keep the books: what each hook point saw, and what became of it.

The kernel's totals only grow.  The ledger remembers what it last read, so that every interval
gets the difference, and knows what the flow rows of the interval add up to.  An agent that comes
after another goes on with its books, so what a hook saw while there was none is in them as well.
"""

from collections.abc import Mapping
from dataclasses import astuple, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.columns import Columns, typed
from agent.interfaces import LinkCounters
from agent.points import HookPoints, Pair
from agent.rows import Rows
from schemas.ledger import HOOKS, LEDGER
from schemas.wire import Names

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
    "extra_packets",
    "extra_bytes",
    "dropped_packets",
    "dropped_bytes",
    "dropped_extra_packets",
    "dropped_extra_bytes",
)
# Counted here, kind by kind.
_REJECTED = {"dns": "rejected_dns_messages", "tls": "rejected_tls_hellos"}

OVERFLOW_COUNTERS = ("overflows", "overflow_packets", "overflow_bytes")
# What is noted in the course of an interval, by hook point.
_NOTED = (
    *("flow_packets", "flow_bytes", "link_packets", "link_bytes"),
    # Instead of the kernel's, which have what snapshots had reported of those flows before.
    *("overflow_packets", "overflow_bytes"),
    *_REJECTED.values(),
)

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
    # Packets and bytes in rows that were given up, by interface and direction.
    _lost: dict[tuple[str, int], list[int]] = field(default_factory=dict)
    _hooks: NDArray[np.uint8] = field(init=False)
    _opened_ns: NDArray[np.int64] = field(init=False)
    _noted: dict[str, Counts] = field(init=False)
    _overflow_packets: _Overflow = field(init=False)
    _overflow_bytes: _Overflow = field(init=False)

    def __post_init__(self) -> None:
        count = self.points.capacity
        self._hooks = np.full(count, HOOKS["tcx"], np.uint8)
        self._opened_ns = np.zeros(count, np.int64)
        self._noted = {name: np.zeros(count, np.uint64) for name in _NOTED}
        self._overflow_packets = _Overflow(np.zeros(count, np.int64))
        self._overflow_bytes = _Overflow(np.zeros(count, np.int64))

    def open(self, pair: Pair, ingress_hook: str, egress_hook: str, now_ns: int) -> None:
        """Begin the books of an interface that has just been given its points."""
        self._hooks[[pair.ingress, pair.egress]] = HOOKS[ingress_hook], HOOKS[egress_hook]
        self._opened_ns[[pair.ingress, pair.egress]] = now_ns
        for name in (*_PASSED_ON, *_REJECTED.values()):
            last = self._last.get(name, np.zeros(self.points.capacity, np.uint64))
            before = self._before.setdefault(name, np.zeros_like(last))
            before[[pair.ingress, pair.egress]] = last[[pair.ingress, pair.egress]]

    def begin_link(self, pair: Pair, counters: LinkCounters) -> None:
        """Where its interface began to be counted; where that is known already, that stays."""
        self._links.setdefault(pair, counters)

    def note_link(self, pair: Pair, now: LinkCounters) -> None:
        """What the interface has counted by now; the first time says where it began."""
        before = self._links.get(pair, now)
        self._links[pair] = now
        packets, in_bytes = self._noted["link_packets"], self._noted["link_bytes"]
        # An interface that counts anew from zero has not counted backwards.
        packets[pair.ingress] += max(now.ingress_packets - before.ingress_packets, 0)
        packets[pair.egress] += max(now.egress_packets - before.egress_packets, 0)
        in_bytes[pair.ingress] += max(now.ingress_bytes - before.ingress_bytes, 0)
        in_bytes[pair.egress] += max(now.egress_bytes - before.egress_bytes, 0)

    def forget_link(self, pair: Pair) -> None:
        """Its interface went, and nobody knows what it had counted in the end."""
        self._links.pop(pair, None)

    def end_link(self, pair: Pair, last: LinkCounters) -> None:
        """What its interface had counted when it gave up the pair."""
        if pair in self._links:
            self.note_link(pair, last)
        self._links.pop(pair, None)

    def book_rows(self, point: NDArray[Any], packets: Counts, in_bytes: Counts) -> None:
        """Note flow rows that go out in this interval."""
        np.add.at(self._noted["flow_packets"], point, packets)
        np.add.at(self._noted["flow_bytes"], point, in_bytes)

    def book_rejected(self, kind: str, point: NDArray[Any]) -> None:
        """Note events of a kind, by their hook points, that could not be read."""
        np.add.at(self._noted[_REJECTED[kind]], point, np.uint64(1))

    def book_lost(self, interface: str, direction: int, packets: int, in_bytes: int) -> None:
        """Note flow rows of whatever interval that are given up."""
        lost = self._lost.setdefault((interface, direction), [0, 0])
        lost[0] += packets
        lost[1] += in_bytes

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
        self._noted["overflow_packets"] += packets
        self._noted["overflow_bytes"] += in_bytes
        point = np.flatnonzero((packets > 0) | (in_bytes > 0))
        return point, packets[point], in_bytes[point]

    def owe(self, what: str, counts: Counts) -> None:
        """Have rows report *counts* by hook point, `packets` or `bytes`, whose flow is lost.

        The kernel has not counted these as overflowed.
        """
        overflow = self._overflow_packets if what == "packets" else self._overflow_bytes
        overflow.add(counts)

    def _grown(self, name: str, totals: Rows) -> Counts:
        """How much a counter grew since the last interval, by hook point, all CPUs together."""
        now = np.zeros(self.points.capacity, np.uint64)
        now[: totals.shape[1]] = totals[name].sum(axis=0, dtype=np.uint64)
        return now - self._last.get(name, np.zeros_like(now))

    def close(self, totals: Rows, now_ns: int, flow_seq: int = 0) -> Columns:
        """The columns of the `ledger` records of the interval that ends now.

        *flow_seq* is the number of the next batch of flows.
        """
        grown: dict[str, Any] = {name: self._grown(name, totals) for name in _PASSED_ON}
        columns = grown | self._noted
        rejected = {name: self._noted[name] for name in _REJECTED.values()}
        for name, counts in (grown | rejected).items():
            self._last[name] = self._last.get(name, np.uint64(0)) + counts
        self._noted = {name: np.zeros_like(counts) for name, counts in self._noted.items()}
        started_ns, self.started_ns = self.started_ns, now_ns
        return self._rows(columns, started_ns, now_ns, flow_seq)

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

    def state(self) -> dict[str, Any]:
        """All that a successor needs to go on with the books."""
        count = self.points.count

        def packed(by_name: Mapping[str, Counts]) -> dict[str, bytes]:
            return {name: counts[:count].tobytes() for name, counts in by_name.items()}

        return {
            "started_ns": self.started_ns,
            "links": [
                [pair.ingress, pair.egress, *astuple(counters)]
                for pair, counters in self._links.items()
            ],
            "last": packed(self._last),
            "before": packed(self._before),
            "noted": packed(self._noted),
            "lost": [[*place, *counts] for place, counts in self._lost.items()],
            "hooks": self._hooks[:count].tobytes(),
            "opened_ns": self._opened_ns[:count].tobytes(),
            "overflow_packets": self._overflow_packets.due[:count].tobytes(),
            "overflow_bytes": self._overflow_bytes.due[:count].tobytes(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on with the books that somebody else has kept."""

        def into(counts: NDArray[Any], content: bytes) -> NDArray[Any]:
            kept = np.frombuffer(content, counts.dtype)
            counts[: len(kept)] = kept
            return counts

        def counts_of(by_name: Mapping[str, bytes]) -> dict[str, Counts]:
            return {
                name: into(np.zeros(self.points.capacity, np.uint64), content)
                for name, content in by_name.items()
            }

        self.started_ns = state["started_ns"]
        self._links = {
            Pair(ingress, egress): LinkCounters(*counters)
            for ingress, egress, *counters in state["links"]
        }
        self._last = counts_of(state["last"])
        self._before = counts_of(state["before"])
        self._noted |= counts_of(state["noted"])
        self._lost = {
            (interface, direction): [packets, in_bytes]
            for interface, direction, packets, in_bytes in state["lost"]
        }
        into(self._hooks, state["hooks"])
        into(self._opened_ns, state["opened_ns"])
        into(self._overflow_packets.due, state["overflow_packets"])
        into(self._overflow_bytes.due, state["overflow_bytes"])

    def _rows(self, columns: dict[str, Any], start_ns: int, end_ns: int, flow_seq: int) -> Columns:
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
            "flow_seq": np.full(len(point), flow_seq, np.uint64),
        }
        return typed(LEDGER, given)

    def take_lost(self, now_ns: int, flow_seq: int) -> Columns | None:
        """Further rows for what was given up, since its interfaces may be no more; mostly None."""
        if not self._lost:
            return None
        lost, self._lost = self._lost, {}
        names = tuple(dict.fromkeys(interface for interface, _ in lost))
        codes = [names.index(interface) for interface, _ in lost]
        packets, in_bytes = np.array(list(lost.values()), np.uint64).T
        given: dict[str, Any] = {
            "time": np.full(len(lost), now_ns, np.int64),
            "end": np.full(len(lost), now_ns, np.int64),
            "interface": Names(np.array(codes, "<u2"), names),
            "direction": np.array([direction for _, direction in lost], np.uint8),
            "hook": np.full(len(lost), HOOKS["tcx"], np.uint8),
            "lost_packets": packets,
            "lost_bytes": in_bytes,
            "flow_seq": np.full(len(lost), flow_seq, np.uint64),
        }
        return typed(LEDGER, given)
