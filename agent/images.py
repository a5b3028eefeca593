# SPDX-License-Identifier: Apache-2.0
"""Compiled programs that can be loaded again, with other maps or other flags, without a compiler.

The compiler leaves with the loader.  What it made stays as instructions in which a map is known by
its name, so that the agent can load the same program for another network namespace, whose
interfaces are in another table, or for jumbo frames, which wants a flag that bcc cannot pass.
"""

import base64
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

from agent import libbpf

# struct bpf_insn, include/uapi/linux/bpf.h.
_INSTRUCTION = np.dtype([("code", "u1"), ("registers", "u1"), ("offset", "<i2"), ("imm", "<i4")])
_LOAD_64_BITS = 0x18
_PSEUDO_MAP_FD = 1


@dataclass(frozen=True, slots=True)
class Image:
    """One program; where it names a map, the number is an index into *maps*."""

    kind: str  # XDP, SCHED_CLS
    code: bytes
    maps: tuple[str, ...]

    @classmethod
    def of(cls, kind: str, code: bytes, maps: Mapping[int, str]) -> Self:
        """From instructions that know each map by its descriptor in this process."""
        instructions = np.frombuffer(code, _INSTRUCTION).copy()
        places = _map_places(instructions)
        names = tuple(dict.fromkeys(maps[int(fd)] for fd in instructions["imm"][places]))
        numbers = {name: number for number, name in enumerate(names)}
        instructions["imm"][places] = [numbers[maps[int(fd)]] for fd in instructions["imm"][places]]
        return cls(kind, instructions.tobytes(), names)

    def load(self, maps: Mapping[str, int], *, flags: int = 0) -> int:
        """Load it with the maps of these descriptors; returns its own.

        Raises:
            OSError: the kernel refuses it.
        """
        instructions = np.frombuffer(self.code, _INSTRUCTION).copy()
        places = _map_places(instructions)
        fds = np.array([maps[name] for name in self.maps], np.int32)
        instructions["imm"][places] = fds[instructions["imm"][places]]
        return libbpf.load_program(self.kind, instructions.tobytes(), flags=flags)

    def to_text(self) -> list[object]:
        code = base64.b85encode(zlib.compress(self.code)).decode()
        return [self.kind, code, list(self.maps)]

    @classmethod
    def from_text(cls, text: tuple[str, str, list[str]]) -> Self:
        kind, code, maps = text
        return cls(kind, zlib.decompress(base64.b85decode(code)), tuple(maps))


def _map_places(
    instructions: np.ndarray[tuple[int], np.dtype[np.void]],
) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """Where the instructions are that load a map."""
    is_map = (instructions["code"] == _LOAD_64_BITS) & (
        instructions["registers"] >> 4 == _PSEUDO_MAP_FD
    )
    return np.flatnonzero(is_map)
