# SPDX-License-Identifier: Apache-2.0
"""Measure: every number that the documentation states comes from here.

    python -m bench [SUBJECT...] [--quick] [--minutes 60] [--report]

Each subject runs in a process of its own.  What it found goes into bench/results/, in a file that
is named for the machine, beside what other subjects found there earlier; --report writes that
file's tables into docs/explanation/performance.md, and what is computed from them into scale.md.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

from bench.report import write_report
from bench.subject import add_peers

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"

# A subject is a module beside this one that prints one JSON object, here with its usual flags.
SUBJECTS: dict[str, tuple[str, ...]] = {
    "claim": (),
    "kernel": (),
    "shapes": (),
    "ring": (),
    "flowcache": (),
    "owners": (),
    "sockets": (),
    "names": (),
    "rules": (),
    "replay": (),
    "start": (),
    "spool": (),
    "live": (),
    "detect": (),
    "memory": (),
    "alerts": (),
    "pipeline": (),
    "consumer": (),
    "queries": (),
    "scale": (),
}
TAKE_PEERS = ("kernel",)


def main() -> int:
    arguments = parse()
    path = arguments.results or RESULTS / f"{machine_name()}.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    if not (arguments.report and not arguments.subjects):
        if os.geteuid() != 0:
            sys.exit("bench: loading eBPF programs needs root; run it with sudo")
        results["machine"] = machine()
        for name in arguments.subjects or SUBJECTS:
            results.setdefault("subjects", {})[name] = run(name, arguments)
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(results, indent=1) + "\n")
        print(f"wrote {path}", file=sys.stderr)
    if arguments.report:
        write_report(results)
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("subjects", nargs="*", metavar="SUBJECT", help=", ".join(SUBJECTS))
    parser.add_argument("--quick", action="store_true", help="few rounds: to see that it runs")
    parser.add_argument(
        "--minutes", type=float, default=1.0, help="length of the soak (default: 1)"
    )
    parser.add_argument("--kafka-engine", metavar="DIR", help="see python -m bench.consumer --help")
    add_peers(parser)
    parser.add_argument("--results", type=Path, metavar="FILE", help="another file of results")
    parser.add_argument("--report", action="store_true", help="write the tables into docs/")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.subjects) - set(SUBJECTS)):
        parser.error(f"subject {unknown[0]} is unknown; there are {', '.join(SUBJECTS)}")
    return arguments


def run(name: str, arguments: argparse.Namespace) -> dict:
    """One subject's result, with when and how it came about."""
    command = ["python", "-m", f"bench.{name}", *flags(name, arguments)]
    print(f"bench: {' '.join(command[2:])}", file=sys.stderr)
    began, busy = time.time(), os.getloadavg()[0]
    ended = subprocess.run(
        [sys.executable, *command[1:]], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False
    )
    if ended.returncode:
        sys.exit(f"bench: {name} failed with {ended.returncode}")
    # Where this machine keeps the peers is of no interest to others.
    places = {one: _without_folder(one) for one in arguments.peer} | {arguments.kafka_engine: "DIR"}
    shown = [places.get(word, word) for word in command]
    about = {
        "command": " ".join(shown),
        "began": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(began)),
        "seconds": round(time.time() - began),
        "load_before": round(busy, 2),
    }
    return about | json.loads(ended.stdout)


def flags(name: str, arguments: argparse.Namespace) -> tuple[str, ...]:
    own = (*SUBJECTS[name], *(("--quick",) if arguments.quick else ()))
    if name in TAKE_PEERS:
        return (*own, *(word for one in arguments.peer for word in ("--peer", one)))
    if name == "memory":
        return (*own, "--minutes", f"{arguments.minutes:g}")
    if name == "consumer" and arguments.kafka_engine:
        return (*own, "--kafka-engine", arguments.kafka_engine)
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
