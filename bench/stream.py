# SPDX-License-Identifier: Apache-2.0
"""Empty a ring buffer on one CPU that a program fills without a pause on another."""

import mmap
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from agent import libbpf
from agent.buffers import take
from agent.plan import remove_all
from agent.ring import RingBuffer
from agent.sources import SOURCE_PATH
from bench.programs import a_plan
from bench.readers import Libbpf
from bench.rounds import cell, interleave, table
from bench.subject import Scale

ROOT = Path(__file__).parents[1]
# More than an agent has by default: the reader shares its CPU with whatever else runs here, and a
# stream like this one fills those 4 MiB in some milliseconds.
RING_BYTES = 1 << 26
RECORD = np.dtype([("number", "<u8"), ("rest", "V56")])
# Between two drains: hundreds of times as long as one costs by itself, and a tenth of what it takes
# to fill the buffer.
PAUSE_S = 0.001

Drain = Callable[[], np.ndarray]


@dataclass(slots=True)
class Stream:
    """A program that numbers its records, pinned, and how many it made and found no room for."""

    program: Path
    map_fd: int
    ring: RingBuffer
    _counts: object

    def counts(self) -> tuple[int, int]:
        """How many records there should be, and how many of them were lost."""
        (of_all,) = self._counts.values()
        return of_all.numbered, of_all.lost


@contextmanager
def stream() -> Iterator[Stream]:
    os.environ["BCC_KERNEL_SOURCE"] = str(SOURCE_PATH / "headers")
    from bcc import BPF  # noqa: PLC0415 - the environment is read at import

    pins = a_plan().pins
    module = BPF(
        src_file=str(ROOT / "bench/stream.bpf.c"),
        cflags=[f"-I{SOURCE_PATH}", f"-DPAGES={RING_BYTES // mmap.PAGESIZE}"],
    )
    pins.make()
    try:
        map_fd = int(module["records"].map_fd)
        libbpf.pin(map_fd, pins.map("records"))
        libbpf.pin(int(module.load_func("produce", BPF.SCHED_CLS).fd), pins.program("produce"))
        ring = RingBuffer(pins.map("records"), RING_BYTES, RECORD)
        yield Stream(pins.program("produce"), map_fd, ring, module["counts"])
    finally:
        remove_all(pins.root)


def sustained(scale: Scale) -> dict:
    """What readers take of a stream in so many seconds, and what is lost of it."""
    seconds = scale.pick(1, 1, 5)
    into = np.empty(RING_BYTES // RECORD.itemsize, RECORD)
    lost = dict[str, list[int]]()
    with stream() as one:
        consume = Libbpf().copying(one.map_fd, into)
        readers: dict[str, Drain] = {
            "numpy": lambda: take(one.ring),
            "libbpf in C, a callback that copies": lambda: into[: consume()],
        }

        def run(name: str) -> tuple[float, float]:
            one.ring.release(one.ring.position())
            rate, cpu_ns, missing = taken(one, readers[name], seconds)
            lost.setdefault(name, []).append(missing)
            return rate, cpu_ns

        samples = interleave(
            {name: lambda name=name: run(name) for name in readers}, scale.pick(3, 2, 9)
        )
    rows = []
    for name, found in samples.items():
        rates, cpu_ns = zip(*found, strict=True)
        rows.append(
            [name, cell(list(rates)), cell(list(cpu_ns), 1), sum(lost[name]), max(lost[name])]
        )
    return table(
        f"A stream of 64-byte records, {seconds} s each, through {RING_BYTES >> 20} MiB",
        ["reader", "records a second", "CPU ns a record", "lost in all", "in one round"],
        rows,
        "Every record was there once and in order, but for those that the kernel counted as lost.",
    )


def taken(one: Stream, drain: Drain, seconds: float) -> tuple[float, float, int]:
    """Records a second, CPU nanoseconds a record to take them, and how many were lost."""
    numbered, lost = one.counts()
    last, gaps, count, took_ns = numbered, 0, 0, 0

    def look() -> None:
        nonlocal last, gaps, count, took_ns
        before_ns = time.thread_time_ns()
        rows = drain()
        took_ns += time.thread_time_ns() - before_ns
        if len(rows):
            numbers = rows["number"]
            steps = np.diff(numbers, prepend=np.uint64(last)).astype(np.int64)
            assert (steps > 0).all(), "a record came twice, or too late"
            gaps += int(steps.sum()) - len(steps)
            last, count = int(numbers[-1]), count + len(rows)

    with producing(one.program):
        began, first = time.perf_counter(), one.counts()[0]
        while time.perf_counter() - began < seconds:
            look()
            time.sleep(PAUSE_S)
        lasted_s, produced = time.perf_counter() - began, one.counts()[0] - first
    look()
    numbered_now, lost_now = one.counts()
    # Those after the last that came are no gap yet.
    gaps += numbered_now - last
    missing = lost_now - lost
    assert gaps == missing, f"{gaps} records are missing, the kernel lost {missing}"
    assert count + missing == numbered_now - numbered
    return produced / lasted_s * count / (count + missing), took_ns / count, missing


@contextmanager
def producing(program: Path) -> Iterator[None]:
    command = [sys.executable, "-m", "bench.produce", str(program)]
    process = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        process.stdout.readline()
        yield
    finally:
        process.stdin.close()
        process.wait()
