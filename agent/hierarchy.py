# SPDX-License-Identifier: Apache-2.0
"""The tree of cgroups: where it is mounted, what its paths tell, and where a process is in it.

A path names a systemd unit by its innermost service or scope, and a container by the 64
hexadecimal digits that Docker, containerd, CRI-O and Podman put into it.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")

_CONTAINER = re.compile(r"(?:.*[-:])?([0-9a-f]{64})(?:\.scope)?")
_MONITOR = "conmon"  # libpod-conmon-<id>.scope holds what is beside the container, not in it
_USER_MANAGER = re.compile(r"user@\d+\.service")
_ESCAPE = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Hierarchies:
    """Where cgroup2 is mounted, if it is, and whether cgroup v1 is beside it."""

    root: Path | None
    has_v1: bool


def hierarchies(mountinfo: str) -> Hierarchies:
    """The hierarchies in the text of /proc/PID/mountinfo."""
    root, has_v1 = None, False
    for line in mountinfo.split("\n"):
        mount, _, system = line.partition(" - ")
        kind = system.partition(" ")[0]
        if kind == "cgroup2" and root is None:
            root = Path(_ESCAPE.sub(lambda octal: chr(int(octal[1], 8)), mount.split()[4]))
        has_v1 = has_v1 or kind == "cgroup"
    return Hierarchies(root, has_v1)


def texts_of(path: str) -> tuple[str, str, str]:
    """Cgroup, unit and container of a path; empty where it tells nothing."""
    parts = [part for part in path.split("/") if part]
    return path, _unit(parts), _container(parts)


def _unit(parts: list[str]) -> str:
    units = [part for part in parts if part.endswith((".service", ".scope"))]
    if not units:
        return ""
    # A user's systemd sits in a scope named as the system's own.
    if units[-1] == "init.scope" and len(units) > 1 and _USER_MANAGER.fullmatch(units[-2]):
        return units[-2]
    return units[-1]


def _container(parts: list[str]) -> str:
    for part in reversed(parts):
        if (found := _CONTAINER.fullmatch(part)) and _MONITOR not in part:
            return found[1]
    return ""


def walk(root: Path) -> dict[int, str]:
    """The path below *root* of every cgroup, by its number; one that vanishes is left out."""
    found = {root.stat().st_ino: "/"}
    for directory, names, _ in os.walk(root):
        for name in names:
            path = Path(directory, name)
            try:
                found[path.stat().st_ino] = f"/{path.relative_to(root)}"
            except OSError:
                continue
    return found


@dataclass(frozen=True, slots=True)
class ProcessCgroups:
    """The paths of one process: in cgroup2, and the most telling one in cgroup v1."""

    unified: str
    v1: str


def cgroups_of(pid: int, proc: Path = PROC) -> ProcessCgroups | None:
    """Where a process is; None when it has gone or is hidden from us."""
    try:
        text = (proc / str(pid) / "cgroup").read_bytes().decode(errors="surrogateescape")
    except OSError:
        return None
    unified, v1 = "", ""
    # Whoever may make cgroups may name one with all else that Python takes for a line's end.
    for line in filter(None, text.split("\n")):
        number, _, path = line.split(":", 2)
        if number == "0":
            unified = path
        elif _telling(path) > _telling(v1):
            v1 = path
    return ProcessCgroups(unified, v1)


def _telling(path: str) -> tuple[bool, bool, int]:
    """Controllers may be nested differently: a container says more than a unit, than a path."""
    _, unit, container = texts_of(path)
    return bool(container), bool(unit), len(path)
