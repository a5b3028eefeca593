# SPDX-License-Identifier: Apache-2.0
"""Turn what the kernel programs have written into batches, interval by interval.

`drain` empties the event buffers and is cheap enough for every few milliseconds.
`close_interval` snapshots the flow cache, settles evictions, closes the ledger and gives back all
batches.  The order inside matters and is stated where it does.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from agent.batch import Cutter
from agent.clock import Anchor, Clock
from agent.columns import Columns, flow_columns, packet_columns, total_columns
from agent.flowcache import Counted, FlowCache
from agent.ledger import OVERFLOW_COUNTERS, Ledger, Lost
from agent.maps import SharedMaps
from agent.names import DnsReader, TlsReader
from agent.owners import OwnerLookup
from agent.perf import PerfBuffer
from agent.plan import Plan
from agent.points import HookPoints
from agent.ring import RingBuffer
from agent.rows import Rows, copied, joined
from agent.socketowners import SocketOwners
from agent.sockets import SocketBooks, socket_columns
from agent.surroundings import copies
from schemas.dns import DNS_EVENT
from schemas.dtype import dtype_from_layout, unpack
from schemas.flow import FLOW_EVICTION, LANE
from schemas.layout import Layout
from schemas.packet import PACKET_EVENT
from schemas.socket import SOCKET_EVENT
from schemas.tls import TLS_EVENT
from schemas.wire import Batch

log = logging.getLogger(__name__)

# What came out of the event buffers and is worth batches before the interval ends.
_MANY_BYTES = 8 << 20
# A record that another CPU has not finished holds up those behind it for microseconds.
_SETTLE_SECONDS = 0.05
_PERF_SHARE = 8
# A row may begin before the snapshot that missed it.
_LATE_NS = 1_000_000_000


@dataclass(slots=True)
class Events:
    """One kind of event on its way from the kernel's buffer to records of the same kind."""

    kind: str
    buffer: "RingBuffer | PerfBuffer"
    columns: Callable[[Rows, HookPoints, Anchor], Columns]
    # Whether there are columns although nothing waits here.
    is_held: Callable[[], bool] = lambda: False
    # What else is to be done with events as they come.
    meet: Callable[[Rows], None] | None = None
    waiting: list[Rows] = field(default_factory=list)

    # Most drains find nothing, fifty times a second; so nothing is done with nothing.
    def drain(self) -> int:
        """Empty the buffer; returns how many bytes of events wait for their batch."""
        if len(rows := self.buffer.drain()):
            self.waiting.append(rows)
            if self.meet is not None:
                self.meet(rows)
        return sum(rows.nbytes for rows in self.waiting)

    def take(self) -> Rows | None:
        """Everything that waited."""
        waiting, self.waiting = self.waiting, []
        if not waiting and self.is_held():
            return self.buffer.drain(limit=0)
        return joined(waiting) if waiting else None


