# SPDX-License-Identifier: Apache-2.0
"""What a map is: its type and sizes.  It is made anew, or opened where one is pinned."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from agent import btf, libbpf, newmaps
from agent.plan import LoadError, Pins

# Who else finds it by its pin: nobody, programs of the same code, whoever has the same layout.
NOBODY = "nobody"
CODE = "code"
ALL = "all"


@dataclass(frozen=True, slots=True)
class MapShape:
    """One map of a source; all numbers are the kernel's."""

    name: str
    kind: int  # enum bpf_map_type
    key_bytes: int
    value_bytes: int
    count: int
    flags: int
    sharing: str  # NOBODY, CODE or ALL

    def pin(self, pins: Pins, code: str) -> Path | None:
        """Where programs of that code find it; None where only those have it that made it."""
        if self.sharing == NOBODY:
            return None
        return pins.map(self.name) if self.sharing == ALL else pins.private_map(self.name, code)

    def open_pinned(self, path: Path) -> int | None:
        """The descriptor of what is pinned there; None: nothing is.

        Raises:
            LoadError: it is another kind of map.
        """
        try:
            fd = libbpf.open_pinned(path)
        except FileNotFoundError:
            return None
        try:
            self.check(fd, path)
        except LoadError:
            os.close(fd)
            raise
        return fd

    def check(self, fd: int, path: Path) -> None:
        """Raise LoadError unless the map of that descriptor, pinned at *path*, is one of these."""
        kind, _, *sizes = libbpf.information(fd)[:6]
        found = [kind, *sizes]
        wanted = [self.kind, self.key_bytes, self.value_bytes, self.count, self.flags]
        if found != wanted:
            raise LoadError(
                f"{path} is another map: type, key and value bytes, entries and flags are"
                f" {found}, not {wanted}; hookline agent --detach removes it"
            )

    def make(self) -> int:
        """A new map, by its descriptor.

        Raises:
            OSError: the kernel refuses it.
        """
        with self._types() as types:
            return newmaps.create_map(
                self.name,
                self.kind,
                key_bytes=self.key_bytes,
                value_bytes=self.value_bytes,
                count=self.count,
                flags=self.flags,
                types=types,
            )

    @contextmanager
    def _types(self) -> Iterator[tuple[int, ...]]:
        """What the kernel wants to know of keys and values; storage of sockets only."""
        if self.kind != newmaps.SK_STORAGE:
            yield ()
            return
        fd = libbpf.load_btf(btf.key_and_value(self.value_bytes))
        try:
            yield fd, btf.KEY_TYPE, btf.VALUE_TYPE
        finally:
            os.close(fd)

    @classmethod
    def from_text(cls, text: Sequence[Any]) -> Self:
        """The same again.

        Raises:
            ValueError, TypeError: it is no map.
        """
        shape = cls(*text)
        _, *numbers, sharing = text
        if not isinstance(shape.name, str) or not shape.name.isidentifier():
            raise ValueError(f"{shape.name!r} is no name of a map")
        if not all(type(number) is int and 0 <= number < 1 << 32 for number in numbers):
            raise ValueError(f"{numbers} are no sizes of a map")
        if sharing not in (NOBODY, CODE, ALL):
            raise ValueError(f"nobody is called {sharing!r}")
        return shape
