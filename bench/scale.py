# SPDX-License-Identifier: Apache-2.0
"""Many nodes at once: what the parts behind the agents carry on this machine, and at which cost.

    python -m bench.scale [--quick | --long]

Nodes of bench/nodes.py publish as agents do, through one broker, to three consumers that store in
one ClickHouse.  A level is a number of nodes and their interval; each begins when all that was
before is stored.  What is stored is compared with what each run has made, batch by batch.  Then a
consumer is killed and started again while nodes go on.  Costs of a record, a row and an insert come
from bench/costs.py, on the same parts.  Only a long run has the levels that take minutes.
"""

import asyncio
import sys
import tempfile
import time
from pathlib import Path

from bench.backend import Backend, a_backend
from bench.costs import cost_table, memory_table, question_table
from bench.figures import KINDS
from bench.rounds import table
from bench.simulation import Level, compare, freshness, run
from bench.subject import Scale, main
from schemas.catalogue import RECORD_OF_KIND
from schemas.clickhouse import DATABASE
from schemas.flow import FLOW
from tests.consumer.process import Consumer

PARTITIONS = 8
CONSUMERS = 3
# Nodes that report at other moments may as well share a connection, of which one process has only
# so many.
LEVELS = (
    Level(10, 1, 4),
    Level(100, 1, 5),
    Level(1000, 5, 2, 10),
    Level(1000, 2, 2, 10),
)
LONG = (*LEVELS, Level(10_000, 10, 1, 100))
QUICK = (Level(10, 1, 3), Level(100, 1, 3))
KILLED = Level(100, 1, 18)
_KILL_AFTER_S = 2.0
_LOOK_S = 0.1
_MB = 1e6


def measure(scale: Scale) -> list[dict]:
    return asyncio.run(with_backend(scale))


async def with_backend(scale: Scale) -> list[dict]:
    with tempfile.TemporaryDirectory(prefix="hookline-bench-") as directory:
        async with a_backend(
            Path(directory), partitions=PARTITIONS, consumers=CONSUMERS
        ) as backend:
            levels = {"quick": QUICK, "usual": LEVELS, "long": LONG}[scale.size]
            found = [await level(backend, one) for one in levels]
            moved = await killed(backend)
            costs = await cost_table(
                backend,
                scale.pick(3, 2, 9),
                records=scale.pick(2000, 800, 4000),
                inserts=1,
            )
            asked = await question_table(backend, scale.pick(5, 2, 11))
            disk = disk_table(backend)
    works, parts, memory = zip(*found, strict=True)
    return [
        table(
            f"{PARTITIONS} partitions a topic, {CONSUMERS} consumers",
            [
                *("nodes", "records a second", "rows a second", "records that waited at most"),
                *("seconds until none waited", "stored after, median s", "99 % s"),
                *("rows lost", "rows doubled", "nodes were late by, s"),
            ],
            list(works),
        ),
        table(
            "What the parts took",
            [
                *("nodes", "CPUs for the nodes' publishing", "broker", "consumers", "ClickHouse"),
                *("broker, CPU microseconds a record", "bytes a record in Kafka"),
                *("bytes a row in Kafka", "Kafka, MB a second", "inserts a second", "parts"),
            ],
            list(parts),
        ),
        table(
            "Resident memory",
            ["nodes", "broker MB", "a consumer MB", "ClickHouse MB"],
            list(memory),
        ),
        costs,
        disk,
        asked,
        memory_table(),
        moved,
    ]


