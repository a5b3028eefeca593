# SPDX-License-Identifier: Apache-2.0
"""What a record, a row and an insert cost the consumer and ClickHouse, told apart.

Three loads differ in how many of each they are: many records of few rows, few records of many rows,
and hardly any records in many inserts.  Every round runs each of them and measures idle processes
beside them, which are taken off; what one of each costs is the solution of three equations.
"""

import asyncio
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from bench.backend import Backend
from bench.flows import batches
from bench.nodes import Contents, Node, a_fleet
from bench.rounds import cell, table
from consumer.sink import Sink
from consumer.stored import MAX_RANGES, MAX_RUNS, Stored
from hookline.topics import acknowledged
from schemas.catalogue import RECORD_OF_KIND
from schemas.flow import FLOW
from schemas.wire import Batch, encode

FEW_ROWS, MANY_ROWS = 10, 1000
_NODES = 500
_CONTENTS = 20
_IDLE_S = 2.0
# Longer than a block of a consumer waits for more.
_SPREAD_S = 2.2
_ASKED = (100, 1000)
_SAMPLED_RUNS = 256

Load = tuple[int, int]  # records, rows
PARTS = ("consumers", "clickhouse")


@dataclass(slots=True)
class Loads:
    """What is sent, under names that go on from load to load, so that nobody has to doubt them."""

    backend: Backend
    sent: Counter[str] = field(default_factory=Counter)
    few: Sequence[Batch] = field(default_factory=lambda: batches(_CONTENTS, FEW_ROWS))
    many: Sequence[Batch] = field(default_factory=lambda: batches(_CONTENTS, MANY_ROWS))
    spread: list[Node] = field(default_factory=lambda: list(a_fleet(64, 1.0)))
    contents: Contents = field(default_factory=Contents)

    async def idle(self) -> Load:
        await asyncio.sleep(_IDLE_S)
        return 0, 0

    async def many_records(self, count: int) -> Load:
        return await self._burst(self.few, count)

    async def many_rows(self, count: int) -> Load:
        return await self._burst(self.many, count)

    async def _burst(self, like: Sequence[Batch], count: int) -> Load:
        sending = []
        for number in range(count):
            node = f"cost-{number % _NODES}"
            batch = replace(like[number % len(like)], node=node, run=node, seq=self.sent[node])
            self.sent[node] += 1
            sending.append(await self._send(batch))
        await acknowledged(sending)
        return count, count * like[0].rows

    async def many_inserts(self, times: int) -> Load:
        """Small records in every partition of several topics, each in a block of its own."""
        records = rows = 0
        for _ in range(times):
            made = []
            for node in self.spread:
                node.close_interval(self.contents, time.time_ns())
                for log in (node.books, node.rows):
                    made += log.peek(len(log))
                    log.acknowledge(len(log))
            small = [one for one in made if one.name.rows <= FEW_ROWS]
            await acknowledged(
                [
                    await self.backend.topics.send(
                        RECORD_OF_KIND[one.name.kind].topic,
                        one.payload,
                        key=one.name.node.encode(),
                    )
                    for one in small
                ]
            )
            records += len(small)
            rows += sum(one.name.rows for one in small)
            await asyncio.sleep(_SPREAD_S)
        return records, rows

    async def _send(self, batch: Batch) -> Awaitable[object]:
        return await self.backend.topics.send(FLOW.topic, encode(batch), key=batch.node.encode())


