# SPDX-License-Identifier: Apache-2.0
"""Replay captures: the kernel programs count their packets, as they would have on the wire.

Everything but the source of the packets and the clock is the agent's: flow cache, evictions,
intervals, ledger, batches.  Nothing is attached.  We feed a packet and wait for it, so nothing is
concurrent: an interval is closed between two packets, and no buffer is ever full.
"""

import asyncio
import dataclasses
import logging
import os
import secrets
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from agent import libbpf
from agent.backlog import Backlog
from agent.batch import Batcher
from agent.buffers import open_buffer
from agent.clock import boot_id
from agent.config import Config
from agent.interfaces import LinkCounters
from agent.ledger import Ledger
from agent.maps import SharedMaps
from agent.observer import Observer
from agent.plan import REPLAY_TICK_NS, Plan, remove_all, root_of
from agent.planning import plan_of
from agent.programs import load
from agent.publisher import Publisher
from agent.replay.clock import CaptureClock
from agent.replay.feed import MOST_PACKETS, RING_BYTES, Feeder
from agent.replay.gather import Gatherer
from agent.replay.timeline import Loaded, Timeline
from schemas.wire import Batch

log = logging.getLogger(__name__)

REFUSED = "refused by the kernel"
# Jiffies of the cache have 32 bits, and are compared as if half of that never passed.
_MOST_SILENT_TICKS = 1 << 30
_LEAST_SLOTS = 1 << 14
_PAUSE_SECONDS = 0.01


@dataclass(slots=True)
class Books:
    """What became of the packets that were read."""

    flow_rows: int = 0
    flow_packets: int = 0
    flow_bytes: int = 0
    rejected: Counter[str] = field(default_factory=Counter)

    def add(self, batch: Batch) -> None:
        """Note a batch that goes out."""
        if batch.kind != "flow":
            return
        self.flow_rows += batch.rows
        self.flow_packets += int(np.asarray(batch.columns["packets"]).sum())
        self.flow_bytes += int(np.asarray(batch.columns["bytes"]).sum())


async def replay(loaded: Loaded, config: Config, *, interval_ns: int) -> Books:
    """Publish the rows of all packets, as the node of *config*; returns when Kafka has them.

    Raises:
        LoadError: the kernel programs cannot be loaded.
    """
    plan = plan_for(config, loaded, interval_ns)
    backlog = Backlog()
    publisher = Publisher(config.broker(f"hookline-replay-{config.node}"), [backlog])
    report = await load(plan)
    for warning in report.warnings:
        log.warning(warning)
    try:
        player = Player(plan, loaded, node=config.node, interval_ns=interval_ns)
        # What is held open stays; however this process ends, nothing is left behind.
        held = [libbpf.open_pinned(path) for path in plan.pins.map("").iterdir()]
    finally:
        remove_all(plan.pins.root)
    books = Books(rejected=loaded.rejected.copy())
    publisher.start()
    try:
        for batches in player.play():
            await _publish(publisher, backlog, batches, books)
        while len(backlog):
            await asyncio.sleep(_PAUSE_SECONDS)
            publisher.raise_if_failed()
    finally:
        await publisher.stop(0)
        for fd in held:
            os.close(fd)
    books.rejected[REFUSED] += player.refused
    return books


async def _publish(
    publisher: Publisher, backlog: Backlog, batches: list[Batch], books: Books
) -> None:
    for batch in batches:
        backlog.add(batch)
        books.add(batch)
    publisher.more_waits()
    await asyncio.sleep(0)
    while not backlog.has_room:
        await asyncio.sleep(_PAUSE_SECONDS)
        publisher.raise_if_failed()


def plan_for(config: Config, loaded: Loaded, interval_ns: int) -> Plan:
    plan = plan_of(config)
    most_slots = plan.slots_per_cpu * plan.cpus
    return dataclasses.replace(
        plan,
        pin_path=str(root_of(f"replay-{os.getpid()}-{secrets.token_hex(3)}")),
        cgroup="",
        cpus=1,
        hook_points=1 << (loaded.points.capacity - 1).bit_length(),
        ring_bytes=RING_BYTES,
        slots_per_cpu=min(most_slots, _slots_for(loaded.timeline, interval_ns)),
        is_replay=True,
    )


