# SPDX-License-Identifier: Apache-2.0
"""Measure the consumer beside ClickHouse's own Kafka engine, on the same rows and machine.

    python -m bench.consumer [--quick | --long] [--kafka-engine DIRECTORY]

Topics are filled first, one for each way to read; each run then reads all of one with a new group
into a new database.  Time runs from the assignment of partitions to the last commit, for the peer
to the last row.  The peer needs an older chdb-core, in a directory of its own:

    pip install --no-deps --target DIRECTORY chdb-core==26.1.0
"""

import argparse
import asyncio
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaProducer

from bench.flows import batches
from bench.kafka_engine import SEPARATOR
from bench.link import ROOT
from bench.processes import cpu_seconds
from bench.rounds import Samples, cell, ratio, table
from bench.rowwise import FORMATS
from bench.subject import Scale, add_sizes
from hookline.kafka import Kafka
from schemas import wire
from schemas.clickhouse import create_table
from schemas.flow import FLOW
from schemas.rollup import ROLLUPS
from schemas.rollup_sql import create_rollup, create_view

ROWS, QUICK_ROWS = 800_000, 400_000
ROWS_PER_RECORD = 10_000
DISTINCT = 20
POLL_S = 0.05
DEADLINE_S = 300.0
OURS, OURS_ROWS_ALONE = "consumer", "consumer, rows alone"


@dataclass(frozen=True, slots=True)
class Peer:
    """The engine with one format, and which part of the rows it reads."""

    form: str
    block_rows: int
    part: int = 1
    has_rollups: bool = False

    @property
    def name(self) -> str:
        rest = ", with the same rollups" if self.has_rollups else ""
        return f"Kafka engine, {self.form}{rest}"


