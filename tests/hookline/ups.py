# SPDX-License-Identifier: Apache-2.0
"""`hookline up` as its users run it: a command, a data directory, signals and an exit code."""

import json
import os
import signal
import subprocess
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hookline.kafka import free_port
from tests.lab.waiting import wait_until

ROOT = Path(__file__).parents[2]
_START_S = 60.0
_STOP_S = 90.0


class Up:
    """One running `hookline up` on a data directory."""

    def __init__(self, data: Path, *flags: str) -> None:
        self.data = data
        self.url = f"http://127.0.0.1:{free_port()}"
        self._process = subprocess.Popen(
            command("up", f"--data={data}", f"--http-port={self.url.rpartition(':')[2]}", *flags),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            process_group=0,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def until_ready(self) -> "Up":
        wait_until(self._is_ready, "hookline up to be ready", _START_S)
        return self

    def _is_ready(self) -> bool:
        assert self._process.poll() is None, self._process.communicate()[0]
        # The file of an earlier run may be there, but it tells another port.
        return self.served() == self.url

    def served(self) -> str:
        """The address that up.json tells, empty where there is none."""
        running = self.data / "up.json"
        return json.loads(running.read_text())["http"] if running.is_file() else ""

    @property
    def agent(self) -> str:
        """The name of its agent, which differs with the data directory."""
        return f"up-{zlib.crc32(os.fsencode(self.data)):08x}"

    def children(self) -> list[int]:
        """Process ids of everything that it has started."""
        listed = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        return [int(pid) for pid in listed.split()]

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """The exit code, and all that it said."""
        os.kill(self.pid, number)
        return self.wait()

    def wait(self) -> tuple[int, str]:
        said, _ = self._process.communicate(timeout=_STOP_S)
        return self._process.returncode, said

    def end(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.communicate(timeout=_STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.communicate()


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "hookline", *arguments]


def hookline(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A command that ends by itself."""
    return subprocess.run(
        command(*arguments), cwd=ROOT, check=False, capture_output=True, text=True, timeout=120
    )


@contextmanager
def up(data: Path, *flags: str) -> Iterator[Up]:
    """A running one, ended in the end unless the test has stopped it."""
    started = Up(data, *flags)
    try:
        yield started.until_ready()
    finally:
        started.end()
