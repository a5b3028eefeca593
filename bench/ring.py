# SPDX-License-Identifier: Apache-2.0
"""CPU nanoseconds to take one event out of a buffer: numpy on the mapping, libbpf and bcc.

    python -m bench.ring [--quick | --long]

Kernel programs fill a buffer, what is timed is emptying it again, on the same CPU.  Everything that
leaves numpy is a copy.  libbpf's callbacks are in C: one copies, one does nothing.  bcc's return at
once, or make the event an object, as bcc would, and read three of its fields.  What a look at the
clock takes, which is a system call, is taken off.  Then a program fills a buffer without a pause on
one CPU, while it is emptied on the other.
"""

import mmap
import os
import time
from collections.abc import Callable
from contextlib import ExitStack

import numpy as np

from agent import libbpf
from bench.frames import FRAMES
from bench.programs import Peers
from bench.readers import (
    Filled,
    Libbpf,
    bcc_counting,
    bcc_reader,
    numpy_after_others,
    numpy_of_map,
    numpy_reader,
)
from bench.rounds import cell, interleave, ratio, table
from bench.stream import sustained
from bench.subject import Scale, main

FRAME = FRAMES["UDP 64 B"]
HEADERS_BYTES = 1 << 23
# As peers.bpf.c has them.
EVENTS_BYTES = 4096 * mmap.PAGESIZE
EVENT = np.dtype("V64")
# One event shows what it costs to empty a buffer, whatever is in it.
BURSTS = (1, 100, 1_000, 10_000)
# So many of the same size in a row, of which all but the first find the reader in the CPU's caches.
IN_A_ROW, ROW_BURST = 20, 1_000
# In smaller bursts libbpf takes hardly more than the clock's own scatter.
COMPARED_FROM = 1_000
HEADERS_BURSTS = (100, 10_000)
OURS, COPYING = "numpy", "libbpf in C, a callback that copies"


def measure(scale: Scale) -> list[dict]:
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    rounds = scale.pick(21, 5, 41)
    return [small_events(rounds), headers(rounds), sustained(scale)]


def small_events(rounds: int) -> dict:
    """Events of 64 bytes; all readers share one buffer."""
    peers, library = Peers(), Libbpf()
    map_fd, fd = peers.map_fd("events"), peers.fd("event_tc")
    catch_up, ours = numpy_after_others(numpy_of_map(map_fd, EVENTS_BYTES, EVENT))
    into = np.empty(max(BURSTS), EVENT)
    readers = {
        OURS: ours,
        COPYING: library.copying(map_fd, into),
        "libbpf in C, a callback that does nothing": library.counting(map_fd),
        "bcc callback": bcc_counting(peers.module, "events"),
    }
    kinds = [*((burst, 1) for burst in BURSTS), (ROW_BURST, IN_A_ROW)]
    variants = {
        (name, kind): timed((fd, reader), *kind, catch_up)
        for kind in kinds
        for name, reader in readers.items()
    }
    samples = interleave(variants, rounds)
    rows = [[name, *(cell(samples[name, kind], 1) for kind in kinds)] for name in readers]
    times = [
        cell(ratio(samples, (OURS, kind), (COPYING, kind)), 2) if kind[0] >= COMPARED_FROM else ""
        for kind in kinds
    ]
    in_a_row = f"{IN_A_ROW} bursts of {ROW_BURST:,} in a row"
    return table(
        "Events of 64 bytes, CPU ns an event",
        ["reader", *(f"bursts of {burst:,}" for burst in BURSTS), in_a_row],
        [*rows, ["numpy, times libbpf that copies", *times]],
    )


def headers(rounds: int) -> dict:
    """Headers of 160 bytes as the agent samples them, from either kind of buffer."""
    bursts = HEADERS_BURSTS
    with ExitStack() as stack:
        readers: dict[str, Filled] = {
            "numpy, ring buffer": numpy_reader(stack, "ring", HEADERS_BYTES),
            "numpy, perf buffer": numpy_reader(stack, "perf", HEADERS_BYTES),
            "bcc callback, ring buffer": bcc_reader("ring", HEADERS_BYTES, is_read=False),
            "bcc callback that reads, ring buffer": bcc_reader("ring", HEADERS_BYTES, is_read=True),
            "bcc callback, perf buffer": bcc_reader("perf", HEADERS_BYTES, is_read=False),
            "bcc callback that reads, perf buffer": bcc_reader("perf", HEADERS_BYTES, is_read=True),
        }
        variants = {
            (name, burst): timed(reader, burst)
            for burst in bursts
            for name, reader in readers.items()
        }
        samples = interleave(variants, rounds)
    best = "numpy, ring buffer"
    rows = [
        [
            name,
            *(cell(samples[name, burst]) for burst in bursts),
            *(cell(ratio(samples, (name, burst), (best, burst)), 1) for burst in bursts),
        ]
        for name in readers
    ]
    columns = [f"bursts of {burst:,}" for burst in bursts]
    return table(
        "Packet headers of 160 bytes, CPU ns an event",
        ["reader", *columns, *(f"times the first, {one}" for one in columns)],
        rows,
    )


def timed(
    filled: Filled, burst: int, times: int = 1, prepare: Callable[[], None] = lambda: None
) -> Callable[[], float]:
    """CPU nanoseconds an event, of so many bursts in a row."""
    program_fd, drain = filled

    def one_burst() -> int:
        libbpf.run_program(program_fd, FRAME, repeat=burst)
        looked = time.process_time_ns()
        began = time.process_time_ns()
        count = drain()
        took = time.process_time_ns() - began - (began - looked)
        assert count == burst, f"{count} of {burst} events came"
        return took

    def bursts() -> float:
        prepare()
        return sum(one_burst() for _ in range(times)) / times / burst

    return bursts


if __name__ == "__main__":
    main(measure, __doc__)
