# SPDX-License-Identifier: Apache-2.0
"""Compiled programs that can be loaded again, with other maps or other flags, without a compiler.

The compiler leaves with the loader.  What it made stays as instructions in which a map is known by
its name and a seed of our hashes by its number.  So the agent can load the same program for another
network namespace, whose interfaces are in another table, or for jumbo frames, which wants a flag
that bcc cannot pass; and the next agent can load it with a hash key of its own.
"""

import base64
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from agent import libbpf
from agent.plan import SEEDS

# struct bpf_insn, include/uapi/linux/bpf.h.
_INSTRUCTION = np.dtype([("code", "u1"), ("registers", "u1"), ("offset", "<i2"), ("imm", "<i4")])
_LOAD_64_BITS = 0x18  # takes two, which hold the lower and the upper half
_PSEUDO_MAP_FD = 1
_PSEUDO_MAP_VALUE = 2
# Arrays of one element: what programs load is the address of it (the_clock of bpf/maps.bpf.h).
_VALUES = ("agent_clock", "rule_control")
# The kernel has no such kind of load, so it refuses a program whose seeds are still to be put in.
_PSEUDO_SEED = 15
_MOST_BYTES = 1 << 20  # many times our largest program


@dataclass(frozen=True, slots=True)
class Image:
    """One program; where it names a map, the number is an index into *maps*."""

    kind: str  # one of libbpf.PROGRAM_TYPES
    code: bytes
    maps: tuple[str, ...]
    attach_type: int = 0

    @classmethod
    def of(
        cls,
        kind: str,
        code: bytes,
        maps: Mapping[int, str],
        *,
        seeds: Sequence[int] = (),
        attach_type: int = 0,
    ) -> Self:
        """From instructions that know each map by its descriptor in this process.

        *seeds* are taken out of them.
        """
        instructions = np.frombuffer(code, _INSTRUCTION).copy()
        places = _places(instructions, _PSEUDO_MAP_FD)
        names = tuple(dict.fromkeys(maps[int(fd)] for fd in instructions["imm"][places]))
        numbers = {name: number for number, name in enumerate(names)}
        instructions["imm"][places] = [numbers[maps[int(fd)]] for fd in instructions["imm"][places]]
        _take_out(instructions, seeds)
        return cls(kind, instructions.tobytes(), names, attach_type)

    @property
    def seeds(self) -> set[int]:
        """The numbers of those that are to be put in."""
        instructions = np.frombuffer(self.code, _INSTRUCTION)
        return {*instructions["imm"][_places(instructions, _PSEUDO_SEED)].tolist()}

    def seeded(self, seeds: Sequence[int]) -> Self:
        """The program with these put in, ready to be loaded."""
        instructions = np.frombuffer(self.code, _INSTRUCTION).copy()
        places = _places(instructions, _PSEUDO_SEED)
        drawn = np.array(seeds, np.uint64)[instructions["imm"][places]]
        instructions["registers"][places] &= 0xF
        instructions["imm"][places] = drawn.astype(np.uint32).view(np.int32)
        instructions["imm"][places + 1] = (drawn >> np.uint64(32)).astype(np.uint32).view(np.int32)
        return replace(self, code=instructions.tobytes())

    def load(self, maps: Mapping[str, int], *, name: str = "hookline", flags: int = 0) -> int:
        """Load it with the maps of these descriptors; returns its own.

        Raises:
            OSError: the kernel refuses it.
        """
        instructions = np.frombuffer(self.code, _INSTRUCTION).copy()
        places = _places(instructions, _PSEUDO_MAP_FD)
        fds = np.array([maps[name] for name in self.maps], np.int32)
        is_value = np.array([name in _VALUES for name in self.maps], bool)
        values = places[is_value[instructions["imm"][places]]]
        instructions["registers"][values] += (_PSEUDO_MAP_VALUE - _PSEUDO_MAP_FD) << 4
        instructions["imm"][places] = fds[instructions["imm"][places]]
        return libbpf.load_program(
            self.kind,
            instructions.tobytes(),
            name=name,
            flags=flags,
            attach_type=self.attach_type,
        )

    def to_text(self) -> list[object]:
        code = base64.b85encode(zlib.compress(self.code)).decode()
        return [self.kind, code, list(self.maps), self.attach_type]

    @classmethod
    def from_text(cls, text: Sequence[Any]) -> Self:
        """The same again.

        Raises:
            ValueError, TypeError: it is no program.
        """
        kind, code, maps, attach_type = text
        image = cls(kind, _decompressed(base64.b85decode(code)), tuple(maps), attach_type)
        image.check()
        return image

    def check(self) -> None:
        """Raise ValueError unless every number in it stands for something."""
        if self.kind not in libbpf.PROGRAM_TYPES or not 0 <= self.attach_type < 1 << 16:
            raise ValueError(f"{self.kind!r} with {self.attach_type} is no type of a program")
        instructions = np.frombuffer(self.code, _INSTRUCTION)
        for pseudo, most in ((_PSEUDO_MAP_FD, len(self.maps)), (_PSEUDO_SEED, SEEDS)):
            places = _places(instructions, pseudo)
            numbers = instructions["imm"][places]
            if places.size and places[-1] + 1 >= instructions.size:
                raise ValueError("the last instruction is cut in half")
            if (numbers < 0).any() or (numbers >= most).any():
                raise ValueError("an instruction loads what there is none of")


def _take_out(instructions: NDArray[np.void], seeds: Sequence[int]) -> None:
    """Leave the number of each seed where it was loaded."""
    places = _places(instructions, 0)
    halves = instructions["imm"].view(np.uint32).astype(np.uint64)
    values = halves[places] | halves[places + 1] << np.uint64(32)
    for number, seed in enumerate(seeds):
        found = places[values == np.uint64(seed)]
        instructions["registers"][found] |= _PSEUDO_SEED << 4
        instructions["imm"][found] = number
        instructions["imm"][found + 1] = 0


def _places(instructions: NDArray[np.void], pseudo: int) -> NDArray[np.intp]:
    """Where the instructions are that load a map, a seed, or a plain number of 64 bits."""
    is_wanted = (instructions["code"] == _LOAD_64_BITS) & (instructions["registers"] >> 4 == pseudo)
    return np.flatnonzero(is_wanted)


def _decompressed(content: bytes) -> bytes:
    stream = zlib.decompressobj()
    try:
        whole = stream.decompress(content, _MOST_BYTES)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if not stream.eof:
        raise ValueError("a program is longer than any of ours, or cut off")
    return whole
