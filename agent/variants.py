# SPDX-License-Identifier: Apache-2.0
"""The programs of one network namespace; those for XDP, and jumbo frames, where one needs them.

Programs know an interface by its index, and indexes of different namespaces are the same numbers.
So each namespace has a table of interfaces of its own, and the same programs loaded again with it.
All else they share: flows, totals and events of all namespaces are in the same maps.
"""

import os
import sys
import zlib
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from agent import libbpf, newmaps
from agent.entries import InterfaceTable
from agent.images import Image
from agent.plan import INTERFACE_SLOTS, LoadError, Pins, Report
from schemas.control import INTERFACE_ENTRY

_XDP = "hook_xdp"
_TC = ("hook_ingress", "hook_egress")
HOOKS = (_XDP, *_TC)
JUMBO = "_jumbo"
_TABLE = "interfaces"


@dataclass(frozen=True, slots=True)
class Compiled:
    """What the loader has left: pinned programs and maps, and the programs as instructions."""

    pins: Pins
    images: Mapping[str, Image]
    # By map: the programs in which others go on, in its order.
    tails: Mapping[str, tuple[str, ...]]
    code: str

    @classmethod
    def reported(cls, report: Report, pins: Pins) -> Self:
        images = {name: Image.from_text(text) for name, text in report.images.items()}
        return cls(pins, images, report.tails, report.codes[0])

    def map(self, name: str) -> Path:
        """Where the map is pinned that the programs know by that name."""
        private = self.pins.private_map(name, self.code)
        return private if private.exists() else self.pins.map(name)


class Variant:
    """Descriptors of one namespace's programs; they are attached while these are open."""

    def __init__(self, compiled: Compiled, *, netns: str, former: "Variant | None" = None) -> None:
        """Those of the namespace of that label; with *former*, its table is used too."""
        self._compiled = compiled
        self._closing = ExitStack()
        self.table_fd: int = former.table_fd if former else self._open_table(netns)
        self.table = InterfaceTable(self.table_fd)
        # The loader's own programs, which are pinned, as are the maps of those in which they go on.
        self._is_pinned = not netns and not former
        if self._is_pinned:
            found = {name: compiled.pins.program(name) for name in HOOKS}
            self.programs = {
                name: self._keep(libbpf.open_pinned(path))
                for name, path in found.items()
                if name in _TC or path.exists()
            }
        else:
            self.programs = self._load(_TC)

    @property
    def xdp_programs(self) -> list[int]:
        """Those for XDP that are loaded."""
        return [fd for name, fd in self.programs.items() if name.startswith(_XDP)]

    def load_xdp(self) -> int:
        """The XDP program; few interfaces need it, and the verifier takes long over it.

        Raises:
            LoadError: the verifier refuses it.
        """
        if _XDP not in self.programs:
            self.programs |= self._load([_XDP])
        return self.programs[_XDP]

    def load_jumbo(self) -> int:
        """The XDP program that takes frames of several buffers.

        Raises:
            LoadError: the kernel has no such programs (before Linux v5.18).
        """
        name = f"{_XDP}{JUMBO}"
        if name not in self.programs:
            self.programs |= self._load([name], JUMBO, flags=libbpf.BPF_F_XDP_HAS_FRAGS)
        return self.programs[name]

    def close(self) -> None:
        self._closing.close()

    def _keep(self, fd: int) -> int:
        self._closing.callback(os.close, fd)
        return fd

    def _open_table(self, netns: str) -> int:
        if not netns:
            return self._keep(libbpf.open_pinned(self._compiled.pins.map(_TABLE)))
        # Names of namespaces may hold what those of pins may not.
        path = self._compiled.pins.map(f"{_TABLE}-{zlib.crc32(netns.encode()):08x}")
        return self._keep(
            newmaps.open_or_create_array(
                path, value_bytes=INTERFACE_ENTRY.size_bytes, count=INTERFACE_SLOTS
            )
        )

    def _load(self, names: Iterable[str], suffix: str = "", *, flags: int = 0) -> dict[str, int]:
        """Load hooks, and the programs in which they go on."""
        names = list(names)
        images = self._compiled.images
        maps = {_TABLE: self.table_fd}
        kinds = {images[name].kind for name in names}
        tails = {
            tail: [name + suffix if name + suffix in images else name for name in its]
            for tail, its in self._compiled.tails.items()
            if images[its[0]].kind in kinds
        }
        for tail, its in tails.items():
            if self._is_pinned and not suffix:
                # It outlives us, as the programs that are attached do.
                maps[tail] = self._keep(libbpf.open_pinned(self._compiled.map(tail)))
            else:
                maps[tail] = self._keep(newmaps.create_program_array(tail, len(its)))
        hooks_and_tails = [*names, *(name for its in tails.values() for name in its)]
        with ExitStack() as opened:
            for one in {one for name in hooks_and_tails for one in images[name].maps} - {*maps}:
                maps[one] = opened.enter_context(libbpf.opened(self._compiled.map(one)))
            for tail, its in tails.items():
                for index, name in enumerate(its):
                    fd = self._load_one(name, maps, flags)
                    libbpf.update_element(maps[tail], index, fd.to_bytes(4, sys.byteorder))
            return {name: self._load_one(name, maps, flags) for name in names}

    def _load_one(self, name: str, maps: Mapping[str, int], flags: int) -> int:
        try:
            return self._keep(self._compiled.images[name].load(maps, flags=flags))
        except OSError as error:
            raise LoadError(f"the kernel refuses {name}: {error.strerror}") from None


class Variants:
    """The programs of every namespace by its label; one that returns finds its own again."""

    def __init__(self, compiled: Compiled, former: "Variants | None" = None) -> None:
        """Those of another compilation use the tables of the *former*."""
        self._compiled = compiled
        self._former = former
        self._made: dict[str, Variant] = {}

    @property
    def pins(self) -> Pins:
        return self._compiled.pins

    def of(self, netns: str) -> Variant:
        """Those of the namespace of that label; empty for our own.

        Raises:
            LoadError: the kernel refuses a program.
        """
        if netns not in self._made:
            former = self._former.of(netns) if self._former else None
            self._made[netns] = Variant(self._compiled, netns=netns, former=former)
        return self._made[netns]

    def close(self) -> None:
        for variant in self._made.values():
            variant.close()
