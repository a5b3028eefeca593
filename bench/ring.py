# SPDX-License-Identifier: Apache-2.0
"""CPU nanoseconds to take one event out of a buffer: numpy on the mapping, and bcc's callbacks.

    python -m bench.ring [--quick]

The kernel programs fill a buffer with packet headers, 160 bytes each; what is timed is emptying
it again.  Everything that leaves numpy is a copy; bcc's callbacks return at once, or make the
event an object, as bcc would, and read three of its fields.
"""

import ctypes
import mmap
import os
import time
from collections.abc import Callable
from contextlib import ExitStack

from agent import libbpf
from agent.buffers import take
from agent.compiler import compiled
from agent.perf import PerfBuffer
from agent.plan import remove_all
from agent.ring import RingBuffer
from agent.sources import flow_source, options
from bench.frames import FRAMES
from bench.programs import CPUS, a_plan, hooks
from bench.rounds import cell, interleave, ratio, table
from bench.subject import Scale, main
from schemas.dtype import dtype_from_layout
from schemas.layout import Field, Layout
from schemas.packet import PACKET_EVENT

FRAME = FRAMES["UDP 64 B"]
BYTES = 1 << 23
BURST = 10_000
SMALL_BURST = 100

Reader = tuple[int, Callable[[], int]]  # what fills the buffer, what empties it


def measure(scale: Scale) -> list[dict]:
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with ExitStack() as stack:
        readers: dict[str, Reader] = {
            "numpy, ring buffer": numpy_reader(stack, "ring"),
            "numpy, perf buffer": numpy_reader(stack, "perf"),
            "bcc callback, ring buffer": bcc_reader("ring", is_read=False),
            "bcc callback that reads, ring buffer": bcc_reader("ring", is_read=True),
            "bcc callback, perf buffer": bcc_reader("perf", is_read=False),
            "bcc callback that reads, perf buffer": bcc_reader("perf", is_read=True),
        }
        variants = {
            (name, burst): timed(*reader, burst)
            for burst in (BURST, SMALL_BURST)
            for name, reader in readers.items()
        }
        samples = interleave(variants, scale.pick(21, 5))
    return [_table(samples, burst) for burst in (BURST, SMALL_BURST)]


def _table(samples, burst: int) -> dict:
    best = ("numpy, ring buffer", burst)
    rows = [
        [name, cell(samples[name, size]), cell(ratio(samples, (name, size), best), 1)]
        for name, size in samples
        if size == burst
    ]
    return table(
        f"Bursts of {burst:,} events", ["reader", "CPU ns an event", "times the first"], rows
    )


def timed(program_fd: int, drain: Callable[[], int], burst: int) -> Callable[[], float]:
    def one_burst() -> float:
        libbpf.run_program(program_fd, FRAME, repeat=burst)
        began = time.process_time_ns()
        count = drain()
        took = time.process_time_ns() - began
        assert count == burst, f"{count} of {burst} events came"
        return took / burst

    return one_burst


def numpy_reader(stack: ExitStack, buffer: str) -> Reader:
    loaded = stack.enter_context(hooks(sample_one_in=1, ring_bytes=BYTES, buffer=buffer))
    kind = RingBuffer if buffer == "ring" else PerfBuffer
    ring = kind(loaded.plan.pins.map("packets"), BYTES, dtype_from_layout(PACKET_EVENT))
    return loaded.fd("hook_ingress"), lambda: len(take(ring))


def a_structure(layout: Layout) -> type[ctypes.Structure]:
    """What bcc's event() makes of an event; it does not know the kernel's names of types."""
    scalars = {"|u1": ctypes.c_uint8, "<u2": ctypes.c_uint16, "<u4": ctypes.c_uint32}
    members = [
        (field.name or f"pad{at}", scalars.get(field.kind.numpy) or _words(field))
        for at, (field, _) in enumerate(layout.placed())
    ]
    return type("Event", (ctypes.Structure,), {"_fields_": members})


def _words(field: Field) -> type[ctypes.Array] | type[ctypes.c_uint64]:
    if field.kind.size_bytes == 8 and field.kind.align_bytes == 8:
        return ctypes.c_uint64
    unit = ctypes.c_uint64 if field.kind.align_bytes == 8 else ctypes.c_uint8
    return unit * (field.kind.size_bytes // ctypes.sizeof(unit))


def bcc_reader(buffer: str, *, is_read: bool) -> Reader:
    """A callback that counts, or one that makes the event an object and reads it."""
    plan = a_plan(slots_per_cpu=4, sample_one_in=1, ring_bytes=BYTES, buffer=buffer)
    plan.pins.make()
    bcc = compiled(flow_source(plan), options(plan), aside=plan.pins.map(""), seeds=plan.seeds).bcc
    remove_all(plan.pins.root)
    packets = bcc["packets"]
    pointer = ctypes.POINTER(a_structure(PACKET_EVENT))
    seen = [0]

    def count(*_arguments: object) -> int:
        seen[0] += 1
        return 0  # None would cost bcc an exception each

    def read(_context: object, data: object, _size: int) -> int:
        event = ctypes.cast(data, pointer).contents
        seen[0] += event.bytes + event.protocol + event.tcp_flags > 0
        return 0

    def drain() -> int:
        seen[0] = 0
        if buffer == "ring":
            bcc.ring_buffer_consume()
        else:
            bcc.perf_buffer_consume()
        return seen[0]

    if buffer == "ring":
        packets.open_ring_buffer(read if is_read else count)
    else:
        packets.open_perf_buffer(
            read if is_read else count, page_cnt=BYTES // CPUS // mmap.PAGESIZE
        )
    return int(bcc.load_func("hook_ingress", bcc.SCHED_CLS).fd), drain


if __name__ == "__main__":
    main(measure, __doc__)
