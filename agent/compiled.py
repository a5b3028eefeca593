# SPDX-License-Identifier: Apache-2.0
"""A source as it was compiled: all that is needed to load it again without the compiler.

What it holds has no seeds, no paths and nothing of the agent that it was compiled for.  It comes
back from a file, so whatever is in that is checked before any of it reaches the kernel.
"""

import dataclasses
import hashlib
import json
import os
import sys
from collections.abc import Container, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from agent import libbpf
from agent.images import Image
from agent.mapshapes import NOBODY, MapShape
from agent.plan import Pins
from agent.sources import SOURCE_PATH, Source, source_text

# Goes up when entries of before cannot be read any more, or mean something else.
_FORMAT = 1


class DamagedError(Exception):
    """An entry that is not what its key says."""


def key_of(source: Source, options: Sequence[str]) -> str:
    """What all that determines the instructions comes to, but for the compiler itself.

    The kernel is part of it, because bcc asks that what it has.
    """
    system = os.uname()
    determines = [
        *(_FORMAT, system.machine, sys.byteorder, system.release),
        *(dataclasses.asdict(source), list(options), source_text(source.file)),
        *([path.name, path.read_text()] for path in sorted(SOURCE_PATH.rglob("*.h"))),
    ]
    return hashlib.sha256(json.dumps(determines).encode()).hexdigest()


def files_now(paths: Sequence[str]) -> dict[str, list[int]]:
    """Size and time of change of files, by which one knows that they are others.

    Raises:
        OSError: one is not there any more.
    """
    found = {path: Path(path).stat() for path in paths}
    return {path: [status.st_size, status.st_mtime_ns] for path, status in found.items()}


@dataclass(frozen=True, slots=True)
class Compilation:
    """The programs and maps of a source, and the files of the compiler that made them."""

    programs: Mapping[str, Image]
    maps: tuple[MapShape, ...]
    # Its files with what files_now says of them; none: not known yet.
    compiler: Mapping[str, Sequence[int]] = field(default_factory=dict)

    @property
    def is_stale(self) -> bool:
        """Whether the compiler is another by now."""
        try:
            return not self.compiler or files_now(list(self.compiler)) != self.compiler
        except (OSError, ValueError):
            return True

    def load(
        self, source: Source, pins: Pins, code: str, seeds: Sequence[int]
    ) -> tuple[dict[str, int], dict[str, int]]:
        """Load its programs, with the maps that are pinned and new ones: descriptors, by name.

        Raises:
            LoadError: a map that is pinned already is another.
            OSError: the kernel refuses something; nothing new is left then.
        """
        used = {one for name in source.programs for one in self.programs[name].maps}
        used |= {*source.maps, *source.tails}
        with ExitStack() as undoing:
            maps = {
                one.name: _opened(one, one.pin(pins, code), undoing)
                for one in self.maps
                if one.name in used
            }
            programs = {}
            for name in source.programs:
                fd = self.programs[name].seeded(seeds).load(maps, name=name)
                undoing.callback(os.close, fd)
                programs[name] = fd
            _fill_tails(source, maps, programs)
            undoing.pop_all()
        return maps, programs

    def with_own(self, names: Container[str]) -> Self:
        """The same, but that nobody shares the maps of these names."""
        maps = tuple(
            replace(one, sharing=NOBODY) if one.name in names else one for one in self.maps
        )
        return replace(self, maps=maps)

    def to_bytes(self, key: str) -> bytes:
        content = {
            "key": key,
            "compiler": self.compiler,
            "maps": [dataclasses.astuple(one) for one in self.maps],
            "programs": {name: image.to_text() for name, image in self.programs.items()},
        }
        return json.dumps(content).encode()

    @classmethod
    def from_bytes(cls, content: bytes, key: str, source: Source) -> Self:
        """The same again.

        Raises:
            DamagedError: it is not what was put away under that key.
        """
        try:
            return cls._read(json.loads(content), key, source)
        # Of what a stranger wrote, anything may be anything.
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise DamagedError(str(error)) from None

    @classmethod
    def _read(cls, content: Any, key: str, source: Source) -> Self:
        if content["key"] != key:
            raise ValueError("it was put away under another key")
        programs = {name: Image.from_text(text) for name, text in content["programs"].items()}
        maps = tuple(MapShape.from_text(text) for text in content["maps"])
        types = {name: (image.kind, image.attach_type) for name, image in programs.items()}
        if types != source.types:
            raise ValueError("its programs are others")
        names = {one.name for one in maps}
        if not names.issuperset({*source.maps, *source.tails}) or not all(
            names.issuperset(image.maps) for image in programs.values()
        ):
            raise ValueError("its maps are others")
        return cls(programs, maps, dict(content["compiler"]))


def _fill_tails(source: Source, maps: Mapping[str, int], programs: Mapping[str, int]) -> None:
    """Put programs in which others go on where those look for them."""
    for tails, names in source.tails.items():
        for index, name in enumerate(names):
            fd = programs[name].to_bytes(4, sys.byteorder)
            libbpf.update_element(maps[tails], index, fd)


def _opened(one: MapShape, pin: Path | None, undoing: ExitStack) -> int:
    """The map that is pinned there, or a new one, which is pinned there if it is to be."""
    found = one.open_pinned(pin) if pin else None
    fd = one.make() if found is None else found
    undoing.callback(os.close, fd)
    if pin and found is None:
        libbpf.pin(fd, pin)
        undoing.callback(pin.unlink)
    return fd
