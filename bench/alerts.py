# SPDX-License-Identifier: Apache-2.0
"""What alerts cost: a row in every detector, and the time from a record to its alert.

    python -m bench.alerts [--quick | --long]

Rows are those of a busy server, decoded and shown to all detectors as the service shows them; their
time is that of this process.  The time to an alert is that of a record of a flood, from its being
sent to its alert being read from Kafka, with the service in a process of its own.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from bench.flows import batches
from bench.rounds import cell, interleave, table
from bench.subject import Scale, main
from consumer.alerts.config import Config
from consumer.alerts.metrics import Metrics
from consumer.alerts.rows import NS_PER_S, Rows
from consumer.alerts.watch import Watch, topics
from consumer.record import Record
from hookline.kafka import Kafka
from schemas import wire
from schemas.alert import ALERT
from schemas.flow import FLOW

# Batches of a fetch, and rows in each: few large ones, and many small ones.
FETCHES = ((20, 8192), (200, 50))
FLOOD_ROWS = 1000
SYN, TCP, INGRESS = 2, 6, 1
ROOT = Path(__file__).parents[1]


def measure(scale: Scale) -> list[dict]:
    return [rows(scale.pick(5, 3, 11)), asyncio.run(latency(scale.pick(40, 20, 200)))]


def rows(rounds: int) -> dict:
    lines: list[list[object]] = []
    for count, rows_each in FETCHES:
        fetched = batches(count, rows_each, nodes=count)
        now_ns = int(fetched[-1].columns["time"].max()) + NS_PER_S
        detectors = [one for one in Config().detectors() if "flow" in one.kinds]
        watch = Watch(detectors, Metrics(topics(detectors), [one.name for one in detectors]))
        joined = Rows(fetched)
        # What is computed once for all of them is paid for here.
        watch.show(joined, now_ns)
        total = count * rows_each
        variants = {one.name: timed(one.take, joined, now_ns, total) for one in detectors}
        variants["all, with decoding"] = fetches(watch, fetched, now_ns, total)
        samples = interleave(variants, rounds)
        lines += [[f"{name}, {count} x {rows_each:,}", cell(samples[name], 0)] for name in variants]
    return table("A row in the detectors", ["detector, batches x rows", "ns a row"], lines)


def timed(take, joined, now_ns, total):
    def run() -> float:
        began = time.process_time_ns()
        take(joined, now_ns)
        return (time.process_time_ns() - began) / total

    return run


def fetches(watch, fetched, now_ns, total):
    runs = iter(range(1 << 30))

    def run() -> float:
        number = next(runs)
        records = [
            Record(FLOW.topic, 0, 0, 0, b"", wire.encode(replace(one, run=f"r{number}")))
            for one in fetched
        ]
        began = time.process_time_ns()
        watch.take(records, now_ns)
        return (time.process_time_ns() - began) / total

    return run


async def latency(count: int) -> dict:
    with tempfile.TemporaryDirectory(prefix="hookline-bench-") as folder:
        async with Kafka(Path(folder) / "kafka") as kafka:
            service = subprocess.Popen(  # noqa: ASYNC220 - it has nobody else to wait for
                [
                    *(sys.executable, "-m", "consumer.alerts", "--kafka", kafka.bootstrap),
                    *("--folder", f"{folder}/alert", "--new-per-minute", "100000"),
                    # So many floods from the same sources are a scan as well.
                    *("--off", "port_scan"),
                ],
                stderr=subprocess.PIPE,
                text=True,
                cwd=ROOT,
            )
            try:
                while "alert ready" not in service.stderr.readline():
                    pass
                waits = await told(kafka.bootstrap, count)
            finally:
                service.terminate()
                service.communicate()
    low, middle, high = (round(1000 * one) for one in np.percentile(waits, (50, 95, 99)))
    columns = ["ms", "median", "95 %", "99 %"]
    return table(f"From a record to its alert, {count} times", columns, [["", low, middle, high]])


async def told(bootstrap: str, count: int) -> list[float]:
    """How long each of *count* floods takes to be an alert in Kafka."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, compression_type="zstd")
    reader = AIOKafkaConsumer(
        ALERT.topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest", fetch_max_wait_ms=5
    )
    await producer.start()
    await reader.start()
    waits = []
    try:
        for number in range(count):
            began = time.monotonic()
            await producer.send(FLOW.topic, wire.encode(flood(number)), b"bench")
            async with asyncio.timeout(10):
                while await victim_of(reader) != number:
                    pass
            waits.append(time.monotonic() - began)
            # Not in step with the service's own pauses.
            await asyncio.sleep(0.05 + (number * 7 % 11) / 100)
    finally:
        await reader.stop()
        await producer.stop()
    return waits


def flood(number: int) -> wire.Batch:
    """SYNs of a thousand sources to one port, now."""
    (like,) = batches(1, FLOOD_ROWS)
    now = np.full(FLOOD_ROWS, time.time_ns(), "<i8")
    return replace(
        like,
        run=f"flood-{number}",
        columns={
            **like.columns,
            "time": now,
            "end": now,
            "direction": np.full(FLOOD_ROWS, INGRESS, "|u1"),
            "protocol": np.full(FLOOD_ROWS, TCP, "|u1"),
            "tcp_flags": np.full(FLOOD_ROWS, SYN, "|u1"),
            "dst_addr": np.repeat(like.columns["dst_addr"][:1], FLOOD_ROWS),
            "dst_port": np.full(FLOOD_ROWS, number + 1, "<u2"),
            "packets": np.ones(FLOOD_ROWS, "<u8"),
        },
    )


async def victim_of(reader) -> int:
    """The number of the flood that the next alert tells of."""
    alerts = wire.decode((await reader.getone()).value)
    labels = alerts.columns["labels"].content.tobytes().decode()
    return int(labels.partition('"port": "')[2].partition('"')[0]) - 1


if __name__ == "__main__":
    os.environ.setdefault("PYTHONPATH", str(ROOT))
    main(measure, __doc__)
