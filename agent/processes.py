# SPDX-License-Identifier: Apache-2.0
"""Which process has which socket, by what /proc tells of open files.

The kernel does not say which processes have a socket open; only /proc/PID/fd does, which takes a
system call for each open file and the right to look (CAP_SYS_PTRACE for those of others).  So it
is read once, in a thread, and not for longer than it is told to.
"""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agent.commands import COMMAND_BYTES
from agent.hierarchy import PROC

_SOCKET = "socket:["


@dataclass(frozen=True, slots=True)
class Holders:
    """Sockets by inode, in ascending order, with a process that has each."""

    inode: NDArray[np.uint64]
    pid: NDArray[np.uint32]
    command: NDArray[np.bytes_]
    hidden: int = 0  # processes whose files we may not look at
    is_whole: bool = True  # whether there was time for all

    def of(self, inode: NDArray[np.uint64]) -> tuple[NDArray[np.uint32], NDArray[np.bytes_]]:
        """Process and command for each inode, 0 and nothing where unknown."""
        if not len(self.inode):
            return np.zeros(len(inode), np.uint32), np.zeros(len(inode), self.command.dtype)
        place = np.searchsorted(self.inode, inode).clip(max=len(self.inode) - 1)
        is_known = self.inode[place] == inode
        return np.where(is_known, self.pid[place], 0), np.where(is_known, self.command[place], b"")


def find_holders(deadline: float, proc: Path = PROC) -> Holders:
    """Look at every process until monotonic time *deadline*; blocks while it does.

    Of several processes with one socket it is that of the lowest number, which mostly is the
    parent.
    """
    holder: dict[int, int] = {}
    commands: dict[int, bytes] = {}
    hidden, is_whole = 0, True
    for pid in _pids(proc):
        if time.monotonic() > deadline:
            is_whole = False
            break
        try:
            inodes = list(_socket_inodes(proc / str(pid) / "fd"))
        except PermissionError:
            hidden += 1
            continue
        except OSError:  # it has ended
            continue
        for inode in inodes:
            holder.setdefault(inode, pid)
        if inodes:
            commands[pid] = _command(proc / str(pid) / "comm")
    ordered = sorted(holder.items())
    return Holders(
        np.array([inode for inode, _ in ordered], np.uint64),
        np.array([pid for _, pid in ordered], np.uint32),
        np.array([commands[pid] for _, pid in ordered], f"S{COMMAND_BYTES}"),
        hidden,
        is_whole,
    )


def _pids(proc: Path) -> list[int]:
    with os.scandir(proc) as entries:
        return sorted(int(entry.name) for entry in entries if entry.name.isdigit())


def _socket_inodes(directory: Path) -> Iterator[int]:
    with os.scandir(directory) as entries:
        for entry in entries:
            try:
                target = os.readlink(entry.path)  # noqa: PTH115  # a Path for each takes as long
            except FileNotFoundError:  # closed meanwhile
                continue
            if target.startswith(_SOCKET):
                yield int(target[len(_SOCKET) : -1])


def _command(path: Path) -> bytes:
    try:
        return path.read_bytes().rstrip(b"\n")
    except OSError:
        return b""
