# SPDX-License-Identifier: Apache-2.0
"""The kernel's memory for lines: chunks, of which each set of rules has as many as it needs.

A chunk is an array of one element, mapped into the agent.  They are kept as long as they are needed,
and a set's are written anew only when no program reads that set any more.
"""

import mmap
import os

import numpy as np

from agent import libbpf, newmaps
from agent.plan import Pins
from agent.rules.lines import LINE_BYTES, Words
from schemas.refusal import CHUNK_LINES, LINE_WORDS, RULE_CHUNKS, RULE_SETS

CHUNKS = "rule_chunks"
_CHUNK_BYTES = CHUNK_LINES * LINE_BYTES


def make_chunks(pins: Pins) -> None:
    """Make the array of them, empty, unless it is there; before the programs are loaded."""
    path = pins.map(CHUNKS)
    if not path.exists():
        newmaps.pin_array_of_maps(path, _create(), RULE_SETS * RULE_CHUNKS)


class Chunks:
    """Those that this agent has made, by set."""

    def __init__(self, pins: Pins) -> None:
        self._fd = libbpf.open_pinned(pins.map(CHUNKS))
        self._chunks: tuple[list[Words], ...] = tuple([] for _ in range(RULE_SETS))

    def close(self) -> None:
        os.close(self._fd)

    def put(self, number: int, lines: Words) -> None:
        """Have a set consist of *lines*, (lines, 16), while no program reads it.

        Raises:
            OSError: the kernel has no memory for them.
        """
        chunks = self._chunks[number]
        needed = -(-len(lines) // CHUNK_LINES)
        self._grow(number, needed - len(chunks))
        for place, chunk in enumerate(chunks[:needed]):
            part = lines[place * CHUNK_LINES :][:CHUNK_LINES]
            chunk[: len(part)] = part
        self._shrink(number, needed)

    def _grow(self, number: int, count: int) -> None:
        if count <= 0:
            return
        chunks = self._chunks[number]
        fds: list[int] = []
        try:
            fds.extend(_create() for _ in range(count))
            mapped = [_mapped(fd) for fd in fds]
            keys = _key(number, len(chunks)) + np.arange(count, dtype=np.uint32)
            libbpf.update_elements(self._fd, keys, np.array(fds, np.uint32))
        finally:
            for fd in fds:
                os.close(fd)
        chunks += mapped

    def _shrink(self, number: int, needed: int) -> None:
        """Let go of what is not needed, also of what an agent before us has left."""
        for place in range(needed, RULE_CHUNKS):
            if libbpf.has_element(self._fd, _key(number, place)):
                libbpf.delete_element(self._fd, _key(number, place))
        del self._chunks[number][needed:]


def _key(number: int, place: int) -> int:
    return number * RULE_CHUNKS + place


def _create() -> int:
    return newmaps.create_array("rule_chunk", value_bytes=_CHUNK_BYTES, count=1)


def _mapped(fd: int) -> Words:
    memory = mmap.mmap(fd, _CHUNK_BYTES)
    return np.frombuffer(memory, np.uint32).reshape(CHUNK_LINES, LINE_WORDS)
