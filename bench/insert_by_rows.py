# SPDX-License-Identifier: Apache-2.0
"""What one insert costs the embedded ClickHouse, by its rows: why the consumer waits for more.

The consumer's own blocks, by its own sink, into tables as it makes them.  CPU time is that of the
whole process, so merges of the parts are in it as far as they come meanwhile.
"""

import asyncio
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

from bench.flows import batches
from bench.rounds import cell, interleave, table
from bench.subject import Scale
from consumer.migrations import migrate
from consumer.record import Accepted, Record
from consumer.sink import Sink, SinkError
from schemas.catalogue import RECORDS
from schemas.clickhouse import RETENTION_DAYS
from schemas.flow import FLOW

ROWS = (1, 100, 1_000, 10_000, 100_000)
_NO_RECORD = Record(FLOW.topic, 0, 0, 0, None, None)


def by_rows(scale: Scale) -> dict:
    """Milliseconds an insert, and CPU time a row."""
    with tempfile.TemporaryDirectory(prefix="hookline-bench-") as directory:
        sink = Sink(f"chdb://{Path(directory).resolve()}/clickhouse")
        sink.connect([record.table for record in RECORDS])
        migrate(sink, RECORDS, retention_days=RETENTION_DAYS, failures=SinkError)
        elapsed: dict[int, list[float]] = {rows: [] for rows in ROWS}
        variants = {rows: _insert(sink, rows, elapsed[rows]) for rows in ROWS}
        cpu = interleave(variants, scale.pick(11, 3, 31))
        sink.close()
    return table(
        "An insert of flows",
        ["rows", "ms", "CPU ms", "CPU us a row"],
        [
            [
                f"{rows:,}",
                cell(elapsed[rows][1:], 1),
                cell(cpu[rows], 1),
                cell([ms / rows * 1e3 for ms in cpu[rows]], 2),
            ]
            for rows in ROWS
        ],
    )


def _insert(sink: Sink, rows: int, elapsed: list[float]) -> Callable[[], float]:
    [content] = batches(1, rows)
    # Of a run of its own, or tokens would be repeated.
    numbers = count()

    def insert() -> float:
        batch = replace(content, run=f"of-{rows}", seq=next(numbers))
        began, began_cpu = time.perf_counter(), time.process_time()
        asyncio.run(sink.insert(FLOW, [Accepted(_NO_RECORD, batch)]))
        elapsed.append((time.perf_counter() - began) * 1e3)
        return (time.process_time() - began_cpu) * 1e3

    return insert
