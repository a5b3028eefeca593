# SPDX-License-Identifier: Apache-2.0
"""Nanoseconds a packet costs in each hook, by features, shapes and flows, and beside others.

    python -m bench.kernel [--quick] [--peer NAME=FILE:PROGRAM]

Times come from the kernel's own test run and are net of an empty program of the same type in the
same round.  A program called `drive` changes the source address before it calls the one under
test, for working sets and new flows; those times are net of the driver in front of an empty one.
"""

import mmap
import os
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np

from agent import libbpf
from agent.buffers import take
from agent.ring import RingBuffer
from bench import accounting, features
from bench.driver import run
from bench.frames import FRAMES
from bench.objects import Wanted
from bench.programs import Peers, at_once, hooks, instructions_verified
from bench.rounds import cell, interleave, net, table
from bench.subject import Scale, main
from schemas.dtype import dtype_from_layout
from schemas.packet import PACKET_EVENT

FRAME = FRAMES["TCP 1500 B"]
HOOKS = ("hook_xdp", "hook_ingress", "hook_egress")
SAMPLING = {
    "": (0, False),
    ", 1 in 1000": (1000, False),
    ", first packets": (0, True),
    ", both": (1000, True),
}
# The peers' events, `struct sample` of peers.bpf.c.
EVENT = np.dtype("V64")
EVENT_RING_BYTES = 4096 * mmap.PAGESIZE


def measure(scale: Scale) -> list[dict]:
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    # Pages of a large map that lie all over a memory which was long in use cost twice as much.
    with suppress(OSError):  # a container may not, and some kernels cannot
        Path("/proc/sys/vm/compact_memory").write_text("1")
    wanted = [Wanted.from_text(one) for one in scale.peers]
    peers = Peers()
    return [
        *accounting.measure(peers, wanted, scale.pick(7, 3)),
        *features.tables(peers, scale.pick(5, 3), scale.pick(5, 2)),
        events(peers, scale.pick(15, 7)),
        verified(),
    ]


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


def verified() -> dict:
    """What the verifier walks through, of one million instructions that it allows."""
    with ExitStack() as stack:
        loads = {
            text: hooks(sample_one_in=one_in, sample_first=first)
            for text, (one_in, first) in SAMPLING.items()
        }
        rows = [
            [f"hookline{text}", *(instructions_verified(loaded.fd(name)) for name in HOOKS)]
            for text, loaded in at_once(stack, loads).items()
        ]
    return table("Instructions the verifier walked through", ["", *HOOKS], rows)


if __name__ == "__main__":
    main(measure, __doc__, takes_peers=True)