async def cost_table(backend: Backend, rounds: int, *, records: int, inserts: int) -> dict:
    loads = Loads(backend)
    variants = {
        "idle": loads.idle,
        "records": lambda: loads.many_records(records),
        "rows": lambda: loads.many_rows(records // 8),
        "inserts": lambda: loads.many_inserts(inserts),
    }
    found: dict[str, list[list[float]]] = {part: [] for part in PARTS}
    order = list(variants)
    # Nothing is thrown away: what is measured has run for a while.
    for _ in range(rounds):
        seen = {name: await loaded(backend, variants[name]) for name in order}
        order.reverse()
        for part in PARTS:
            found[part].append(solved(seen, part))
        print({part: of[-1] for part, of in found.items()}, file=sys.stderr)
    return table(
        "What one of each costs",
        ["CPU microseconds", "an insert", "a record", "a row"],
        [
            [
                part,
                *(
                    # To ClickHouse it is a few rows more.
                    ""
                    if (part, column) == ("clickhouse", 1)
                    else cell([of[column] for of in its], 2)
                    for column in range(3)
                ),
            ]
            for part, its in found.items()
        ],
    )


@dataclass(frozen=True, slots=True)
class Loaded:
    """How many there were of each, and what they took."""

    seconds: float
    inserts: int
    records: int
    rows: int
    cpu_s: dict[str, float]


async def loaded(backend: Backend, load: Callable[[], Awaitable[Load]]) -> Loaded:
    before, inserts, began_s = backend.cpu_s(), backend.inserts(), time.monotonic()
    records, rows = await load()
    await backend.until_stored()
    now = backend.cpu_s()
    return Loaded(
        seconds=time.monotonic() - began_s,
        inserts=backend.inserts() - inserts,
        records=records,
        rows=rows,
        cpu_s={part: now[part] - before[part] for part in PARTS},
    )


def solved(seen: dict[str, Loaded], part: str) -> list[float]:
    """Microseconds for an insert, a record and a row; a record is nothing to ClickHouse."""
    idle = seen["idle"].cpu_s[part] / seen["idle"].seconds
    loads = [one for name, one in seen.items() if name != "idle"]
    took_us = [max(0.0, one.cpu_s[part] - idle * one.seconds) * 1e6 for one in loads]
    counts = np.array([(one.inserts, one.records, one.rows) for one in loads], float)
    if part == "clickhouse":
        counts[:, 1] = 0
    # In shares of what was measured, so that the longest load is not the only one that counts.
    weights = 1 / np.maximum(took_us, 1)
    solution = np.linalg.lstsq(counts * weights[:, None], took_us * weights, rcond=None)[0]
    return [float(one) for one in np.maximum(solution, 0)]


async def question_table(backend: Backend, rounds: int) -> dict:
    """How long ClickHouse takes to say which batches it has."""
    sink = Sink(backend.database.url)
    await asyncio.to_thread(sink.connect, [FLOW.table])
    (like,) = batches(1, FEW_ROWS)
    rows = []
    try:
        for count in _ASKED:
            asked = [
                replace(like, node=f"node-{number:05}", run=f"{number:032x}", seq=0)
                for number in range(count)
            ]
            took_ms = []
            for _ in range(rounds):
                began_s = time.perf_counter()
                await sink.find(FLOW, asked)
                took_ms.append(1000 * (time.perf_counter() - began_s))
            rows.append([count, cell(took_ms, 0)])
    finally:
        await asyncio.to_thread(sink.close)
    return table("A question for the batches of as many nodes", ["nodes", "ms"], rows)


def memory_table() -> dict:
    """What a consumer remembers of the runs of one partition."""
    rows = []
    for ranges in (1, MAX_RANGES):
        each = remembered_bytes(_SAMPLED_RUNS, ranges) / _SAMPLED_RUNS
        rows.append([ranges, MAX_RUNS, round(each), round(each * MAX_RUNS / 1e6, 1)])
    return table(
        "Runs of one partition that are remembered",
        ["ranges of a run", "runs at most", "bytes a run", "MB in all"],
        rows,
    )


def remembered_bytes(runs: int, ranges: int) -> int:
    tracemalloc.start()
    stored = Stored()
    for number in range(runs):
        node, run = f"node-{number:05}", f"{number:032x}"
        for one in range(ranges):
            stored.add((node, run, 1_000_000 + 2 * one), is_new=True)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(stored) == runs
    return held
