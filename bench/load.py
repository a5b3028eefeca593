# SPDX-License-Identifier: Apache-2.0
"""Ask a site's web server for answers: in an open loop at a fixed rate, or with wrk as fast as it can.

`load.c` is the open loop; it is compiled into a temporary folder.
"""

import json
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bench.sites import PORT, SERVER_ADDRESS, Node

CONNECTIONS = 64
WARM_S = 0.2
_SOURCE = Path(__file__).with_suffix(".c")
_UNITS_MS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}


@dataclass(frozen=True, slots=True)
class Answers:
    """What a client got, and what it took of its CPU."""

    count: int
    per_second: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    client_cpu_s: float


def compiled(folder: Path) -> Path:
    """The program of load.c."""
    program = folder / "load"
    subprocess.run(["clang", "-O2", "-o", str(program), str(_SOURCE)], check=True)
    return program


def asked(program: Path, node: Node, rate: int, seconds: float, *, closes: bool) -> Answers:
    """So many requests a second; each on a connection of its own if it *closes*."""
    words = (SERVER_ADDRESS, PORT, rate, CONNECTIONS * (4 if closes else 1), WARM_S, seconds)
    text, cpu_s = _run(node, str(program), *map(str, words), "close" if closes else "keep")
    return from_load(text, cpu_s)


def from_load(text: str, client_cpu_s: float = 0.0) -> Answers:
    found = json.loads(text)
    assert not found["failed"], f"{found['failed']} requests were refused"
    return Answers(
        count=found["answered"],
        per_second=found["answered"] / found["seconds"],
        p50_ms=found["p50_ns"] / 1e6,
        p99_ms=found["p99_ns"] / 1e6,
        p999_ms=found["p999_ns"] / 1e6,
        client_cpu_s=client_cpu_s,
    )


def saturated(node: Node, seconds: int, *, closes: bool) -> Answers:
    """As many as wrk gets, which waits for an answer on each connection before it asks again."""
    header = ("--header", "Connection: close") if closes else ()
    url = f"http://{SERVER_ADDRESS}:{PORT}/"
    flags = ("-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency", *header)
    return from_wrk(*_run(node, "wrk", *flags, url))


def from_wrk(text: str, client_cpu_s: float = 0.0) -> Answers:
    """What wrk printed; it tells no 99.9 %, so its 99 % stands for that."""
    for fault in ("Socket errors", "Non-2xx"):
        assert fault not in text, text
    shares = re.findall(r"^ +(50|99)% +([\d.]+)(us|ms|s|m)$", text, re.MULTILINE)
    ms = {share: float(value) * _UNITS_MS[unit] for share, value, unit in shares}
    return Answers(
        count=int(re.search(r"(\d+) requests in", text)[1]),
        per_second=float(re.search(r"Requests/sec: +([\d.]+)", text)[1]),
        p50_ms=ms["50"],
        p99_ms=ms["99"],
        p999_ms=ms["99"],
        client_cpu_s=client_cpu_s,
    )


def _run(node: Node, *command: str) -> tuple[str, float]:
    """What *command* printed on that node, and its CPU seconds."""
    process = node.start(*command, stdout=subprocess.PIPE, text=True)
    with process.stdout:
        text = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{Path(command[0]).name} failed with {process.returncode}")
    return text, used.ru_utime + used.ru_stime