async def level(backend: Backend, one: Level) -> tuple[list[object], ...]:
    """The level's lines in the first three tables."""
    seen = await run(backend, one)
    books = await asyncio.to_thread(compare, backend, seen)
    assert not books.foreign_batches, f"batches that nobody made: {books}"
    middle, most, _ = await asyncio.to_thread(freshness, backend, seen)
    lasted_s = seen.seconds + seen.settle_s
    cpus = {part: round(seen.grown[part] / lasted_s, 2) for part in backend.cpu_s()}
    resident = backend.resident_mb()
    print(f"{one.name}: {lasted_s:.1f} s, {cpus}", file=sys.stderr)
    return (
        [
            one.name,
            round(seen.records / seen.seconds),
            round(seen.rows / seen.seconds),
            max(seen.lags),
            round(seen.settle_s, 1),
            *(middle, most, books.lost_rows, books.doubled_rows),
            round(seen.latest_s, 1),
        ],
        [
            one.name,
            round(seen.fleet_cpu_s / seen.seconds, 2),
            *(cpus["broker"], cpus["consumers"], cpus["clickhouse"]),
            round(seen.grown["broker"] / seen.records * 1e6),
            round(seen.grown["kafka_bytes"] / seen.records),
            round(seen.grown["kafka_bytes"] / seen.rows, 1),
            round(seen.grown["kafka_bytes"] / seen.seconds / _MB, 2),
            round(seen.grown["inserts"] / lasted_s, 1),
            parts_of(backend),
        ],
        [one.name, *(round(resident[name]) for name in ("broker", "consumer", "clickhouse"))],
    )


def parts_of(backend: Backend) -> int:
    """How many parts of flows there are, those of merges instead of the merged."""
    ((count,),) = backend.database.rows(
        "SELECT count() FROM system.parts WHERE active"
        f" AND database = '{DATABASE}' AND table = '{FLOW.table}'"
    )
    return int(count)


def disk_table(backend: Backend) -> dict:
    for kind in KINDS:
        # As rows of yesterday are; small parts take more than their rows.
        backend.execute(f"OPTIMIZE TABLE {DATABASE}.{RECORD_OF_KIND[kind].table} FINAL")
    found = backend.database.rows(
        "SELECT table, sum(bytes_on_disk) / sum(rows), sum(rows) FROM system.parts"
        f" WHERE active AND database = '{DATABASE}' GROUP BY table"
    )
    by_table = {name: (round(each, 1), rows) for name, each, rows in found}
    return table(
        "On the disk of ClickHouse",
        ["kind", "bytes a row", "rows"],
        [[kind, *by_table[RECORD_OF_KIND[kind].table]] for kind in KINDS],
    )


async def killed(backend: Backend) -> dict:
    """One of the consumers dies, and comes back, while nodes go on."""
    times: list[float] = []
    seen = await run(backend, KILLED, die_and_return(backend, times))
    books = await asyncio.to_thread(compare, backend, seen)
    print(f"one killed: {times}, {books}", file=sys.stderr)
    return table(
        f"One of {CONSUMERS} consumers is killed, {KILLED.name}",
        [
            *("", "seconds until others have its partitions", "seconds until it has some again"),
            *("records that waited at most", "stored after, median s", "99 % s", "worst s"),
            *("rows lost", "rows doubled"),
        ],
        [
            [
                "killed, then started",
                *(round(one, 1) for one in times),
                max(seen.lags),
                *await asyncio.to_thread(freshness, backend, seen),
                *(books.lost_rows, books.doubled_rows),
            ]
        ],
    )


async def die_and_return(backend: Backend, times: list[float]) -> None:
    await asyncio.sleep(_KILL_AFTER_S)
    began_s = time.monotonic()
    backend.running[0].kill()
    while sum([await assigned(one) for one in backend.running]) < len(backend.partitions):
        await asyncio.sleep(_LOOK_S)
    times.append(time.monotonic() - began_s)
    began_s = time.monotonic()
    another = backend.start_consumer()
    while not await assigned(another):
        await asyncio.sleep(_LOOK_S)
    times.append(time.monotonic() - began_s)


async def assigned(one: Consumer) -> float:
    return await asyncio.to_thread(one.metric, "consumer_assigned_partitions")


if __name__ == "__main__":
    main(measure, __doc__)
