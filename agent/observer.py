# SPDX-License-Identifier: Apache-2.0
"""Turn what the kernel programs have written into batches, interval by interval.

`drain` empties the event buffers and is cheap enough for every few milliseconds.
`close_interval` snapshots the flow cache, settles evictions, closes the ledger and gives back all
batches.  The order inside matters and is stated where it does.

`state` is what another observer needs to go on behind these batches.  What was drained is given
back to the kernel by `release`, which is for when batches and state are safe: until then whoever
goes on from an older state finds everything where it was.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.batch import Cutter
from agent.buffers import EventBuffer, Open, Position
from agent.clock import Anchor, Clock
from agent.columns import Columns, flow_columns, packet_columns, total_columns
from agent.flowcache import Counted, FlowCache
from agent.interfaces import LinkCounters
from agent.ledger import OVERFLOW_COUNTERS, Ledger, Lost
from agent.maps import SharedMaps
from agent.names import DnsReader, TlsReader
from agent.owners import OwnerLookup
from agent.pace import LITTLE_SHARE, breathe
from agent.plan import Pins
from agent.points import HookPoints, Pair
from agent.rows import Rows, chosen, copied, joined
from agent.rules.rows import drop_columns, is_refusal
from agent.socketowners import SocketOwners
from agent.sockets import SocketBooks, socket_columns
from agent.surroundings import copies
from schemas.dns import DNS_EVENT
from schemas.dtype import unpack
from schemas.flow import FLOW_EVICTION, LANE
from schemas.packet import PACKET_EVENT
from schemas.socket import SOCKET_EVENT
from schemas.tls import TLS_EVENT
from schemas.wire import Batch

log = logging.getLogger(__name__)

# What came out of the event buffers and is worth batches before the interval ends.
_MANY_BYTES = 8 << 20
# Of a buffer, as long as the kernel has most of it.
_LARGE_SHARE = 0.25
# A record that another CPU has not finished holds up those behind it for microseconds.
_SETTLE_SECONDS = 0.05
# A row may begin before the snapshot that missed it.
_LATE_NS = 1_000_000_000


ColumnsOf = Callable[[Rows, HookPoints, Anchor], Columns]


@dataclass(slots=True)
class Events:
    """One kind of event on its way from the kernel's buffer to records of the same kind.

    *others* are kinds that some of the events belong to instead: which, and their columns.
    """

    kind: str
    buffer: EventBuffer
    columns: ColumnsOf
    others: Mapping[str, tuple[Callable[[Rows], NDArray[np.bool_]], ColumnsOf]] = field(
        default_factory=dict
    )
    # Whether there are columns although nothing waits here.
    is_held: Callable[[], bool] = lambda: False
    # What else is to be done with events as they come.
    meet: Callable[[Rows], None] | None = None
    waiting: list[Rows] = field(default_factory=list)
    # Whether the last drain found who should be met before long.
    has_met: bool = False

    # Most drains find nothing, many times a second; so nothing is done with nothing.
    def drain(self) -> int:
        """Empty the buffer; returns how many bytes of events wait for their batch."""
        self.has_met = False
        if len(rows := self.buffer.drain()):
            self.waiting.append(rows)
            if self.meet is not None:
                self.has_met = True
                self.meet(rows)
        return sum(rows.nbytes for rows in self.waiting)

    def take(self) -> Rows | None:
        """Everything that waited."""
        waiting, self.waiting = self.waiting, []
        if not waiting and self.is_held():
            return self.buffer.drain(limit=0)
        return joined(waiting) if waiting else None

    def records(
        self, rows: Rows, points: HookPoints, anchor: Anchor
    ) -> Iterator[tuple[str, Columns]]:
        """The columns of each kind that *rows* become."""
        for kind, (belong, columns) in self.others.items():
            if (is_one := belong(rows)).any():
                yield kind, columns(chosen(rows, is_one), points, anchor)
                rows = chosen(rows, ~is_one)
        if len(rows) or self.is_held():
            yield self.kind, self.columns(rows, points, anchor)


class Observer:
    """Reads one agent's kernel memory.  Nothing here waits for Kafka."""

    def __init__(
        self,
        pins: Pins,
        points: HookPoints,
        *,
        batcher: Cutter,
        ledger: Ledger,
        maps: SharedMaps,
        clock: Clock,
        open_buffer: Open,
        owners: OwnerLookup | None = None,
        socket_books: SocketBooks | None = None,
        name_of_rule: Callable[[int], str] = lambda _: "",
    ) -> None:
        """*name_of_rule* tells which rule is counted in a slot."""
        self._points = points
        self._batcher = batcher
        self._ledger = ledger
        self._owners = owners
        self._totals = maps.totals
        self._contexts = maps.contexts
        self.cache = FlowCache(maps.slots, maps.origins, maps.contexts)
        self._clock = clock
        self._open = open_buffer
        # Before there is a buffer of ours: what went into that of somebody else, if into any.
        self._sent_before = self._sent_evictions()
        self._evictions = open_buffer("evictions", FLOW_EVICTION)
        # Packets and bytes of the evictions that were drained, by hook point.
        self._evicted = np.zeros((2, points.capacity), np.uint64)
        packets = partial(packet_columns, maps.contexts)
        drops = partial(drop_columns, name_of_rule, maps.contexts)
        self._events = [
            Events(
                "packet",
                open_buffer("packets", PACKET_EVENT),
                packets,
                {"drop": (is_refusal, drops)},
            )
        ]
        self._has_settled = False
        self._socket_books = socket_books
        self._socket_owners: SocketOwners | None = None
        self._learned = 0  # of the socket events that wait, how many drains
        if socket_books is not None:
            self._add_sockets()
        self._hellos = TlsReader(partial(ledger.book_rejected, "tls"))
        self._add_names(pins)
        self._counted: list[Counted] = []
        self._held_share = 0.0
        # Whether the last drain found so little that the next has time (agent/pace.py).
        self.is_quiet = False

    def _add_sockets(self) -> None:
        owners = SocketOwners(self._owners) if self._owners is not None else None
        events = self._open("sockets", SOCKET_EVENT)
        columns = partial(socket_columns, owners)
        self._events.append(Events("socket", events, columns, meet=owners.meet if owners else None))
        self._socket_owners = owners

    def _add_names(self, pins: Pins) -> None:
        # What is not wanted any more has no programs, but may have left events.
        if pins.map("dns").exists():
            reader = DnsReader(partial(self._ledger.book_rejected, "dns"))
            self._events.append(Events("dns", self._open("dns", DNS_EVENT), reader.columns))
        if pins.map("tls").exists():
            hellos, is_held = self._open("tls", TLS_EVENT), self._hellos.is_waiting
            self._events.append(Events("tls", hellos, self._hellos.columns, is_held=is_held))

    def drain(self) -> Iterator[Batch]:
        """Empty the event buffers; batches come out when there is much."""
        waiting = self._drain_events()
        self._drain_evictions()
        waiting += sum(counted.slots.nbytes for counted in self._counted)
        held_share = self._largest_held_share()
        # What was given back since the drain before hides what came: then it is not known.
        self.is_quiet = (
            0 <= held_share - self._held_share < LITTLE_SHARE
            and not any(events.has_met for events in self._events)
            # Of a buffer that holds nothing after a drain, nothing is known either.
            and self._evictions.outlives_reader
        )
        self._held_share = held_share
        if waiting >= _MANY_BYTES or held_share > _LARGE_SHARE:
            yield from self._take_batches(self._clock.anchor())

    def close_interval(self, *, is_last: bool = False) -> Iterator[Batch]:
        """Everything that happened since the last call."""
        self._hellos.is_last = is_last
        anchor = self._clock.anchor()
        # 0. What overflowed, before the flows: a snapshot after it misses those flows, and thereby
        # tells what was reported of them.  What overflows later would be reported twice.
        in_use = self._totals[:, : self._points.count]
        overflowed = copied(in_use)
        # 1. The flows.  What arrives from here on belongs to the next interval.
        counted = self.cache.snapshot(breathe)
        self._clock.begin_interval()
        # 2. The totals, after the flows, so that they hold all that the flows hold.
        totals = copied(in_use)
        for name in OVERFLOW_COUNTERS:
            totals[name] = overflowed[name]
        # 3. The evictions that had happened by then, and with them what never came.
        lost = self._settle_evictions()
        self._drain_events()
        self._counted.append(counted)
        yield from self._take_batches(anchor)
        yield from self._overflow_batches(totals, lost, anchor)
        if self._owners is not None:
            self._owners.forget_closed(anchor.monotonic_ns - _LATE_NS)
        if self._socket_books is not None:
            self._socket_books.warn_of_lost()
        yield from self._ledger_batches(totals, anchor)
        self._has_settled = lost is not None

    def state(self) -> dict[str, Any]:
        """How far batches tell what is in the kernel's memory, but for the slots of `cache`."""
        return {
            "replaced": self.cache.replaced(),
            "evicted": self._evicted[:, : self._points.count].tobytes(),
            "buffers": self.positions(),
            "ledger": self._ledger.state(),
        }

    def restore(self, state: Mapping[str, Any], reported: Rows) -> None:
        """Go on where another observer of the same memory had come to."""
        self.cache.restore(reported, state["replaced"])
        evicted = np.frombuffer(state["evicted"], np.uint64).reshape(2, -1)
        self._evicted[:, : evicted.shape[1]] = evicted
        self._ledger.restore(state["ledger"])
        buffers = dict(self._buffers())
        for name, position in state["buffers"].items():
            if name in buffers:
                buffers[name].release(tuple(position))
        if not self._evictions.outlives_reader:
            self._write_off_evictions()

    def _write_off_evictions(self) -> None:
        """What was in a perf buffer has gone with the process that had it: totals are left."""
        for row, name in enumerate(("packets", "bytes")):
            self._ledger.owe(name, self._sent_before[row] - self._evicted[row])
        self._evicted[:] = self._sent_before

    def _sent_evictions(self) -> NDArray[np.uint64]:
        """Packets and bytes of what the kernel has put into the eviction buffer, by hook point."""
        names = ("evicted_packets", "evicted_bytes")
        return np.array([self._totals[name].sum(axis=0, dtype=np.uint64) for name in names])

    def positions(self) -> dict[str, Position]:
        """How far each buffer was drained."""
        return {name: buffer.drained() for name, buffer in self._buffers()}

    def release(self, positions: Mapping[str, Position]) -> None:
        """Give back what was drained up to there."""
        buffers = dict(self._buffers())
        for name, position in positions.items():
            buffers[name].release(position)
        if self._has_settled:
            self._points.settle()
            self._has_settled = False

    def _buffers(self) -> Iterator[tuple[str, EventBuffer]]:
        yield "evictions", self._evictions
        for events in self._events:
            yield events.kind, events.buffer

    def _largest_held_share(self) -> float:
        return max(buffer.held_share for _, buffer in self._buffers())

    def batches(self, kind: str, columns: Columns) -> Iterator[Batch]:
        """Batches of rows that were not written by the kernel."""
        yield from self._batch(kind, columns, self._clock.anchor())

    def forget_silent(self, *, now: int, ticks: int) -> None:
        """Let go of flows without a packet for *ticks*; only while no packet can come."""
        self.cache.forget_silent(now=now, ticks=ticks)

    def _settle_evictions(self) -> Lost | None:
        position = self._evictions.position()
        deadline = time.monotonic() + _SETTLE_SECONDS
        while True:
            self._drain_evictions()
            if self._evictions.has_passed(position):
                return self.cache.take_lost(self._points.capacity)
            if time.monotonic() > deadline:
                # Not lost, only late: the next interval knows.
                return None

    def _drain_events(self) -> int:
        return sum(events.drain() for events in self._events)

    def owners_of(self, flows: Mapping[str, Any], offset_ns: int) -> Columns:
        """Who has the sockets of *flows*, as far as is known at this moment; no owners, no columns.

        *offset_ns* is wall time of the boot.
        """
        if self._owners is None:
            return {}
        self._drain_events()
        self._learn_owners()
        return self._owners.flow_columns(flows, offset_ns)

    def _learn_owners(self) -> None:
        """Learn what the events that wait tell of sockets, each of them once."""
        for events in self._events:
            new = events.waiting[self._learned :]
            if events.kind == "socket" and self._socket_owners is not None and new:
                self._socket_owners.learn(joined(new))
                self._learned = len(events.waiting)

    def _drain_evictions(self) -> None:
        if len(evictions := self._evictions.drain()):
            is_counted = ~copies(evictions["lane"], self._contexts)
            point = unpack(LANE, "point", evictions["lane"])[is_counted]
            for row, name in enumerate(("packets", "bytes")):
                np.add.at(self._evicted[row], point, evictions[name][is_counted].astype(np.uint64))
            self._counted.append(self.cache.settle(evictions))

    def _take_batches(self, anchor: Anchor) -> Iterator[Batch]:
        counted, self._counted = self._counted, []
        # Before the flows, whose owners it tells.
        self._learn_owners()
        self._learned = 0
        taken = [(one, rows) for one in self._events if (rows := one.take()) is not None]
        for part in counted:
            if len(part):
                point = unpack(LANE, "point", part.slots["lane"])
                columns = flow_columns(part, self._points, self._contexts, anchor, self._owners)
                is_counted = ~copies(part.slots["lane"], self._contexts)
                counts = (part.packets[is_counted], part.bytes[is_counted])
                self._ledger.book_rows(point[is_counted], *counts)
                yield from self._batch("flow", columns, anchor)
        for events, rows in taken:
            for kind, columns in events.records(rows, self._points, anchor):
                yield from self._batch(kind, columns, anchor)

    def seen(self, pair: Pair) -> LinkCounters:
        """What the hooks of *pair* have seen until now, as an interface itself may count it."""
        found = []
        for point in (pair.ingress, pair.egress):
            totals = self._totals[:, point]
            for what in ("packets", "bytes"):
                sums = {
                    name: int(totals[f"{name}_{what}"].sum(dtype=np.uint64))
                    for name in ("seen", "extra", "dropped", "dropped_extra")
                }
                single = sums["seen"] - sums["extra"]
                # What goes out is counted behind the hook, where nothing refused comes by.
                if point == pair.egress:
                    single -= sums["dropped"] - sums["dropped_extra"]
                found.append(single)
        return LinkCounters(*found)

    def _overflow_batches(self, totals: Rows, lost: Lost | None, anchor: Anchor) -> Iterator[Batch]:
        start_ns = self._ledger.started_ns
        point, packets, in_bytes = self._ledger.take_overflow(totals, lost)
        if not len(point):
            return
        self._ledger.book_rows(point, packets, in_bytes)
        end_ns = anchor.known_end(anchor.wall_ns)
        columns = total_columns(
            point, packets, in_bytes, self._points, start_ns=start_ns, end_ns=end_ns
        )
        log.warning(
            "flows lost their detail, their totals are kept; consider more --flow-slots",
            extra={"packets": int(packets.sum())},
        )
        yield from self._batch("flow", columns, anchor)

    def _ledger_batches(self, totals: Rows, anchor: Anchor) -> Iterator[Batch]:
        flow_seq = self._batcher.next_seq("flow")
        columns = self._ledger.close(totals, anchor.wall_ns, flow_seq)
        yield from self._batch("ledger", columns, anchor)
        if (lost := self._ledger.take_lost(anchor.wall_ns, flow_seq)) is not None:
            yield from self._batch("ledger", lost, anchor)

    def _batch(self, kind: str, columns: Columns, anchor: Anchor) -> Iterator[Batch]:
        return self._batcher.batches(kind, columns, anchor.as_map())
