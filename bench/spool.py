# SPDX-License-Identifier: Apache-2.0
"""How long an outage of Kafka an agent's spool rides out, and how fast it catches up.

    python -m bench.spool [--quick]

The agent's own spool of the default size is filled with flow rows, a batch an interval, until the
oldest would have to be given up.  Then a real broker starts, and the agent's own publisher sends it
everything.
"""

import asyncio
import tempfile
import time
from dataclasses import replace
from itertools import cycle
from pathlib import Path

from agent.config import Config
from agent.outbox import Outbox
from agent.publisher import Publisher
from bench.flows import batches
from bench.rounds import table
from bench.subject import Scale, main
from hookline.kafka import Kafka
from schemas.wire import Batch
from service.broker import BrokerOptions

ROWS = (100, 1_000, 10_000)
# Enough contents of their own: each batch is compressed by itself.
_CONTENTS = 50
_POLL_S = 0.01
_QUICK_BYTES = 8 << 20
_HOUR_S = 3600


def measure(scale: Scale) -> list[dict]:
    config = Config(node="bench")
    most_bytes = scale.pick(config.spool_bytes, _QUICK_BYTES)
    found = [asyncio.run(of(rows, most_bytes, config.interval)) for rows in ROWS]
    columns = [
        *("flow rows an interval", "hours of outage", "rows that wait", "bytes a row"),
        *("CPU microseconds a row to store", "rows a second to catch up", "CPU microseconds a row"),
    ]
    room = f"{most_bytes / (1 << 20):,.0f} MiB and intervals of {config.interval:g} s"
    return [table(f"A spool of {room}", columns, found)]


async def of(rows: int, most_bytes: int, interval_s: float) -> list[object]:
    with tempfile.TemporaryDirectory() as directory, Outbox(Path(directory), most_bytes) as outbox:
        began_s = time.process_time()
        count = fill(outbox, batches(_CONTENTS, rows))
        stored_s = time.process_time() - began_s
        waiting_bytes = outbox.waiting_bytes
        async with Kafka(Path(directory, "kafka")) as kafka:
            took_s, used_s = await publish_all(outbox, kafka.bootstrap)
        all_rows = count * rows
        return [
            rows,
            round(count * interval_s / _HOUR_S, 1),
            all_rows,
            round(waiting_bytes / all_rows, 1),
            round(stored_s / all_rows * 1e6, 2),
            round(all_rows / took_s),
            round(used_s / all_rows * 1e6, 2),
        ]


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
