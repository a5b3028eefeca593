# SPDX-License-Identifier: Apache-2.0
"""CPU time to report 100,000 flows: from the mapped flow cache to acknowledged Kafka records.

    python -m bench.flowcache [--quick | --long]

Every flow gets one packet, spread over all CPUs; then an interval is closed as the agent does it,
step by step.  Time is the CPU time of this process, its threads included, so compression counts
and the broker's own does not.
"""

import asyncio
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from aiokafka.codec import zstd_encode

from agent.backlog import Backlog
from agent.batch import Batcher
from agent.buffers import take
from agent.clock import KernelClock
from agent.columns import flow_columns
from agent.flowcache import FlowCache
from agent.interfaces import Interface
from agent.points import number_points
from agent.publisher import Publisher
from agent.ring import RingBuffer
from bench.driver import Driver
from bench.programs import CPUS, Hooks, Peers, hooks
from bench.rounds import cell, table
from bench.subject import Scale, main
from hookline.kafka import Kafka
from schemas.dtype import dtype_from_layout
from schemas.flow import FLOW_EVICTION
from schemas.wire import Batch, encode
from service.broker import Broker

FLOWS = 100_000
RING_BYTES = 1 << 24
INTERFACE = Interface("lo", 1, is_up=True, link_bytes=14, is_hardware=False)
STEPS = ("snapshot", "settle", "columns", "batches")
ALONE = ("encode", "compress")


def measure(scale: Scale) -> list[dict]:
    rounds = scale.pick(15, 5, 31)
    with hooks(ring_bytes=RING_BYTES) as loaded:
        interval = Interval(loaded)
        pairs = [(interval.close(), interval.payloads()) for _ in range(rounds + 1)][1:]
        published = asyncio.run(publish(interval, rounds))
    steps, alone = zip(*pairs, strict=True)
    so_far = [sum(one.values()) for one in steps]
    found = {
        **{name: [one[name] for one in steps] for name in STEPS},
        "so far": so_far,
        "encode, compress, publish until acknowledged": published,
        **{f"of that, {name} alone": [one[name] for one in alone] for name in ALONE},
        "all, until acknowledged": [a + b for a, b in zip(so_far, published, strict=True)],
    }
    rows = [
        [name, cell(took, 1), cell([one * 1_000 / interval.rows for one in took], 2)]
        for name, took in found.items()
    ]
    title = f"{interval.rows:,} flows, all of them active, {interval.payload_bytes:,} bytes"
    return [table(title, ["step", "CPU ms", "µs a flow"], rows)]


class Interval:
    """Traffic of 100,000 flows, and the steps that report it."""

    def __init__(self, loaded: Hooks) -> None:
        pins = loaded.plan.pins
        self._loaded = loaded
        self._driver = Driver(Peers())
        self._cache = FlowCache(loaded.maps.slots, loaded.maps.origins, loaded.maps.contexts)
        self._evictions = RingBuffer(
            pins.map("evictions"), RING_BYTES, dtype_from_layout(FLOW_EVICTION)
        )
        self._clock = KernelClock(pins, loaded.maps.clock)
        self._points = number_points([INTERFACE])
        self._batcher = Batcher("bench", "boot", "run")
        self.batches: list[Batch] = []
        self.rows = self.payload_bytes = 0

    def close(self) -> dict[str, float]:
        """One interval; CPU milliseconds of each step."""
        self._traffic()
        took: dict[str, float] = {}
        anchor = self._clock.anchor()
        snapshot = clocked(took, "snapshot", self._cache.snapshot)
        self._clock.begin_interval()
        settled = clocked(took, "settle", lambda: self._cache.settle(take(self._evictions)))
        columns = clocked(
            took,
            "columns",
            lambda: [
                flow_columns(one, self._points, self._loaded.maps.contexts, anchor)
                for one in (snapshot, settled)
            ],
        )
        self.batches = clocked(took, "batches", lambda: list(self._cut(columns, anchor.as_map())))
        self.rows = len(snapshot) + len(settled)
        return took

    def payloads(self) -> dict[str, float]:
        """What the publisher does with an interval's batches before it sends; CPU milliseconds."""
        took: dict[str, float] = {}
        payloads = clocked(took, "encode", lambda: [encode(one) for one in self.batches])
        self.payload_bytes = sum(len(one) for one in payloads)
        clocked(took, "compress", lambda: [zstd_encode(one) for one in payloads])
        return took

    def _traffic(self) -> None:
        cpus = os.sched_getaffinity(0)
        for cpu in range(CPUS):
            os.sched_setaffinity(0, {cpu})
            self._driver.each_once(self._loaded.fd("hook_ingress"), FLOWS // CPUS, cpu)
        os.sched_setaffinity(0, cpus)

    def _cut(self, columns, anchor) -> Iterator[Batch]:
        for one in columns:
            yield from self._batcher.batches("flow", one, anchor)


def clocked(took: dict[str, float], name: str, step: Callable):
    began = time.process_time_ns()
    found = step()
    took[name] = (time.process_time_ns() - began) / 1e6
    return found


async def publish(interval: Interval, rounds: int) -> list[float]:
    """CPU milliseconds from handing the batches over until Kafka has acknowledged them all."""
    took = []
    with tempfile.TemporaryDirectory(prefix="hookline-bench-") as directory:
        async with Kafka(Path(directory)) as kafka:
            backlog = Backlog(1 << 28)
            publisher = Publisher(broker(kafka.bootstrap), [backlog])
            publisher.start()
            for number in range(rounds + 1):
                began = time.process_time_ns()
                for batch in interval.batches:
                    backlog.add(batch)
                publisher.more_waits()
                while len(backlog):
                    await asyncio.sleep(0.02)
                if number:  # the first one connects
                    took.append((time.process_time_ns() - began) / 1e6)
            await publisher.stop(10)
    return took


def broker(address: str) -> Broker:
    return Broker(address, "plaintext", "", "", "", "PLAIN", "", "", "bench")


if __name__ == "__main__":
    main(measure, __doc__)
