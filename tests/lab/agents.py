# SPDX-License-Identifier: Apache-2.0
"""Agents as their users run them: a process with flags, signals and an exit code."""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from agent.plan import BPFFS, remove_all, root_of
from agent.programs import LOCKS
from tests.lab.links import PREFIX, is_ours_no_more
from tests.lab.waiting import wait_until

ROOT = Path(__file__).parents[2]
SPOOLS = Path(tempfile.gettempdir()) / "hookline-test-spools"
NOWHERE = "127.0.0.1:9"  # the discard port, where no broker listens
_STOP_S = 30.0
# By name, when the first agent that had it began, in milliseconds since 1970.
BEGAN_MS: dict[str, int] = {}


class Agent:
    """One agent process; its own name keeps it apart from any other on this machine."""

    def __init__(
        self,
        *flags: str,
        kafka: str = NOWHERE,
        name: str = "",
        root: Path = ROOT,
        environment: Mapping[str, str] | None = None,
        run_by: Sequence[str] = (),
    ) -> None:
        """*run_by* is a command that runs the agent in its own place."""
        self.name = name or f"{PREFIX}{os.getpid()}-{secrets.token_hex(3)}"
        BEGAN_MS.setdefault(self.name, time.time_ns() // 1_000_000)
        self.lines: list[str] = []
        # Without sockets unless a test asks: they would be those of everybody on this machine.
        # What a test leaves attached would be nobody's.
        defaults = ["--kafka", kafka, "--sockets", "no", "--on-stop", "detach"]
        defaults += ["--spool", str(SPOOLS)]
        if kafka == NOWHERE:
            # What it would publish at the end waits for nobody.
            defaults += ["--stop-timeout", "0.1"]
        arguments = ["--name", self.name, "--node", self.name, *defaults, *flags]
        self._process = subprocess.Popen(
            [*run_by, sys.executable, "-m", "agent", *arguments],
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root), **(environment or {})},
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def pins(self) -> Path:
        return root_of(self.name)

    @property
    def said(self) -> str:
        return "".join(self.lines)

    def until_ready(self) -> "Agent":
        self.until_it_says("agent ready")
        return self

    def until_it_says(self, text: str) -> None:
        wait_until(lambda: text in self.said or self._has_ended(text), f"the agent to say {text!r}")

    def wait(self) -> int:
        """The exit code of an agent that ends by itself."""
        try:
            return self._process.wait(_STOP_S)
        finally:
            self._process.kill()
            self._process.wait()
            self._reader.join()
            self._process.stderr.close()

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def stop(self, number: int = signal.SIGTERM) -> int:
        self._process.send_signal(number)
        return self.wait()

    def kill(self) -> None:
        self._process.kill()
        self.wait()

    def _has_ended(self, text: str) -> bool:
        if self._process.poll() is not None and text not in self.said:
            raise AssertionError(f"the agent ended with {self._process.returncode}: {self.said}")
        return False

    def _read(self) -> None:
        for line in self._process.stderr:
            self.lines.append(line)


@contextmanager
def agent(*flags: str, kafka: str = NOWHERE, name: str = "") -> Iterator[Agent]:
    """An agent that observes already; killed in the end unless the test has stopped it."""
    started = Agent(*flags, kafka=kafka, name=name)
    try:
        yield started.until_ready()
    finally:
        if started._process.poll() is None:
            started.kill()
            remove_pins(started)
        elif not started._process.stderr.closed:
            started.wait()


def remove_pins(killed: Agent) -> None:
    """Let go of everything that a killed agent had pinned; links detach by that."""
    remove_all(root_of(killed.name))


def remove_leftovers() -> None:
    """Remove what the agents of earlier runs left, whose process is no more."""
    for path in SPOOLS.glob(f"{PREFIX}*"):
        if is_ours_no_more(path.name):
            shutil.rmtree(path)
    for path in [*(BPFFS / "hookline").glob(f"{PREFIX}*"), *LOCKS.glob(f"{PREFIX}*")]:
        if not is_ours_no_more(path.name):
            continue
        if path.is_dir():
            remove_all(path)
        else:
            path.unlink()
