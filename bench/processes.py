# SPDX-License-Identifier: Apache-2.0
"""Start the agent and the consumer as they are started for real, and read what they use."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.plan import remove_all, root_of
from bench.link import ROOT

_TICKS = os.sysconf("SC_CLK_TCK")
_DEADLINE_S = 60.0
_POLL_S = 0.05


@contextmanager
def started(module: str, *flags: str, ready: str) -> Iterator[int]:
    """The process id of `python -m MODULE FLAGS`, once it has logged *ready*; ended after."""
    with tempfile.NamedTemporaryFile(prefix="hookline-bench-", suffix=".log") as log:
        process = subprocess.Popen([sys.executable, "-m", module, *flags], cwd=ROOT, stderr=log)
        try:
            _await(process, Path(log.name), ready)
            yield process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def agent_name() -> str:
    """As the agent is called that we start."""
    return f"hlb{os.getpid()}"


@contextmanager
def agent(interface: str, kafka: str, *flags: str) -> Iterator[int]:
    name = agent_name()
    base = ("--interface", interface, "--kafka", kafka, "--name", name, "--node", "bench")
    # What an agent leaves, in its spool and in the kernel, is for the next one.
    with tempfile.TemporaryDirectory(prefix="hookline-bench-") as spool:
        try:
            with started("agent", *base, "--spool", spool, *flags, ready="agent ready") as pid:
                yield pid
        finally:
            remove_all(root_of(name))


@contextmanager
def consumer(kafka: str, directory: Path, *flags: str) -> Iterator[int]:
    base = ("--kafka", kafka, "--clickhouse", f"chdb://{directory}/clickhouse")
    with started("consumer", *base, *flags, ready="partitions assigned") as pid:
        yield pid


def _await(process: subprocess.Popen[bytes], log: Path, ready: str) -> None:
    deadline = time.monotonic() + _DEADLINE_S
    while ready not in log.read_text():
        if process.poll() is not None or time.monotonic() > deadline:
            sys.exit(f"it did not start:\n{log.read_text()}")
        time.sleep(_POLL_S)


def memory_mb(pid: int) -> dict[str, float]:
    """Resident memory, and its parts: what only this process has, and mapped files and maps."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    kb = {line.split(":")[0]: int(line.split()[1]) for line in text.splitlines()[1:]}
    return {name: kb[name] / 1024 for name in ("Rss", "Pss", "Anonymous")}


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def cpu_ns(pid: int) -> int:
    """CPU time of a process with all of its threads, as the scheduler has it: no ticks."""
    # As clock_getcpuclockid(3) makes it of a process id: CPUCLOCK_SCHED is 2.
    return time.clock_gettime_ns((~pid << 3) | 2)


def pin(pid: int, cpu: int) -> None:
    """Keep every thread of a process on one CPU, and those that they start."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), {cpu})
