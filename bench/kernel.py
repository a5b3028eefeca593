# SPDX-License-Identifier: Apache-2.0
"""Nanoseconds a packet costs in each hook, beside the hash maps that others count flows in.

    python -m bench.kernel [--quick]

Times come from the kernel's own test run and are net of an empty program of the same type in the
same round.  A program called `drive` changes the source address before it calls the one under
test, for working sets and new flows; those times are net of the driver in front of an empty one.
"""

import mmap
import os
from collections.abc import Callable

import numpy as np

from agent import libbpf
from agent.buffers import take
from agent.ring import RingBuffer
from bench.driver import RUN, Driver
from bench.frames import FRAMES
from bench.programs import Hooks, Peers, hooks, instructions_verified
from bench.rounds import Samples, cell, interleave, net, table
from bench.subject import Scale, main
from schemas.dtype import dtype_from_layout
from schemas.flow import FLOW_EVICTION
from schemas.packet import PACKET_EVENT

FRAME = FRAMES["TCP 1500 B"]
HOOKS = ("hook_xdp", "hook_ingress", "hook_egress")
SAMPLING = {"": (0, False), ", 1 in 1000": (1000, False), ", first packets": (0, True)}
EVERY_PACKET = (1, False)
# The peers' events, `struct sample` of peers.bpf.c.
EVENT = np.dtype("V64")
EVENT_RING_BYTES = 4096 * mmap.PAGESIZE


def measure(scale: Scale) -> list[dict]:
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    peers = Peers()
    return [
        existing_flow(peers, scale.pick(31, 7)),
        events(peers, scale.pick(31, 7)),
        working_sets(peers, scale.pick(15, 5)),
        verified(),
    ]


def existing_flow(peers: Peers, rounds: int) -> dict:
    programs = {
        "empty": (peers.fd("empty_xdp"), peers.fd("empty_tc")),
        "parsing alone": (peers.fd("parse_only_xdp"), peers.fd("parse_only_tc")),
        "per-CPU LRU hash, jiffies": (peers.fd("lru_xdp"), peers.fd("lru_tc")),
        "per-CPU LRU hash, clock": (None, peers.fd("lru_clock_tc")),
    }
    with hooks() as off, hooks(sample_one_in=1000) as some, hooks(sample_first=True) as first:
        for text, loaded in zip(SAMPLING, (off, some, first), strict=True):
            programs[f"hookline{text}"] = (loaded.fd("hook_xdp"), loaded.fd("hook_ingress"))
        programs["hookline, egress"] = (None, off.fd("hook_egress"))
        variants = {
            (name, kind, shape): run(fd, frame)
            for name, fds in programs.items()
            for kind, fd in zip(("XDP", "tc"), fds, strict=True)
            for shape, frame in FRAMES.items()
            if fd is not None
        }
        samples = interleave(variants, rounds)
    rows = []
    for name, fds in programs.items():
        for kind, fd in zip(("XDP", "tc"), fds, strict=True):
            if fd is not None and name != "empty":
                nets = [net(samples, (name, kind, one), ("empty", kind, one)) for one in FRAMES]
                rows.append([f"{name}, {kind}", *map(cell, nets), quietest(samples, name, kind)])
    return table("An existing flow", ["ns a packet", *FRAMES, "at its quietest"], rows)


def quietest(samples: Samples, name: str, kind: str) -> int:
    """With the least that each program ever took, on average over the frames."""
    least = [min(samples[name, kind, one]) - min(samples["empty", kind, one]) for one in FRAMES]
    return round(sum(least) / len(least))


def run(fd: int, frame: bytes, repeat: int = RUN) -> Callable[[], float]:
    return lambda: float(libbpf.run_program(fd, frame, repeat=repeat)[1])


