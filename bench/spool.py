# SPDX-License-Identifier: Apache-2.0
"""How long an outage of Kafka an agent's spool rides out, and how fast it catches up.

    python -m bench.spool [--quick | --long]

The agent's own spool is filled with flow rows, a batch an interval, until the oldest would have to
be given up.  Then the agent's own publisher sends a real broker everything.  What fits into the
default size is that in proportion; a long run fills all of it.
"""

import asyncio
import shutil
import tempfile
import time
from dataclasses import replace
from itertools import cycle
from pathlib import Path

from agent.config import Config
from agent.outbox import Outbox
from agent.publisher import Publisher
from bench.flows import batches
from bench.rounds import cell, table
from bench.subject import Scale, main
from hookline.kafka import Kafka
from schemas.wire import Batch
from service.broker import BrokerOptions

ROWS = (100, 1_000, 10_000)
# Enough contents of their own: each batch is compressed by itself.
_CONTENTS = 50
_POLL_S = 0.01
_USUAL_BYTES, _QUICK_BYTES = 16 << 20, 8 << 20
_HOUR_S = 3600


def measure(scale: Scale) -> list[dict]:
    config = Config(node="bench")
    bytes_each = scale.pick(_USUAL_BYTES, _QUICK_BYTES, config.spool_bytes)
    return [asyncio.run(spools(config, bytes_each, scale.pick(2, 2, 3)))]


async def spools(config: Config, bytes_each: int, rounds: int) -> dict:
    """Rounds of all sizes of batches, which one broker takes."""
    found: dict[int, list[tuple[float, ...]]] = {rows: [] for rows in ROWS}
    with tempfile.TemporaryDirectory(prefix="hookline-bench-") as directory:
        async with Kafka(Path(directory, "kafka")) as kafka:
            for number in range(rounds * len(ROWS)):
                rows = ROWS[number % len(ROWS)]
                folder = Path(directory, f"spool-{number}")
                found[rows].append(await of(rows, bytes_each, folder, kafka.bootstrap))
                shutil.rmtree(folder)
    share = config.spool_bytes / bytes_each
    lines = []
    for rows, rounds_of in found.items():
        batches_held, row_bytes, store_us, rate, send_us = map(list, zip(*rounds_of, strict=True))
        held = batches_held[0] * share
        lines.append(
            [
                rows,
                round(held * config.interval / _HOUR_S, 1),
                round(held * rows),
                round(row_bytes[0], 1),
                cell(store_us, 2),
                cell(rate),
                cell(send_us, 2),
            ]
        )
    columns = [
        *("flow rows an interval", "hours of outage", "rows that wait", "bytes a row"),
        *("CPU microseconds a row to store", "rows a second to catch up", "CPU microseconds a row"),
    ]
    room = f"{config.spool_bytes / (1 << 20):,.0f} MiB and intervals of {config.interval:g} s"
    filled = f"{bytes_each / (1 << 20):,.0f} MiB were filled in each round."
    if share > 1:
        filled += " Its first 4 MiB are not compressed, so a larger one holds more in proportion."
    return table(f"A spool of {room}", columns, lines, filled)


async def of(rows: int, most_bytes: int, folder: Path, kafka: str) -> tuple[float, ...]:
    """Batches held, bytes a row, microseconds to store one, rows a second, and to send one."""
    contents = batches(_CONTENTS, rows)
    with Outbox(folder, most_bytes) as outbox:
        began_s = time.process_time()
        count = fill(outbox, contents)
        stored_s = time.process_time() - began_s
        waiting_bytes = outbox.waiting_bytes
        took_s, used_s = await publish_all(outbox, kafka)
    all_rows = count * rows
    return (
        count,
        waiting_bytes / all_rows,
        stored_s / all_rows * 1e6,
        all_rows / took_s,
        used_s / all_rows * 1e6,
    )


def fill(outbox: Outbox, contents: list[Batch]) -> int:
    """How many batches wait once there is no room for more."""
    for seq, content in enumerate(cycle(contents)):
        if next(outbox.give_up_excess(), None):
            outbox.make_valid()
            return sum(waiting.batches for waiting in outbox.waiting.values())
        outbox.append([replace(content, node="bench", seq=seq)])
        outbox.make_valid()
    raise AssertionError  # unreachable: the spool is bounded


async def publish_all(outbox: Outbox, bootstrap: str) -> tuple[float, float]:
    """Seconds, and seconds of a CPU, until Kafka has everything."""
    broker = BrokerOptions(kafka=bootstrap).broker("bench")
    publisher = Publisher(broker, list(outbox.logs.values()))
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    publisher.start()
    while not publisher.is_idle:
        publisher.raise_if_failed()
        await asyncio.sleep(_POLL_S)
    took_s, used_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
    assert await publisher.stop(0)
    return took_s, used_s


if __name__ == "__main__":
    main(measure, __doc__)
