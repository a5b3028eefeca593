# SPDX-License-Identifier: Apache-2.0
"""The tables of `bench.claim`: latency, CPU, what each adds, and how many CPUs the claim needs."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from bench.load import CONNECTIONS, Answers
from bench.observers import (
    BARE,
    ENVOY,
    ENVOY_TWICE,
    EVENTS,
    NFT,
    OBSERVERS,
    OURS,
    OURS_TWICE,
    PROXY,
    PROXY_TWICE,
)
from bench.rounds import Cell, cell, table

RATE, CONNECTS = 10_000, 2_000
LADDER = (2_000, 20_000)
STAY, CLOSE = "stay", "close"
FEW = (BARE, OURS_TWICE, PROXY, PROXY_TWICE, ENVOY_TWICE)
SATURATED = (BARE, OURS_TWICE, EVENTS, NFT, PROXY, PROXY_TWICE, ENVOY_TWICE)
CLOCKED = (OURS, OURS_TWICE)
BESIDE = (
    (OURS, PROXY),
    (OURS, PROXY_TWICE),
    (OURS_TWICE, PROXY_TWICE),
    (OURS, ENVOY),
    (OURS, ENVOY_TWICE),
    (OURS_TWICE, ENVOY_TWICE),
)
CLAIMED_RATE = 100_000


@dataclass(frozen=True, slots=True)
class Found:
    """One turn of one variant: what the client got, and CPU seconds of all that took part."""

    answers: Answers
    cpu_s: float
    observers_cpu_s: float  # of that, what processes took that are there to observe

    @property
    def cpu_ms(self) -> float:
        """For 10,000 answers."""
        return self.cpu_s / self.answers.count * 1e7

    @property
    def observers_ms(self) -> float:
        return self.observers_cpu_s / self.answers.count * 1e7


# By variant and load, round by round.
Runs = dict[tuple[str, str], list[Found]]
Times = dict[tuple[str, str], list[float]]


def all_of(
    at_10k: Runs, ladder: Runs, full: Runs, times: Times, skipped: dict[str, str]
) -> list[dict]:
    return [
        at_rate(at_10k, skipped),
        added(at_10k, times),
        by_rate(at_10k, ladder),
        connects(ladder, times),
        *([saturation(full, skipped), cpus(full)] if full else [nothing(skipped["wrk"])]),
    ]


def nothing(why: str) -> dict:
    """What stands for tables that cannot be measured here."""
    return table("Not measured here", ["", "why"], [["a program is missing", why]])


def at_rate(runs: Runs, skipped: dict[str, str]) -> dict:
    rows: list[list[object]] = []
    for name in OBSERVERS:
        if name in skipped:
            rows.append([name, skipped[name], *[""] * 5])
            continue
        mine = runs[name, STAY]
        rows.append(
            [
                name,
                *latencies(mine),
                cell(against(runs, name, BARE, STAY, p99), 2),
                cell([one.cpu_ms for one in mine], 0),
                cell(differences(runs, name, BARE, STAY), 0),
            ]
        )
    return table(
        f"{RATE:,} requests a second on {CONNECTIONS} connections that stay",
        ["", "p50 ms", "p99 ms", "p99.9 ms", "p99 times bare", "CPU ms for 10,000", "beyond bare"],
        rows,
        "Latency counts from when a request was due.",
    )


def added(runs: Runs, times: Times) -> dict:
    """What hookline adds, beside what a proxy adds, and how many times that is."""
    rows: list[list[object]] = []
    # One agent sees every request, and so do two proxies: such pairs are here too.
    for ours, proxy in BESIDE:
        agents = [one.observers_ms for one in runs[ours, STAY]]
        programs = times[ours, STAY]
        of_parts = cell(agents, 1)["median"] + cell(programs, 1)["median"]
        row = [f"{ours}; {proxy}", cell(programs, 1), cell(agents, 1), round(of_parts, 1)]
        if (proxy, STAY) not in runs:
            rows.append([*row, "", "", ""])
            continue
        proxies = differences(runs, proxy, BARE, STAY)
        rows.append(
            [
                *row,
                cell(proxies, 0),
                cell([one / of_parts for one in proxies], 1),
                cell(against(runs, proxy, ours, STAY, p99), 1),
            ]
        )
    return table(
        f"What is added, in CPU ms for 10,000 requests at {RATE:,} a second",
        [
            "",
            "eBPF programs",
            "agents",
            "together",
            "the proxy",
            "times hookline",
            "p99, times hookline's",
        ],
        rows,
        "Of hookline by its parts, since the difference of two whole runs is smaller than their"
        " noise: the programs by the kernel's clock, whose reading is in it, the agents by the"
        " scheduler's, with all they do in a second.",
    )


def by_rate(at_10k: Runs, ladder: Runs) -> dict:
    def runs_at(rate: int) -> tuple[Runs, str]:
        return (at_10k, STAY) if rate == RATE else (ladder, f"{rate:,}")

    rates = sorted((*LADDER, RATE))
    here = present(ladder, FEW)
    rows: list[list[object]] = []
    for name in here:
        found = [
            cell([p99(one) for one in runs[name, kind]], 2) for runs, kind in map(runs_at, rates)
        ]
        rows.append([name, *found])
    for proxy in present(ladder, (PROXY, PROXY_TWICE, ENVOY_TWICE)):
        ratios = [
            cell(against(runs, proxy, OURS_TWICE, kind, p99), 1)
            for runs, kind in map(runs_at, rates)
        ]
        rows.append([f"{proxy}, times hookline", *ratios])
    columns = ["p99 ms", *(f"{rate:,} a second" for rate in rates)]
    return table("p99 by requests a second", columns, rows)


def connects(runs: Runs, times: Times) -> dict:
    rows: list[list[object]] = []
    for name in present(runs, FEW):
        mine = runs[name, CLOSE]
        beyond = differences(runs, name, BARE, CLOSE)
        rows.append(
            [name, *latencies(mine), cell([one.cpu_ms for one in mine], 0), cell(beyond, 0)]
        )
    programs, agents = (
        times[OURS_TWICE, CLOSE],
        [one.observers_ms for one in runs[OURS_TWICE, CLOSE]],
    )
    return table(
        f"{CONNECTS:,} connections a second, a request on each",
        ["", "p50 ms", "p99 ms", "p99.9 ms", "CPU ms for 10,000", "beyond bare"],
        rows,
        f"Of hookline's, {cell(programs)['median']:.0f} ms are in its programs and"
        f" {cell(agents)['median']:.0f} ms in its agents.",
    )


def saturation(runs: Runs, skipped: dict[str, str]) -> dict:
    rows: list[list[object]] = []
    for name in SATURATED:
        if name in skipped:
            rows.append([name, skipped[name], *[""] * 5])
            continue
        row: list[object] = [name]
        for kind in (STAY, CLOSE):
            mine = runs[name, kind]
            row += [
                cell([one.answers.per_second for one in mine], 0),
                cell([p99(one) for one in mine], 2),
                cell([one.cpu_ms for one in mine], 0),
            ]
        rows.append(row)
    return table(
        f"As fast as it goes: wrk with {CONNECTIONS} connections",
        [
            "",
            "requests a second",
            "p99 ms",
            "CPU ms for 10,000",
            "connections a second",
            "p99 ms",
            "CPU ms for 10,000",
        ],
        rows,
    )


def cpus(runs: Runs) -> dict:
    """How many CPUs like these the claimed rate takes, of what one answer took here."""

    def needed(name: str, kind: str) -> Cell:
        return cell([one.cpu_ms / 1e7 * CLAIMED_RATE for one in runs[name, kind]], 1)

    return table(
        f"CPUs that {CLAIMED_RATE:,} a second take, by CPU for each as above",
        ["client, server and what stands between", "requests", "connections"],
        [[name, needed(name, STAY), needed(name, CLOSE)] for name in present(runs, SATURATED)],
    )


def latencies(runs: list[Found]) -> list[Cell]:
    answers = [one.answers for one in runs]
    return [
        cell([one.p50_ms for one in answers], 3),
        cell([one.p99_ms for one in answers], 2),
        cell([one.p999_ms for one in answers], 2),
    ]


def p99(one: Found) -> float:
    return one.answers.p99_ms


def against(
    runs: Runs, name: str, baseline: str, kind: str, value: Callable[[Found], float]
) -> list[float]:
    """How many times *baseline's* it was, round by round."""
    pairs = zip(runs[name, kind], runs[baseline, kind], strict=True)
    return [value(one) / value(base) for one, base in pairs]


def differences(runs: Runs, name: str, baseline: str, kind: str) -> list[float]:
    """Milliseconds of CPU beyond *baseline's*, round by round."""
    pairs = zip(runs[name, kind], runs[baseline, kind], strict=True)
    return [one.cpu_ms - base.cpu_ms for one, base in pairs]


def present(runs: Runs, names: Iterable[str]) -> list[str]:
    measured = {name for name, _ in runs}
    return [name for name in names if name in measured]
