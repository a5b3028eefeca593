# SPDX-License-Identifier: Apache-2.0
"""Run a number of nodes against a backend, and compare what is stored with what they have made."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from bench.backend import Backend
from bench.link import ROOT
from bench.processes import cpu_seconds
from schemas.catalogue import RECORD_OF_KIND
from schemas.clickhouse import DATABASE
from schemas.flow import FLOW

_LOOK_S = 0.5

Made = list[tuple[str, str, dict[str, list[int]]]]  # node, run, rows of each batch by kind


@dataclass(frozen=True, slots=True)
class Level:
    """So many nodes that report every *interval_s*, *share* of them by one connection."""

    nodes: int
    interval_s: float
    intervals: int
    share: int = 1

    @property
    def name(self) -> str:
        return f"{self.nodes:,} nodes, every {self.interval_s:g} s"


@dataclass(slots=True)
class Run:
    """What was seen while a level ran."""

    level: Level
    since_ns: int  # of the first rows
    began_ns: int = 0  # when all were connected
    seconds: float = 0.0  # until the last batch was acknowledged
    settle_s: float = 0.0  # from then until all is stored
    made: Made = field(default_factory=list)
    before: tuple[int, int] = (0, 0)  # records and rows that were made until then
    latest_s: float = 0.0  # how late the nodes were at worst, for want of a CPU
    fleet_cpu_s: float = 0.0
    lags: list[int] = field(default_factory=list)
    # What was counted until all was stored.
    grown: dict[str, float] = field(default_factory=dict)

    @property
    def records(self) -> int:
        made = sum(len(rows) for _, _, kinds in self.made for rows in kinds.values())
        return made - self.before[0]

    @property
    def rows(self) -> int:
        made = sum(sum(rows) for _, _, kinds in self.made for rows in kinds.values())
        return made - self.before[1]


async def run(backend: Backend, level: Level, meanwhile: Awaitable[None] | None = None) -> Run:
    """Have these nodes report for as long as the level says, and all of it stored."""
    seen = Run(level, time.time_ns() - int(level.interval_s * 1e9))
    async with _fleet(backend, level) as process:
        before, began_s = _counters(backend), time.monotonic()
        seen.began_ns = time.time_ns()
        process.stdin.write("\n")
        process.stdin.flush()
        telling = asyncio.create_task(asyncio.to_thread(process.stdout.readline))
        beside = asyncio.ensure_future(meanwhile) if meanwhile else None
        while not telling.done():
            seen.lags.append(await backend.lag())
            seen.fleet_cpu_s = cpu_seconds(process.pid)
            await asyncio.wait({telling}, timeout=_LOOK_S)
        seen.seconds = time.monotonic() - began_s
        if beside:
            await beside
        seen.settle_s = await backend.until_stored()
        seen.grown = {name: now - before[name] for name, now in _counters(backend).items()}
        told = json.loads(telling.result())
    seen.made = told["made"]
    seen.before = tuple(told["before"])
    seen.latest_s = told["latest_s"]
    return seen


def _counters(backend: Backend) -> dict[str, float]:
    return {
        **backend.cpu_s(),
        "kafka_bytes": backend.kafka_bytes(),
        "inserts": backend.inserts(),
    }


@asynccontextmanager
async def _fleet(backend: Backend, level: Level) -> AsyncIterator[subprocess.Popen[str]]:
    """The nodes of a level as a process, once all are connected and what they told is stored."""
    process = subprocess.Popen(  # noqa: ASYNC220 - it does not wait
        [
            *(sys.executable, "-m", "bench.fleet", "--kafka", backend.kafka.bootstrap),
            *("--nodes", str(level.nodes), "--interval", str(level.interval_s)),
            *("--intervals", str(level.intervals), "--share", str(level.share)),
        ],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        said = await asyncio.to_thread(process.stdout.readline)
        assert said == "ready\n", f"{level.name} did not start: {said}"
        await backend.until_stored()
        yield process
    finally:
        process.kill()
        process.communicate()


@dataclass(frozen=True, slots=True)
class Books:
    """How what is stored differs from what was made."""

    lost_rows: int
    doubled_rows: int
    foreign_batches: int  # of runs of this level, but by a number that none of them has made


def compare(backend: Backend, seen: Run) -> Books:
    """Every batch of every run, by its number."""
    lost = doubled = foreign = 0
    for kind in sorted({kind for _, _, kinds in seen.made for kind in kinds}):
        table = f"{DATABASE}.{RECORD_OF_KIND[kind].table}"
        stored = {
            (run, seq): rows
            for run, seq, rows in backend.database.rows(
                f"SELECT run, seq, count() FROM {table} WHERE {_since(seen)} GROUP BY run, seq"
            )
        }
        for _, run, kinds in seen.made:
            for seq, rows in enumerate(kinds.get(kind, ())):
                difference = rows - stored.pop((run, seq), 0)
                lost += max(0, difference)
                doubled += max(0, -difference)
        runs = {run for _, run, _ in seen.made}
        foreign += sum(run in runs for run, _ in stored)
    return Books(lost, doubled, foreign)


def freshness(backend: Backend, seen: Run) -> list[float]:
    """Seconds from a batch of flows being made to its being stored: median, 99 % and the worst."""
    ((*quantiles,),) = backend.database.rows(
        "SELECT quantileExact(0.5)(age), quantileExact(0.99)(age), max(age) FROM ("
        " SELECT (toUnixTimestamp64Micro(max(stored_us))"
        " - intDiv(toUnixTimestamp64Nano(max(end)), 1000)) / 1e6 AS age"
        f" FROM {DATABASE}.{FLOW.table} WHERE {_since(seen)} GROUP BY run, seq"
        f" HAVING max(end) >= fromUnixTimestamp64Nano({seen.began_ns}))"
    )
    return [round(one, 2) for one in quantiles]


def _since(seen: Run) -> str:
    return f"time >= fromUnixTimestamp64Nano({seen.since_ns})"