class Observer:
    """Reads one agent's kernel memory.  Nothing here waits for Kafka."""

    def __init__(
        self,
        plan: Plan,
        points: HookPoints,
        buffer: str,
        *,
        batcher: Cutter,
        ledger: Ledger,
        owners: OwnerLookup | None = None,
        socket_books: SocketBooks | None = None,
        maps: SharedMaps,
        clock: Clock,
    ) -> None:
        self._points = points
        self._batcher = batcher
        self._ledger = ledger
        self._owners = owners
        self._totals = maps.totals
        self._contexts = maps.contexts
        self._cache = FlowCache(maps.slots, maps.origins, maps.contexts)
        self._clock = clock
        self._evictions = _event_buffer(plan, buffer, "evictions", FLOW_EVICTION)
        packets = _event_buffer(plan, buffer, "packets", PACKET_EVENT)
        self._events = [Events("packet", packets, partial(packet_columns, maps.contexts))]
        self._socket_books = socket_books
        self._socket_owners: SocketOwners | None = None
        self._learned = 0  # of the socket events that wait, how many drains
        if socket_books is not None:
            self._add_sockets(plan, buffer)
        self._hellos = TlsReader(partial(ledger.book_rejected, "tls"))
        self._add_names(plan, buffer)
        self._counted: list[Counted] = []

    def _add_sockets(self, plan: Plan, buffer: str) -> None:
        owners = SocketOwners(self._owners) if self._owners is not None else None
        # Of locked memory, which perf buffers count as, 8 MiB are usual: flows and packets have them.
        share = 1 if buffer == "ring" else _PERF_SHARE
        events = _event_buffer(plan, buffer, "sockets", SOCKET_EVENT, share=share)
        columns = partial(socket_columns, owners)
        self._events.append(Events("socket", events, columns, meet=owners.meet if owners else None))
        self._socket_owners = owners

    def _add_names(self, plan: Plan, buffer: str) -> None:
        if plan.dns_ports:
            reader = DnsReader(partial(self._ledger.book_rejected, "dns"))
            messages = _event_buffer(plan, buffer, "dns", DNS_EVENT)
            self._events.append(Events("dns", messages, reader.columns))
        if plan.tls:
            hellos = _event_buffer(plan, buffer, "tls", TLS_EVENT)
            is_held = self._hellos.is_waiting
            self._events.append(Events("tls", hellos, self._hellos.columns, is_held))

    def drain(self) -> Iterator[Batch]:
        """Empty the event buffers; batches come out when there is much."""
        waiting = self._drain_events()
        self._drain_evictions()
        waiting += sum(counted.slots.nbytes for counted in self._counted)
        if waiting >= _MANY_BYTES:
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
        counted = self._cache.snapshot()
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
        yield from self._batch("ledger", self._ledger.close(totals, anchor.wall_ns), anchor)
        if lost is not None:
            self._points.settle()

    def batches(self, kind: str, columns: Columns) -> Iterator[Batch]:
        """Batches of rows that were not written by the kernel."""
        yield from self._batch(kind, columns, self._clock.anchor())

    def forget_silent(self, *, now: int, ticks: int) -> None:
        """Let go of flows without a packet for *ticks*; only while no packet can come."""
        self._cache.forget_silent(now=now, ticks=ticks)

    def _settle_evictions(self) -> Lost | None:
        position = self._evictions.position()
        deadline = time.monotonic() + _SETTLE_SECONDS
        while True:
            self._drain_evictions()
            if self._evictions.has_passed(position):
                return self._cache.take_lost(self._points.capacity)
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
            self._counted.append(self._cache.settle(evictions))

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
            columns = events.columns(rows, self._points, anchor)
            yield from self._batch(events.kind, columns, anchor)

    def _overflow_batches(self, totals: Rows, lost: Lost | None, anchor: Anchor) -> Iterator[Batch]:
        start_ns = self._ledger.started_ns
        point, packets, in_bytes = self._ledger.take_overflow(totals, lost)
        if not len(point):
            return
        self._ledger.book_rows(point, packets, in_bytes)
        columns = total_columns(
            point, packets, in_bytes, self._points, start_ns=start_ns, end_ns=anchor.wall_ns
        )
        log.warning(
            "flows lost their detail, their totals are kept; consider more --flow-slots",
            extra={"packets": int(packets.sum())},
        )
        yield from self._batch("flow", columns, anchor)

    def _batch(self, kind: str, columns: Columns, anchor: Anchor) -> Iterator[Batch]:
        return self._batcher.batches(kind, columns, anchor.as_map())


def _event_buffer(
    plan: Plan, buffer: str, name: str, layout: Layout, *, share: int = 1
) -> "RingBuffer | PerfBuffer":
    kind = RingBuffer if buffer == "ring" else PerfBuffer
    return kind(plan.pins.map(name), plan.ring_bytes // share, dtype_from_layout(layout))
