# SPDX-License-Identifier: Apache-2.0
"""Measure the consumer beside ClickHouse's own Kafka engine, on the same rows and machine.

    python -m bench.consumer [--rows 5000000] [--rounds 3] [--kafka-engine DIRECTORY]

A topic is filled first; each run then reads all of it with a new group into a new database.
Time runs from the assignment of partitions to the last commit, for the peer to the last row.
Rounds are interleaved, because such machines change their speed within minutes; compare the
ratios, not the absolute numbers.  The peer needs an older chdb-core, in a directory of its own:

    pip install --no-deps --target DIRECTORY chdb-core==26.1.0
"""

import argparse
import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from statistics import median

import msgpack
from aiokafka import AIOKafkaProducer

from bench.flows import batches
from consumer.block import native_block
from hookline.kafka import Kafka
from schemas import wire
from schemas.clickhouse import columns, create_table
from schemas.flow import FLOW

ROOT = Path(__file__).parents[1]
DISTINCT = 50
POLL_S = 0.05
DEADLINE_S = 300.0
TICKS = os.sysconf("SC_CLK_TCK")

# Formats and block sizes of the peer.  One million is near its default of 1048449, but divides
# the rows: the last of them would otherwise wait for the flush interval of 7.5 s, and it is speed
# that is compared.  200000 is the consumer's own.
PEERS = (("Native", 1_000_000), ("Native", 200_000), ("MsgPack", 1_000_000))

Result = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.consumer", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--rows-per-record", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kafka-engine", metavar="DIRECTORY", help="measure the peer with this")
    print(json.dumps(asyncio.run(measure(parser.parse_args())), indent=2))


async def measure(arguments: argparse.Namespace) -> dict[str, object]:
    with tempfile.TemporaryDirectory(prefix="hookline-bench-") as scratch:
        async with Kafka(Path(scratch) / "kafka") as kafka:
            rows = await fill(kafka.bootstrap, arguments)
            results = await asyncio.to_thread(
                run_rounds, kafka.bootstrap, Path(scratch), rows, arguments
            )
    return summary(results, rows, arguments)


async def fill(kafka: str, arguments: argparse.Namespace) -> int:
    """Fill a topic for each way to read; the number of rows in each."""
    some = batches(DISTINCT, arguments.rows_per_record)
    formats: dict[str, Callable[[wire.Batch], bytes]] = {FLOW.topic: wire.encode}
    if arguments.kafka_engine:
        formats |= {"bench.native": lambda one: native_block(FLOW, [one]), "bench.msgpack": by_rows}
    count = arguments.rows // arguments.rows_per_record
    for topic, encode in formats.items():
        # Each has a name of its own, or the consumer would leave it out as a repetition.
        named = (replace(some[at % DISTINCT], seq=at) for at in range(count))
        await publish(kafka, topic, map(encode, named))
    return count * arguments.rows_per_record


def by_rows(batch: wire.Batch) -> bytes:
    """What a producer without columns would send: one msgpack value after the other."""
    lists = []
    for field in columns(FLOW):
        column = batch.columns.get(field.name)
        if column is None:
            lists.append([batch.node] * batch.rows)
        elif isinstance(column, wire.Names):
            lists.append([column.categories[code] for code in column.codes])
        elif column.dtype.kind == "V":
            lists.append([value.tobytes() for value in column])
        else:
            lists.append(column.tolist())
    pack = msgpack.Packer().pack
    return b"".join(pack(value) for row in zip(*lists, strict=True) for value in row)


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
    kafka: str, scratch: Path, rows: int, arguments: argparse.Namespace
) -> dict[str, list[Result]]:
    results: dict[str, list[Result]] = {}
    for number in range(arguments.rounds):
        directory = scratch / f"round-{number}"
        results.setdefault("consumer", []).append(run_consumer(kafka, directory / "ours", rows))
        if arguments.kafka_engine:
            for form, block_rows in PEERS:
                name = f"kafka engine {form} {block_rows}"
                peer = (arguments.kafka_engine, form, block_rows)
                results.setdefault(name, []).append(run_peer(kafka, directory / name, rows, peer))
        subprocess.run(["rm", "-rf", directory], check=True)
        print(json.dumps({name: found[-1] for name, found in results.items()}), file=sys.stderr)
    return results


def run_consumer(kafka: str, directory: Path, rows: int) -> Result:
    directory.mkdir(parents=True)
    log = directory / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "consumer", "--kafka", kafka),
                *("--group", f"bench-{time.time_ns()}", "--log-level", "debug"),
                *("--clickhouse", f"chdb://{directory}/db"),
            ],
            cwd=ROOT,
            stderr=out,
        )
    try:
        return follow(process.pid, log, rows)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def follow(pid: int, log: Path, rows: int) -> Result:
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


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def run_peer(kafka: str, directory: Path, rows: int, peer: tuple[str, str, int]) -> Result:
    library, form, block_rows = peer
    directory.mkdir(parents=True)
    create = directory / "create.sql"
    create.write_text(create_table(FLOW))
    program = [sys.executable, ROOT / "bench/kafka_engine.py", library, directory / "db", kafka]
    rest = [f"bench.{form.lower()}", form, block_rows, rows, create]
    ended = subprocess.run(
        [str(one) for one in (*program, *rest)], check=True, stdout=subprocess.PIPE, text=True
    )
    found: Result = json.loads(ended.stdout.splitlines()[-1])
    return found


def summary(
    results: dict[str, list[Result]], rows: int, arguments: argparse.Namespace
) -> dict[str, object]:
    rates = {
        name: [round(rows / one["seconds"]) for one in found] for name, found in results.items()
    }
    return {
        "rows": rows,
        "rows_per_record": arguments.rows_per_record,
        "rows_per_s": rates,
        "median_rows_per_s": {name: round(median(found)) for name, found in rates.items()},
        "median_cpu_us_per_row": {
            name: round(median(one["cpu_s"] for one in found) / rows * 1e6, 3)
            for name, found in results.items()
        },
        "consumer_is_faster_by_median": {
            name: round(median(a / b for a, b in zip(rates["consumer"], found, strict=True)), 2)
            for name, found in rates.items()
        },
    }


if __name__ == "__main__":
    main()
