# SPDX-License-Identifier: Apache-2.0
"""Resident memory of the agent and the consumer: after start, and over time under traffic.

    python -m bench.memory [--quick | --long]

Both run as they do for real, with a real Kafka and the embedded ClickHouse, while bench.chatter
makes connections and datagrams over a virtual link.  Growth is the slope of a line through the
second half of the readings: what a cache takes at first is not growth.
"""

import asyncio
import tempfile
import time
from pathlib import Path

import numpy as np

from bench.link import Link, link
from bench.processes import agent, consumer, memory_mb
from bench.rounds import table
from bench.subject import Scale, main
from hookline.kafka import Kafka

SETTLE_S = 5.0
READINGS = 240
SOAK_S, QUICK_S, LONG_S = 10, 5, 3600
# Before that caches still settle, and a slope an hour would be of nothing.
TELLS_GROWTH_S = 600


def measure(scale: Scale) -> list[dict]:
    return asyncio.run(with_kafka(scale.pick(SOAK_S, QUICK_S, LONG_S)))


async def with_kafka(seconds: float) -> list[dict]:
    with tempfile.TemporaryDirectory(prefix="hookline-bench-") as directory:
        async with Kafka(Path(directory) / "kafka") as kafka:
            with link() as one:
                return await asyncio.to_thread(soak, one, kafka.bootstrap, Path(directory), seconds)


def soak(one: Link, kafka: str, directory: Path, seconds: float) -> list[dict]:
    with agent(one.name, kafka) as observing, consumer(kafka, directory) as storing:
        pids = {"agent": observing, "consumer, with ClickHouse in it": storing}
        time.sleep(SETTLE_S)
        start = {name: memory_mb(pid) for name, pid in pids.items()}
        chatter = one.start("bench.chatter", one.address)
        readings = read_for(seconds, pids)
        chatter.stdin.close()
        packets = int(chatter.stdout.readline())
        chatter.wait()
    lasted = f"{seconds / 60:g} min" if seconds >= 60 else f"{seconds:g} s"
    return [
        table(
            f"After start, {SETTLE_S:.0f} s idle",
            ["process", "resident MB", "of it its own", "proportional"],
            [
                [name, *(round(of[part], 1) for part in ("Rss", "Anonymous", "Pss"))]
                for name, of in start.items()
            ],
        ),
        table(
            f"{lasted} of traffic, {packets / seconds:,.0f} datagrams and requests a second",
            ["process", "resident MB at first", "at the end", "growth, MB an hour", "noise, MB"],
            [[name, *growth(taken, seconds)] for name, taken in readings.items()],
        ),
    ]


def read_for(seconds: float, pids: dict[str, int]) -> dict[str, list[tuple[float, float]]]:
    """Pairs of seconds and resident MB, by process."""
    readings: dict[str, list[tuple[float, float]]] = {name: [] for name in pids}
    began = time.monotonic()
    for number in range(READINGS):
        time.sleep(max(0.0, began + (number + 1) * seconds / READINGS - time.monotonic()))
        for name, pid in pids.items():
            readings[name].append((time.monotonic() - began, memory_mb(pid)["Rss"]))
    return readings


def growth(taken: list[tuple[float, float]], seconds: float) -> tuple[object, ...]:
    """First and last reading, the slope an hour of the second half, and what is left around it."""
    first, last = round(taken[0][1], 1), round(taken[-1][1], 1)
    if seconds < TELLS_GROWTH_S:
        return first, last, "too short", "too short"
    at, mb = np.array(taken[len(taken) // 2 :]).T
    slope, level = np.polyfit(at, mb, 1)
    left = float(np.std(mb - (slope * at + level)))
    return first, last, round(slope * 3600, 2), round(left, 2)


if __name__ == "__main__":
    main(measure, __doc__)