def events(peers: Peers, rounds: int) -> dict:
    """A record through a ring buffer for each packet, which others' designs do."""
    with hooks(sample_one_in=1) as every, hooks() as off:
        own = RingBuffer(every.plan.pins.map("packets"), 1 << 24, dtype_from_layout(PACKET_EVENT))
        path = every.plan.pins.map("events")
        libbpf.pin(peers.map_fd("events"), path)
        other = RingBuffer(path, EVENT_RING_BYTES, EVENT)
        variants = {
            "empty": run(peers.fd("empty_tc"), FRAME),
            "hookline, sampling off": run(off.fd("hook_ingress"), FRAME),
            "hookline, every packet's 160 bytes": drained(
                own, run(every.fd("hook_ingress"), FRAME)
            ),
            "parsing and a 64-byte event, no flow": drained(
                other, run(peers.fd("event_tc"), FRAME)
            ),
        }
        samples = interleave(variants, rounds)
    rows = [[name, cell(net(samples, name, "empty"))] for name in variants if name != "empty"]
    return table("An event for each packet, TCP 1500 B at tc", ["ns a packet", "net"], rows)


def drained(ring: RingBuffer, measured: Callable[[], float]) -> Callable[[], float]:
    def run_and_drain() -> float:
        took = measured()
        while len(take(ring)):
            pass
        return took

    return run_and_drain


def working_sets(peers: Peers, rounds: int) -> dict:
    sizes = {"1 flow": 1, "1,000 flows": 1_000, "64,000 flows": 64_000}
    driver = Driver(peers)
    variants: dict[object, Callable[[], float]] = {}
    with hooks() as roomy, hooks(slots_per_cpu=1 << 12) as full:
        for size, flows in sizes.items():
            variants["empty", size] = driver.over(peers.fd("empty_tc"), flows)
            variants["hookline", size] = driver.over(roomy.fd("hook_ingress"), flows)
            variants["per-CPU LRU hash", size] = driver.over(peers.fd("lru_tc"), flows)
        small = Peers(flows=1 << 12)
        evictions = RingBuffer(
            full.plan.pins.map("evictions"), 1 << 24, dtype_from_layout(FLOW_EVICTION)
        )
        for fate in ("new flow, room", "new flow, full"):
            variants["empty", fate] = driver.onwards(peers.fd("empty_tc"))
        variants["hookline", "new flow, room"] = emptied(
            roomy, driver.onwards(roomy.fd("hook_ingress"))
        )
        variants["hookline", "new flow, full"] = drained(
            evictions, driver.onwards(full.fd("hook_ingress"))
        )
        variants["per-CPU LRU hash", "new flow, room"] = lambda: fresh_lru(driver)
        variants["per-CPU LRU hash", "new flow, full"] = driver.onwards(small.fd("lru_tc"))
        samples = interleave(variants, rounds)
    columns = [*sizes, "new flow, room", "new flow, full"]
    rows = [
        [name, *(cell(net(samples, (name, one), ("empty", one))) for one in columns)]
        for name in ("hookline", "per-CPU LRU hash")
    ]
    return table("Working sets and new flows, TCP 1500 B at tc", ["ns a packet", *columns], rows)


def emptied(loaded: Hooks, measured: Callable[[], float]) -> Callable[[], float]:
    """With an empty flow cache each time; nobody else uses it."""
    with libbpf.opened(loaded.plan.pins.map("flow_slots")) as fd:
        memory = mmap.mmap(fd, loaded.maps.slots.nbytes)
    words = np.frombuffer(memory, np.uint64)

    def empty_and_run() -> float:
        words[:] = 0
        return measured()

    return empty_and_run


def fresh_lru(driver: Driver) -> float:
    peers = Peers()
    return driver.onwards(peers.fd("lru_tc"))()


def verified() -> dict:
    """What the verifier walks through, of one million instructions that it allows."""
    rows = []
    for text, (one_in, first) in {**SAMPLING, ", everything": (1000, True)}.items():
        with hooks(sample_one_in=one_in, sample_first=first) as loaded:
            counts = [instructions_verified(loaded.fd(name)) for name in HOOKS]
            rows.append([f"hookline{text}", *counts])
    return table("Instructions the verifier walked through", ["", *HOOKS], rows)


if __name__ == "__main__":
    main(measure, __doc__)
