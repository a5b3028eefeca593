# SPDX-License-Identifier: Apache-2.0
"""All of it, end to end: packet -> agent -> Kafka -> consumer -> ClickHouse -> a query's answer.

    python -m bench.pipeline [--quick | --long]

How long a packet takes to become a row that a query finds, with the options of two profiles; how
many rows a second go through, and what each process takes for one; how wide a row is on its way.
Agent, broker, consumer and the embedded ClickHouse run as they do for real, on the same CPUs as
traffic and questions.  A long run looks for more packets, at more rates, for longer.
"""

import asyncio
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.chain import PROCESSES, Chain, Seconds, chain
from bench.insert_by_rows import by_rows
from bench.latency import A_SECOND, chatter, latencies_ms
from bench.link import link
from bench.processes import memory_mb
from bench.rates import FLAGS, Load
from bench.rounds import cell, interleave, table
from bench.subject import Scale, main
from bench.widths import by_batch, by_column
from hookline.kafka import Kafka

SETTLE_S = 2.0
# The highest is beyond what two CPUs carry: how far they fall behind tells what they do.
RATES = (10_000, 100_000, 200_000)
LONG_RATES = (10_000, 100_000, 200_000, 300_000)


@dataclass(frozen=True, slots=True)
class Profile:
    """How quick it is to be, and by which options."""

    name: str
    of_agent: tuple[str, ...] = ()
    of_consumer: tuple[str, ...] = ()


PROFILES = (
    Profile("defaults"),
    Profile("low latency", ("--interval", "0.1"), ("--flow-max-age", "0.02")),
)


def measure(scale: Scale) -> list[dict]:
    with tempfile.TemporaryDirectory(prefix="hookline-bench-") as directory:
        return asyncio.run(with_kafka(scale, Path(directory)))


async def with_kafka(scale: Scale, directory: Path) -> list[dict]:
    tables = []
    for step in (latency, throughput):
        # A broker of its own, so that no consumer begins with what another one has read.
        async with Kafka(directory / step.__name__ / "kafka") as broker:
            tables += await asyncio.to_thread(step, scale, broker, directory / step.__name__)
            if step is throughput:
                tables += await asyncio.to_thread(widths, scale, broker)
    return tables


def latency(scale: Scale, broker: Kafka, directory: Path) -> list[dict]:
    found = {
        profile.name: of_profile(scale, profile, broker, directory / str(number))
        for number, profile in enumerate(PROFILES)
    }
    options = "; ".join(
        f"{one.name}: " + " ".join((*one.of_agent, *one.of_consumer)) for one in PROFILES[1:]
    )
    return [
        table(
            "Milliseconds from a packet until a query finds its row",
            ["", "packets", "median", "90 %", "99 %", "worst"],
            [[name, *times] for name, (times, _, _) in found.items()],
            f"{A_SECOND:g} packets a second that are looked for, among ordinary traffic; {options}.",
        ),
        table(
            "What it takes, % of one CPU",
            ["", *(f"{name}, {when}" for when in ("idle", "traffic") for name in PROCESSES)],
            [[name, *idle.values(), *busy.values()] for name, (_, idle, busy) in found.items()],
            "The consumer's has the embedded ClickHouse in it.  Nobody asks meanwhile.",
        ),
    ]


def of_profile(
    scale: Scale, profile: Profile, broker: Kafka, directory: Path
) -> tuple[list[object], Seconds, Seconds]:
    """Figures of the times, and the share of a CPU of each process without and with traffic."""
    directory.mkdir(parents=True)
    with (
        link() as one,
        chain(
            *(one, broker.bootstrap, broker.pid, directory),
            of_agent=profile.of_agent,
            of_consumer=profile.of_consumer,
        ) as running,
    ):
        time.sleep(SETTLE_S)
        idle = shares(running, scale.pick(4, 2, 10))
        with chatter(running):
            time.sleep(SETTLE_S)
            busy = shares(running, scale.pick(4, 2, 10))
            times = latencies_ms(running, scale.pick(12, 4, 60))
    figures = np.percentile(times, (50, 90, 99, 100)).round().astype(int)
    return [len(times), *figures.tolist()], idle, busy


def shares(running: Chain, seconds: int) -> Seconds:
    _, used = running.used(lambda: time.sleep(seconds))
    return {name: round(of / seconds * 100, 1) for name, of in used.items()}


def throughput(scale: Scale, broker: Kafka, directory: Path) -> list[dict]:
    directory.mkdir(exist_ok=True)
    seconds, rounds = scale.pick(2, 1, 5), scale.pick(3, 2, 5)
    rates = LONG_RATES if scale.is_long else RATES
    with (
        link() as one,
        chain(one, broker.bootstrap, broker.pid, directory, of_agent=FLAGS) as running,
    ):
        load = Load(running)
        carried: dict[int, list[Any]] = {rate: [] for rate in rates}

        def carry(rate: int) -> float:
            carried[rate].append(load.carry(rate, seconds))
            return carried[rate][-1].behind_s

        behind = interleave({rate: lambda rate=rate: carry(rate) for rate in rates}, rounds)
        memory = {name: memory_mb(pid) for name, pid in running.pids.items()}
        load.close()
    rows = [
        [
            f"{rate:,}",
            cell([one.rows / seconds for one in carried[rate][1:]], 0),
            cell(behind[rate], 2),
            *(cell([one.microseconds(name) for one in carried[rate][1:]], 2) for name in PROCESSES),
            cell([one.all_microseconds for one in carried[rate][1:]], 2),
        ]
        for rate in rates
    ]
    return [
        table(
            f"Flow rows through all of it, {seconds} s of packets at a time",
            [
                *("flows a second", "rows a second", "s from the last packet until all are found"),
                *(f"{name}, CPU us a row" for name in PROCESSES),
                "together",
            ],
            rows,
            "Where the third column is like that of the first line, nothing falls behind.",
        ),
        table(
            "Memory after that",
            ["process", "resident MB", "of it its own"],
            [[name, round(of["Rss"], 1), round(of["Anonymous"], 1)] for name, of in memory.items()],
        ),
    ]


def widths(scale: Scale, broker: Kafka) -> list[dict]:
    return [by_rows(scale), by_batch(broker.bootstrap, broker.directory), by_column()]


if __name__ == "__main__":
    main(measure, __doc__)
