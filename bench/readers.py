# SPDX-License-Identifier: Apache-2.0
"""Who empties a buffer of events: numpy on its mapping, libbpf in C, and bcc's callbacks.

A reader is a function that empties its buffer and says how many events there were.  Several may
read one buffer in turn.
"""

import ctypes
import mmap
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from agent import libbpf
from agent.buffers import take
from agent.compiler import compiled
from agent.images import Image
from agent.perf import PerfBuffer
from agent.plan import remove_all
from agent.ring import RingBuffer
from agent.rules.chunks import make_chunks
from agent.rules.tries import make_tries
from agent.sources import flow_source, options
from bench.programs import CPUS, a_plan, hooks
from schemas.dtype import dtype_from_layout
from schemas.layout import Field, Layout
from schemas.packet import PACKET_EVENT

_SOURCE = Path(__file__).with_name("consume.c")
_LIBBPF = "libbpf.so.1"

Reader = Callable[[], int]
Filled = tuple[int, Reader]  # the program that fills a buffer, and who empties it


def numpy_of_map(map_fd: int, size_bytes: int, dtype: np.dtype) -> RingBuffer:
    """Ours, of a ring buffer by its descriptor."""
    path = a_plan().pins
    path.make()
    libbpf.pin(map_fd, path.map("ring"))
    ring = RingBuffer(path.map("ring"), size_bytes, dtype)
    remove_all(path.root)
    return ring


def numpy_after_others(ring: RingBuffer) -> tuple[Callable[[], None], Reader]:
    """What tells it that others have emptied the buffer, and the reader."""
    return lambda: ring.release(ring.position()), lambda: len(take(ring))


class Libbpf:
    """libbpf's reader with callbacks in C, compiled here."""

    def __init__(self) -> None:
        with tempfile.TemporaryDirectory(prefix="hookline-bench-") as folder:
            library = Path(folder, "consume.so")
            # By its name, which is there without the development package.
            flags = ("-O2", "-shared", "-fPIC", "-o", library, _SOURCE, f"-l:{_LIBBPF}")
            subprocess.run(["clang", *flags], check=True)
            self._library = ctypes.CDLL(str(library))
        for name in ("counting", "copying"):
            getattr(self._library, name).restype = ctypes.c_void_p
        self._library.consume.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int)

    def counting(self, map_fd: int) -> Reader:
        """With a callback that does nothing."""
        ring, consume = self._library.counting(map_fd), self._library.consume
        return lambda: consume(ring, None, 0)

    def copying(self, map_fd: int, into: np.ndarray) -> Reader:
        """With a callback that copies each record behind the last, while there is room.

        *into* has to outlive the reader.
        """
        ring, consume = self._library.copying(map_fd), self._library.consume
        address, room = into.ctypes.data, len(into)
        return lambda: consume(ring, address, room)


def numpy_reader(stack: ExitStack, buffer: str, size_bytes: int) -> Filled:
    """Ours, of packet headers of 160 bytes."""
    loaded = stack.enter_context(hooks(sample_one_in=1, ring_bytes=size_bytes, buffer=buffer))
    kind = RingBuffer if buffer == "ring" else PerfBuffer
    ring = kind(loaded.plan.pins.map("packets"), size_bytes, dtype_from_layout(PACKET_EVENT))
    return loaded.fd("hook_ingress"), lambda: len(take(ring))


def bcc_reader(buffer: str, size_bytes: int, *, is_read: bool) -> Filled:
    """A callback that counts packet headers, or one that makes each an object and reads it."""
    plan = a_plan(slots_per_cpu=4, sample_one_in=1, ring_bytes=size_bytes, buffer=buffer)
    plan.pins.make()
    # What is there already is opened, and bcc would not make the elements of these as they are.
    make_chunks(plan.pins)
    make_tries(plan.pins)
    source = flow_source(plan)
    told = options(source, plan)
    made = compiled(source, told, aside=plan.pins.map(""), seeds=plan.seeds)
    remove_all(plan.pins.root)
    reader = _callbacks(made.bcc, "packets", buffer, size_bytes, PACKET_EVENT if is_read else None)
    names = {fd: name for name, fd in made.maps.items()}
    hook = Image.of("SCHED_CLS", made.code("hook_ingress"), names, seeds=plan.seeds)
    return hook.seeded(plan.seeds).load(made.maps), reader


def bcc_counting(module, name: str) -> Reader:
    """A callback of bcc that counts, for a ring buffer of a module."""
    return _callbacks(module, name, "ring", 0, None)


def _callbacks(bcc, name: str, buffer: str, size_bytes: int, layout: Layout | None) -> Reader:
    pointer = ctypes.POINTER(_structure(layout)) if layout else None
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

    callback = read if layout else count
    if buffer == "ring":
        bcc[name].open_ring_buffer(callback)
    else:
        bcc[name].open_perf_buffer(callback, page_cnt=size_bytes // CPUS // mmap.PAGESIZE)
    return drain


def _structure(layout: Layout) -> type[ctypes.Structure]:
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
