# SPDX-License-Identifier: Apache-2.0
"""How long eBPF programs took, by the kernel's own clock.

The kernel reads its clock before and after each run while it is asked to, which is some 50
nanoseconds a run, about half of them in the time that it tells: so that is an upper bound.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent import libbpf
from agent.plan import links_in, root_of
from bench.xdp_filter import opened_by_id

_ENABLED = Path("/proc/sys/kernel/bpf_stats_enabled")


@contextmanager
def clocked_programs() -> Iterator[None]:
    """Meanwhile the kernel tells how long programs run."""
    was = _ENABLED.read_text()
    _ENABLED.write_text("1")
    try:
        yield
    finally:
        _ENABLED.write_text(was)


def ran(agents: list[str]) -> tuple[float, int]:
    """Seconds and runs of all programs that these agents have attached."""
    numbers = {number for name in agents for number in _attached(name)}
    found = [_times(number) for number in numbers]
    return sum(ns for ns, _ in found) / 1e9, sum(runs for _, runs in found)


def times_of(fd: int) -> tuple[int, int]:
    """Nanoseconds that a program has run since it is there, and how many times."""
    said = _said_of(fd)
    return int(said["run_time_ns"]), int(said["run_cnt"])


def times_at(link: Path) -> tuple[int, int]:
    """The same of the program that is attached by the *link* pinned there."""
    return _times(_program_of(link))


def _attached(name: str) -> list[int]:
    return [_program_of(pin) for pin in links_in(root_of(name))]


def _program_of(link: Path) -> int:
    with libbpf.opened(link) as fd:
        return int(_said_of(fd)["prog_id"])


def _times(number: int) -> tuple[int, int]:
    fd = opened_by_id(number)
    try:
        return times_of(fd)
    finally:
        os.close(fd)


def _said_of(fd: int) -> dict[str, str]:
    lines = Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
