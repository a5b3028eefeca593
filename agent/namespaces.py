# SPDX-License-Identifier: Apache-2.0
"""The network namespaces in which interfaces are observed: our own, and those that are named.

Sockets and programs are made inside, by a thread that ends there; nothing else of us ever enters.
What we hold open keeps a namespace alive whose last process has ended.  So a namespace is given up
as soon as the name by which it was given is gone or means another one.
"""

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from agent.interfaces import InterfaceError

_CLONE_NEWNET = 0x40000000
_NAMED = Path("/run/netns")
_OWN = Path("/proc/self/ns/net")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Netns:
    """How a network namespace was given, and how rows call it."""

    label: str
    path: Path

    @classmethod
    def given(cls, text: str) -> "Netns":
        """From the value of --netns: a name of `ip netns`, a process id, or a path."""
        if text.isdigit():
            return cls(text, Path(f"/proc/{text}/ns/net"))
        if "/" not in text:
            return cls(text, _NAMED / text)
        parts = Path(text).parts
        is_of_process = parts[1:2] == ("proc",) and len(parts) > 2
        return cls(parts[2] if is_of_process else parts[-1], Path(text))

    @property
    def may_return(self) -> bool:
        """Whether the name may come to mean another namespace; a process id would be reused."""
        return self.path.parts[1:2] != ("proc",)

    def number(self) -> tuple[int, int] | None:
        """What tells namespaces apart; None where there is none under this name."""
        try:
            status = self.path.stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino


OWN = Netns("", _OWN)


class Namespace:
    """One network namespace, held open.

    Raises:
        InterfaceError: it is not there, or it is no network namespace.
    """

    def __init__(self, netns: Netns) -> None:
        self.netns = netns
        try:
            self._fd = os.open(netns.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise InterfaceError(
                f"no network namespace {netns.label!r}: {netns.path}: {error.strerror};"
                " give a name that `ip netns` lists, a process id, or a path"
            ) from None
        status = os.fstat(self._fd)
        self._number = status.st_dev, status.st_ino
        try:
            self.call(lambda: None)
        except OSError as error:
            self.close()
            raise InterfaceError(
                f"cannot enter network namespace {netns.label!r}: {error.strerror}"
            ) from None

    @property
    def is_own(self) -> bool:
        return self.netns == OWN

    @property
    def number(self) -> int:
        """Its inode, which tells it from others; 0 for our own."""
        return 0 if self.is_own else self._number[1]

    @property
    def pin_prefix(self) -> str:
        """Sets what is pinned for it apart from other namespaces' pins; empty for our own."""
        return str(self.number or "")

    def has_vanished(self) -> bool:
        """Whether the name by which it was given is gone, or means another namespace now."""
        return self.netns.number() != self._number

    def call(self, function: Callable[[], T]) -> T:
        """Call *function* inside."""
        if self.is_own:
            return function()

        def inside() -> T:
            _enter(self._fd)
            return function()

        with ThreadPoolExecutor(max_workers=1) as thread:
            return thread.submit(inside).result()

    def close(self) -> None:
        os.close(self._fd)


def _enter(fd: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(fd, _CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")


def given_namespaces(texts: tuple[str, ...]) -> list[Netns]:
    """What --netns names.

    Raises:
        InterfaceError: two would be called the same, or one is our own.
    """
    found: list[Netns] = []
    for text in texts:
        netns = Netns.given(text)
        if netns.number() == OWN.number():
            raise InterfaceError(f"--netns {text} is the agent's own namespace; leave it out")
        if any(one.label == netns.label for one in found):
            raise InterfaceError(f"two network namespaces would be called {netns.label!r}")
        found.append(netns)
    return found