def _slots_for(timeline: Timeline, interval_ns: int) -> int:
    """Enough for all flows of the busiest interval: an unused slot costs time in each of them."""
    if not len(timeline):
        return _LEAST_SLOTS
    _, counts = np.unique(timeline.time_ns // interval_ns, return_counts=True)
    return max(_LEAST_SLOTS, 1 << (16 * int(counts.max()) - 1).bit_length())


class Player:
    """Feeds the time line, interval by interval."""

    def __init__(self, plan: Plan, loaded: Loaded, *, node: str, interval_ns: int) -> None:
        self._timeline = loaded.timeline
        self._points = loaded.points
        maps = SharedMaps.of(plan)
        self._clock = CaptureClock(maps.clock, interval_ns=interval_ns)
        self._gatherer = Gatherer(Batcher(node, boot_id(), uuid.uuid4().hex))
        # Packets and bytes of the files so far, by hook point.
        self._link = np.zeros((2, plan.hook_points), np.int64)
        self._ledger = Ledger(loaded.points, 0)
        for pair in loaded.points.taken:
            self._ledger.open(pair, "replay", "replay", 0)
        self._note_links()
        self._observer = Observer(
            plan.pins,
            loaded.points,
            batcher=self._gatherer,
            ledger=self._ledger,
            maps=maps,
            clock=self._clock,
            open_buffer=partial(open_buffer, plan.pins, plan.sizes),
        )
        self._feeder = Feeder(libbpf.open_pinned(plan.pins.program("hook_ingress")))
        self._swept_ns = 0
        self.refused = 0

    def play(self) -> Iterator[list[Batch]]:
        """Feed everything; yields what is ready every few hundred packets."""
        times = self._timeline.time_ns
        at, count = 0, len(self._timeline)
        while at < count:
            self._begin_interval(int(times[at]))
            end = at + int(np.searchsorted(times[at:], self._clock.end_ns))
            for start in range(at, end, MOST_PACKETS):
                self._feed(slice(start, min(start + MOST_PACKETS, end)))
                yield self._released(self._observer.drain())
            self._note_links()
            yield self._released(self._observer.close_interval(is_last=end == count))
            at = end
        yield list(self._gatherer.rest(self._clock.anchor().as_map()))

    def _released(self, batches: Iterator[Batch]) -> list[Batch]:
        """*batches*; if this ends before they are published, all of it begins anew."""
        made = list(batches)
        self._observer.release(self._observer.positions())
        return made

    def _begin_interval(self, first_ns: int) -> None:
        if first_ns - self._swept_ns >= _MOST_SILENT_TICKS * REPLAY_TICK_NS // 2:
            self._sweep(first_ns)
        self._ledger.started_ns = self._clock.go_to(first_ns)

    def _sweep(self, now_ns: int) -> None:
        """Forget flows that have been silent so long that their age would be misread."""
        closed_ns = self._clock.end_ns
        silent = _MOST_SILENT_TICKS // 2 - (now_ns - closed_ns) // REPLAY_TICK_NS
        self._observer.forget_silent(now=closed_ns // REPLAY_TICK_NS, ticks=max(silent, 0))
        self._swept_ns = now_ns

    def _feed(self, part: slice) -> None:
        packets = self._timeline.chosen(part)
        np.add.at(self._link[0], packets.point, 1)
        np.add.at(self._link[1], packets.point, packets.length.astype(np.int64))
        self.refused += len(self._feeder.feed(packets))

    def _note_links(self) -> None:
        """What the files hold so far, as the interfaces would have counted it."""
        packets, in_bytes = self._link.tolist()
        for pair in self._points.taken:
            counters = LinkCounters(
                ingress_packets=packets[pair.ingress],
                ingress_bytes=in_bytes[pair.ingress],
                egress_packets=packets[pair.egress],
                egress_bytes=in_bytes[pair.egress],
            )
            self._ledger.note_link(pair, counters)
