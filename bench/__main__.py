# SPDX-License-Identifier: Apache-2.0
"""Measure: every number that the documentation states comes from here.

    python -m bench [SUBJECT...] [--quick | --long] [--report | --report-only]

Each subject runs in a process of its own.  What it found goes into bench/results/, in a file that
is named for the machine, beside what other subjects found there earlier; --report writes that
file's tables into docs/explanation/performance.md, and draws its figures.  A subject that fails
keeps what it found earlier, and the others go on.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from bench.report import write_report
from bench.subject import SIZES, add_peers, add_sizes

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"

# A subject is a module beside this one that prints one JSON object; here with the seconds that it may
# take on two CPUs, of the usual size, what has to be compiled included.  Together they have 20
# minutes, of which a run leaves one or two.
SUBJECTS = {
    "kernel": 108,
    "shapes": 10,
    "ring": 46,
    "flowcache": 10,
    "owners": 4,
    "sockets": 7,
    "names": 28,
    "rules": 76,
    "replay": 20,
    "start": 35,
    "spool": 14,
    "live": 120,
    "detect": 57,
    "memory": 22,
    "alerts": 13,
    "claim": 166,
    "queries": 85,
    "pipeline": 120,
    "scale": 139,
    "consumer": 116,
}
# Those that do not take --quick and --long say in flags of their own how much is measured.
FLAGS = {
    "claim": {"long": ("--rounds", "12")},
    "queries": {"long": ("--rows", "100000000")},
}
TAKE_PEERS = ("kernel",)
# Where something is that is not made here, which a flag of ours and of the subject's says.
TAKE_PLACES = {
    "claim": ("--envoy", "envoy"),
    "consumer": ("--kafka-engine", "kafka_engine"),
    "queries": ("--keep", "history"),
}
# One that hangs is ended, so that the others have their turn.
HANGS_AFTER_BUDGETS = 4
ENDS_WITHIN_S = 60.0


class SubjectError(Exception):
    """A subject found nothing."""


def main() -> int:
    arguments = parse()
    path = arguments.results or RESULTS / f"{machine_name()}.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    failures: list[str] = []
    if not arguments.report_only:
        if os.geteuid() != 0:
            sys.exit("bench: loading eBPF programs needs root; run it with sudo")
        results["machine"] = machine()
        failures = run_all(arguments, path, results)
    if arguments.report or arguments.report_only:
        write_report(results)
    for failure in failures:
        print(f"bench: {failure}", file=sys.stderr)
    return 1 if failures else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("subjects", nargs="*", metavar="SUBJECT", help=", ".join(SUBJECTS))
    add_sizes(parser)
    parser.add_argument("--kafka-engine", metavar="DIR", help="see python -m bench.consumer --help")
    parser.add_argument("--envoy", metavar="FILE", help="see python -m bench.claim --help")
    parser.add_argument(
        "--history", metavar="DIR", help="see python -m bench.queries --help, --keep"
    )
    add_peers(parser)
    parser.add_argument("--results", type=Path, metavar="FILE", help="another file of results")
    report = parser.add_mutually_exclusive_group()
    report.add_argument("--report", action="store_true", help="write tables and figures into docs/")
    report.add_argument("--report-only", action="store_true", help="that, of what was found before")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.subjects) - set(SUBJECTS)):
        parser.error(f"subject {unknown[0]} is unknown; there are {', '.join(SUBJECTS)}")
    return arguments


def run_all(arguments: argparse.Namespace, path: Path, results: dict) -> list[str]:
    """Run the subjects one by one, keep what each found, and say which found nothing and why.

    A run of the usual size also says at its end which subjects took longer than they may.
    """
    names, failures = arguments.subjects or list(SUBJECTS), []
    took: dict[str, float] = {}
    for name in names:
        began = time.monotonic()
        try:
            results.setdefault("subjects", {})[name] = run(name, arguments)
        except SubjectError as error:
            failures.append(f"{name} {error}")
        took[name] = time.monotonic() - began
        print(f"bench: {_took(name, took[name], arguments.size)}", file=sys.stderr)
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(results, indent=1) + "\n")
    print(f"bench: {_took('all', sum(took.values()), arguments.size, names)}", file=sys.stderr)
    for name in names if arguments.size == "usual" else ():
        if took[name] > SUBJECTS[name]:
            print(f"bench: too long: {_took(name, took[name], 'usual')}", file=sys.stderr)
    print(f"bench: wrote {path}", file=sys.stderr)
    return failures


def _took(name: str, seconds: float, size: str, of: Iterable[str] = ()) -> str:
    """How long it took, and of a usual run how long it may take, or all *of* these may."""
    may_take = f" of {sum(SUBJECTS[one] for one in of or (name,)):,}" if size == "usual" else ""
    return f"{name} took {seconds:,.0f}{may_take} s"


def run(name: str, arguments: argparse.Namespace) -> dict:
    """One subject's result, with when and how it came about."""
    command = ["python", "-m", f"bench.{name}", *flags(name, arguments)]
    print(f"bench: {' '.join(command[2:])}", file=sys.stderr)
    began, busy = time.time(), os.getloadavg()[0]
    longest_s = HANGS_AFTER_BUDGETS * SUBJECTS[name] if arguments.size != "long" else None
    found = output([sys.executable, *command[1:]], longest_s)
    # Where this machine keeps the peers is of no interest to others.
    places = {one: _without_folder(one) for one in arguments.peer}
    places |= {
        arguments.kafka_engine: "DIR",
        arguments.history: "DIR",
        arguments.envoy: "FILE",
    }
    shown = [places.get(word, word) for word in command]
    about = {
        "command": " ".join(shown),
        "began": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(began)),
        "seconds": round(time.time() - began),
        "load_before": round(busy, 2),
    }
    try:
        return about | json.loads(found)
    except ValueError:
        raise SubjectError(f"printed no JSON object but {found[:60]!r}") from None