# Native was faster with 200,000 rows a block, which are the consumer's own, than with one million,
# which is near its default of 1,048,449; no others were tried.  Row formats are slower, and read a
# part, which takes them long enough.  All blocks divide the rows: the last of them would otherwise
# wait for the flush interval of 7.5 s, and it is speed that is compared.
PEERS = (
    Peer("Native", 200_000),
    Peer("Native", 200_000, has_rollups=True),
    Peer("MsgPack", 200_000, part=2),
    Peer("JSONEachRow", 200_000, part=4),
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.consumer", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add_sizes(parser)
    parser.add_argument("--kafka-engine", metavar="DIRECTORY", help="measure the peer with this")
    arguments = parser.parse_args()
    scale = Scale(arguments.size)
    print(json.dumps({"tables": asyncio.run(measure(scale, arguments.kafka_engine))}))


async def measure(scale: Scale, library: str | None) -> list[dict]:
    rows, rounds = scale.pick(ROWS, QUICK_ROWS), scale.pick(3, 2, 7)
    peers = PEERS if library else ()
    with tempfile.TemporaryDirectory(prefix="hookline-bench-") as directory:
        scratch = Path(directory)
        async with Kafka(scratch / "kafka") as kafka:
            await fill(kafka.bootstrap, rows, peers)
            variants = {
                name: lambda at, flags=flags: run_consumer(kafka.bootstrap, at, rows, *flags)
                for name, flags in ((OURS, ()), (OURS_ROWS_ALONE, ("--rollups", "no")))
            }
            for peer in peers:
                variants[peer.name] = lambda at, peer=peer: run_peer(
                    kafka.bootstrap, at, rows // peer.part, str(library), peer
                )
            seconds, cpu = await asyncio.to_thread(run_rounds, variants, rounds, scratch)
    return [tabled(rows, peers, seconds, cpu)]


def tabled(rows: int, peers: Sequence[Peer], seconds: Samples, cpu: Samples) -> dict:
    """Each in rates and CPU, and how many times as fast as the engine ours is."""
    parts = {peer.name: peer.part for peer in peers}
    rates = {
        name: [rows / parts.get(name, 1) / one for one in found] for name, found in seconds.items()
    }
    cpu_us = {
        name: [one / rows * parts.get(name, 1) * 1e6 for one in found]
        for name, found in cpu.items()
    }
    shown: list[list[object]] = [
        [name, cell(rates[name], 0), cell(cpu_us[name], 2), "", "", "", ""]
        for name in (OURS, OURS_ROWS_ALONE)
    ]
    shown += [
        [
            peer.name,
            cell(rates[peer.name], 0),
            cell(cpu_us[peer.name], 2),
            *(
                cell(one, 2)
                for ours in (OURS, OURS_ROWS_ALONE)
                for one in (ratio(rates, ours, peer.name), ratio(cpu_us, peer.name, ours))
            ),
        ]
        for peer in peers
    ]
    columns = [
        *("reader", "rows a second", "CPU us a row"),
        *("the consumer is faster by", "and takes less CPU by"),
        *("rows alone it is faster by", "rows alone it takes less CPU by"),
    ]
    note = (
        "The consumer has its rollups, unless it says otherwise; the engine has them in one line."
    )
    if not peers:
        note = "Without --kafka-engine there is no peer."
    title = f"{rows:,} rows from Kafka into ClickHouse, records of {ROWS_PER_RECORD:,}"
    return table(title, columns, shown, note)


async def fill(kafka: str, rows: int, peers: Sequence[Peer]) -> None:
    """Fill a topic for each way to read."""
    some = batches(DISTINCT, ROWS_PER_RECORD)
    count = rows // ROWS_PER_RECORD
    # Each has a name of its own, or the consumer would leave it out as a repetition.
    await publish(
        kafka,
        FLOW.topic,
        (wire.encode(replace(some[at % DISTINCT], seq=at)) for at in range(count)),
    )
    for form, part in {peer.form: peer.part for peer in peers}.items():
        # The peer does not care.
        payloads = list(map(FORMATS[form], some))
        numbers = range(count // part)
        await publish(kafka, topic_of(form), (payloads[at % DISTINCT] for at in numbers))


def topic_of(form: str) -> str:
    return f"bench.{form.lower()}"


async def publish(kafka: str, topic: str, payloads: Iterable[bytes]) -> None:
    producer = AIOKafkaProducer(
        bootstrap_servers=kafka, compression_type="zstd", max_request_size=16 << 20, acks="all"
    )
    await producer.start()
    for payload in payloads:
        # One at a time, so that each is a record batch of its own, as agents send them.
        await producer.send_and_wait(topic, payload)
    await producer.stop()


def run_rounds(
    variants: dict[str, Callable[[Path], dict[str, float]]], rounds: int, scratch: Path
) -> tuple[Samples, Samples]:
    """Seconds and CPU seconds.  Every run is a process of its own: none is warmer than the first."""
    seconds: Samples = {name: [] for name in variants}
    cpu: Samples = {name: [] for name in variants}
    order = list(variants)
    for number in range(rounds):
        for name in order:
            with tempfile.TemporaryDirectory(dir=scratch) as directory:
                found = variants[name](Path(directory))
            seconds[name].append(found["seconds"])
            cpu[name].append(found["cpu_s"])
            print(f"round {number}, {name}: {found}", file=sys.stderr)
        order.reverse()
    return seconds, cpu


def run_consumer(kafka: str, directory: Path, rows: int, *flags: str) -> dict[str, float]:
    log = directory / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "consumer", "--kafka", kafka),
                *("--group", f"bench-{time.time_ns()}", "--log-level", "debug"),
                *("--clickhouse", f"chdb://{directory}/db", *flags),
            ],
            cwd=ROOT,
            stderr=out,
        )
    try:
        return follow(process.pid, log, rows)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def follow(pid: int, log: Path, rows: int) -> dict[str, float]:
    deadline = time.monotonic() + DEADLINE_S
    cpu = None
    while time.monotonic() < deadline:
        text = log.read_text()
        if cpu is None and "partitions assigned" in text:
            cpu = cpu_seconds(pid)
        inserted = sum(map(int, re.findall(r"rows inserted table=flows rows=(\d+)", text)))
        if inserted >= rows and text.rstrip().endswith("table=flows"):
            seconds = moment(text, "offsets committed") - moment(text, "partitions assigned")
            return {"seconds": seconds, "cpu_s": cpu_seconds(pid) - (cpu or 0.0)}
        time.sleep(POLL_S)
    sys.exit(f"the consumer did not finish in time:\n{log.read_text()}")


def moment(log: str, phrase: str) -> float:
    """When *phrase* was logged last."""
    found = re.findall(rf"^(\S+)Z \w+ {phrase}", log, re.MULTILINE)
    return datetime.fromisoformat(found[-1] + "+00:00").timestamp()


def run_peer(kafka: str, directory: Path, rows: int, library: str, peer: Peer) -> dict[str, float]:
    statements = [create_table(FLOW)]
    for rollup in ROLLUPS if peer.has_rollups else ():
        statements += [create_rollup(rollup), create_view(rollup)]
    create = directory / "create.sql"
    create.write_text(SEPARATOR.join(statements))
    program = [sys.executable, ROOT / "bench/kafka_engine.py", library, directory / "db", kafka]
    rest = [topic_of(peer.form), peer.form, peer.block_rows, rows, create]
    ended = subprocess.run(
        [str(one) for one in (*program, *rest)], check=True, stdout=subprocess.PIPE, text=True
    )
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
