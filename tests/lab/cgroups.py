# SPDX-License-Identifier: Apache-2.0
"""Cgroups of ours, with processes in them, removed when the test ends."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.hierarchy import hierarchies
from tests.lab.links import is_ours_no_more, unique_name
from tests.lab.waiting import wait_until


def cgroup2() -> Path:
    """Where the hierarchy is mounted; a folder of nothing where it is not."""
    return hierarchies(Path("/proc/self/mountinfo").read_text()).root or Path("/nonexistent")


@dataclass(frozen=True, slots=True)
class Cgroup:
    """One cgroup, below one that carries the name of this test run."""

    directory: Path

    @property
    def number(self) -> int:
        return self.directory.stat().st_ino

    @property
    def path(self) -> str:
        return f"/{self.directory.relative_to(cgroup2())}"

    def command(self, *command: str) -> list[str]:
        """A command that is in the cgroup from its first instruction on, as the same process."""
        shell = f'echo $$ > {self.directory}/cgroup.procs && exec "$@"'
        return ["sh", "-c", shell, "sh", *command]

    @contextmanager
    def running(self, *command: str, **options: object) -> Iterator[subprocess.Popen]:
        """A program that runs in the cgroup, until the block is left."""
        process = subprocess.Popen(self.command(*command), **options)
        try:
            wait_until(lambda: self._holds(process), f"{command[0]} to run in its cgroup")
            yield process
        finally:
            process.kill()
            process.wait()

    def _holds(self, process: subprocess.Popen) -> bool:
        is_inside = str(process.pid) in (self.directory / "cgroup.procs").read_text().split()
        return is_inside and Path(f"/proc/{process.pid}/comm").read_text() != "sh\n"


@contextmanager
def a_cgroup(name: str) -> Iterator[Cgroup]:
    """A new cgroup of that name."""
    own = cgroup2() / unique_name()
    made = Cgroup(own / name)
    made.directory.mkdir(parents=True)
    try:
        yield made
    finally:
        for directory in (made.directory, own):
            _remove(directory)


def _remove(directory: Path) -> None:
    # A killed process leaves its cgroup a moment after it has been waited for.
    deadline = time.monotonic() + 5
    while directory.exists():
        try:
            directory.rmdir()
        except OSError:
            if time.monotonic() > deadline:
                raise
            # Whoever is still there was forgotten by a test that failed.
            (directory / "cgroup.kill").write_text("1")
            os.sched_yield()


def remove_leftovers() -> None:
    """Remove what earlier runs left, whose process is no more."""
    for own in cgroup2().glob("hlt*"):
        if is_ours_no_more(own.name):
            for directory, _, _ in os.walk(own, topdown=False):
                _remove(Path(directory))