def output(command: list[str], longest_s: float | None) -> str:
    """What *command* prints, within so many seconds."""
    # A shell's job in the background ignores interrupts, and so would what it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            found, _ = process.communicate(timeout=longest_s)
        except subprocess.TimeoutExpired:
            end(process)
            raise SubjectError(f"hung: it was ended after {longest_s:.0f} s") from None
    if process.returncode:
        raise SubjectError(f"failed with {process.returncode}; what it said is above")
    return found


def end(process: subprocess.Popen[str]) -> None:
    """By an interrupt, so that it takes down what it has put up."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(ENDS_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def flags(name: str, arguments: argparse.Namespace) -> tuple[str, ...]:
    usual = (f"--{arguments.size}",) if SIZES[arguments.size] else ()
    own = FLAGS.get(name, {}).get(arguments.size, usual)
    if name in TAKE_PEERS:
        return (*own, *(word for one in arguments.peer for word in ("--peer", one)))
    flag, place = TAKE_PLACES.get(name, ("", ""))
    if place and (found := getattr(arguments, place)):
        return (*own, flag, found)
    return own


def _without_folder(peer: str) -> str:
    name, _, file = peer.partition("=")
    return f"{name}={file.rpartition('/')[2]}"


def machine() -> dict[str, object]:
    information = Path("/proc/cpuinfo").read_text()
    model = next(line for line in information.splitlines() if line.startswith("model name"))
    memory = int(Path("/proc/meminfo").read_text().split()[1])
    return {
        "processor": model.partition(":")[2].strip(),
        "cpus": os.cpu_count(),
        "memory_gb": round(memory / (1 << 20)),
        "is_virtual": "hypervisor" in information,
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def machine_name() -> str:
    about = machine()
    words = f"{about['processor']} {about['cpus']}cpu linux {platform.release().split('-')[0]}"
    return "-".join("".join(c if c.isalnum() or c == "." else " " for c in words.lower()).split())


if __name__ == "__main__":
    sys.exit(main())
