# SPDX-License-Identifier: Apache-2.0
"""Time and memory to load the kernel programs, and to start an agent: compiled, and compiled before.

    python -m bench.start [--quick | --long]

The loader is the process that an agent starts; its memory is the most that it ever had.  Nothing is
attached by it alone.  The agent observes one end of a virtual link and has no broker.
"""

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from agent.config import Config
from agent.pipeline import plan_of
from agent.plan import remove_all, root_of
from bench.link import ROOT, Link, link
from bench.rounds import cell, interleave, table
from bench.subject import Scale, main
from tests.lab.cgroups import a_cgroup

NOWHERE = "127.0.0.1:9"  # the discard port, where no broker listens
# As `python -m agent.loader`, and then it says its peak in kB: what wait4() tells of that begins with
# the memory of the process that started it.
LOADER = """
import sys
from agent.loader import main
code = main()
status = dict(line.split(":") for line in open("/proc/self/status"))
sys.stderr.write(status["VmHWM"].split()[0])
sys.exit(code)
"""
WANTED = {
    "as by default": {},
    "names, both packets of tunnels": {"dns": "yes", "tls": "yes", "tunnels": "both"},
}
WAYS = ("compiled", "compiled before")


def measure(scale: Scale) -> list[dict]:
    rounds = scale.pick(2, 2, 9)
    # The first is everybody's; that an agent waits for a compiler is the loader's figure.
    wanted, ways = (list(WANTED), WAYS) if scale.is_long else (list(WANTED)[:1], WAYS[1:])
    with a_cgroup("start") as made, tempfile.TemporaryDirectory() as directory, link() as one:
        kept, cgroup = Path(directory), str(made.directory)
        return [of_loader(kept, cgroup, rounds, wanted), of_agent(kept, one, cgroup, rounds, ways)]


def of_loader(kept: Path, cgroup: str, rounds: int, asked: list[str]) -> dict:
    def run(wanted: str, way: str) -> tuple[float, ...]:
        look(kept, way)
        return loaded(cgroup=cgroup, **WANTED[wanted])

    variants = {
        (wanted, way): lambda wanted=wanted, way=way: run(wanted, way)
        for wanted in asked
        for way in WAYS
    }
    rows = [
        [", ".join(name), *(cell(list(each), 2) for each in zip(*samples, strict=True))]
        for name, samples in interleave(variants, rounds).items()
    ]
    return table("A loader", ["programs", "seconds", "CPU seconds", "MB at its peak"], rows)


def of_agent(kept: Path, one: Link, cgroup: str, rounds: int, ways: tuple[str, ...]) -> dict:
    def run(way: str) -> float:
        look(kept, way)
        return seconds_to_be_ready(one.name, cgroup)

    samples = interleave({way: lambda way=way: run(way) for way in ways}, rounds)
    rows = [[f"programs {way}", cell(found, 2)] for way, found in samples.items()]
    return table("From `python -m agent` to `agent ready`", ["agent", "seconds"], rows)


def look(kept: Path, way: str) -> None:
    """Have what is started next find what it is to find: the round that is not counted fills it."""
    folder = kept / way
    os.environ["CACHE_DIRECTORY"] = str(folder)
    if way == "compiled" and folder.exists():
        shutil.rmtree(folder)


def loaded(**options: object) -> tuple[float, float, float]:
    """Seconds, seconds of a CPU, and megabytes that a loader takes."""
    pin_path = str(root_of(f"hlb{os.getpid()}"))
    plan = replace(plan_of(Config(node="bench", **options)), pin_path=pin_path)
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", LOADER, str(os.getpid())],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    with process:
        process.stdin.write(plan.to_json().encode())
        process.stdin.close()
        peak = process.stderr.read()
        used = used_by(process)
        took = time.perf_counter() - began
    plan.pins.remove()
    assert process.returncode == 0, peak
    return took, used.ru_utime + used.ru_stime, int(peak) / 1024


def used_by(process: subprocess.Popen) -> resource.struct_rusage:
    """What a process has used, once it has ended."""
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return used


def seconds_to_be_ready(interface: str, cgroup: str) -> float:
    name = f"hlb{os.getpid()}"
    flags = ("--interface", interface, "--kafka", NOWHERE, "--cgroup", cgroup)
    own = ("--name", name, "--node", "bench", "--stop-timeout", "0.1")
    # What an agent leaves, in its spool and in the kernel, is for the next one.
    with tempfile.TemporaryDirectory(prefix="hookline-bench-") as spool:
        command = [sys.executable, "-m", "agent", *flags, *own, "--spool", spool]
        began = time.perf_counter()
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        with process:
            for line in process.stderr:
                if "agent ready" in line:
                    took = time.perf_counter() - began
                    process.terminate()
        remove_all(root_of(name))
    return took


if __name__ == "__main__":
    main(measure, __doc__)
