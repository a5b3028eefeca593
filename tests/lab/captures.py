# SPDX-License-Identifier: Apache-2.0
"""`hookline capture` as its users run it, and what tshark and libpcap make of files."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent import libbpf
from tests.lab.agents import ROOT, Agent

# Words of struct bpf_prog_info and struct bpf_link_info.
_PROGRAM_ID = 1
_LINK_PROGRAM = 2
COMMAND = (sys.executable, "-m", "hookline", "capture")


def capture(*words: str) -> subprocess.CompletedProcess[str]:
    """A capture that ends by itself."""
    return subprocess.run(
        [*COMMAND, *words], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )


@dataclass(slots=True)
class Running:
    """A capture that runs; `said` is its summary once it was stopped."""

    process: subprocess.Popen[str]
    path: Path
    said: str = ""

    def stop(self, *, code: int = 0) -> "Running":
        self.process.send_signal(signal.SIGINT)
        return self.wait(code=code)

    def wait(self, *, code: int = 0) -> "Running":
        _, self.said = self.process.communicate(timeout=60)
        assert self.process.returncode == code, self.said
        return self

    @property
    def frames(self) -> list[bytes]:
        return frames_of(self.path)


@contextmanager
def capturing(observed: Agent, path: Path, *words: str) -> Iterator[Running]:
    """A capture of everything that passes from here on; killed in the end unless it was stopped."""
    process = subprocess.Popen(
        [*COMMAND, "--agent", observed.name, "-w", str(path), *words],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stderr is not None
        said = process.stderr.readline()
        assert said.startswith("capturing on "), said
        try:
            yield Running(process, path)
        finally:
            process.kill()


def frames_of(path: Path, libpcap_filter: str = "") -> list[bytes]:
    """The frames of a file in order; those that libpcap's own filter means."""
    command = ["tcpdump", "-n", "-r", str(path), "-w", "-", "--", libpcap_filter]
    content = subprocess.run(command, check=True, capture_output=True).stdout
    at, frames = 24, []
    while at < len(content):
        start, at = at + 16, at + 16 + int.from_bytes(content[at + 8 : at + 12], sys.byteorder)
        frames.append(content[start:at])
    return frames


def fields_of(path: Path, *fields: str) -> list[list[str]]:
    """What tshark reads in each packet."""
    wanted = [word for field in fields for word in ("-e", field)]
    done = subprocess.run(
        ["tshark", "-n", "-r", str(path), "-T", "fields", *wanted],
        check=True,
        capture_output=True,
        text=True,
    )
    return [line.split("\t") for line in done.stdout.splitlines()]


def counts_only(observed: Agent) -> bool:
    """Whether every link runs one of the programs that know no capture."""
    normal = {_id_of(path, _PROGRAM_ID) for path in observed.pins.glob("*/programs/*")}
    running = {_id_of(path, _LINK_PROGRAM) for path in (observed.pins / "links").iterdir()}
    return running <= normal


def has_leftovers(observed: Agent) -> bool:
    """Whether anything is pinned that only captures need."""
    return bool([*observed.pins.glob("*/maps/capture*"), *observed.pins.glob("*/maps/*tails-*")])


def _id_of(path: Path, word: int) -> int:
    with libbpf.opened(path) as fd:
        return libbpf.information(fd)[word]
