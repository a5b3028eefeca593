# SPDX-License-Identifier: Apache-2.0
"""How many bytes a flow row takes on its way: in a record, in Kafka, and which column takes them.

Kafka's bytes are those of its log files: record batches with their headers, a record in each, as
agents send them.  A column's are those of its values alone, compressed as aiokafka compresses
record batches; alone, none gains from the others, so they add up to more than all together.
"""

import asyncio
from pathlib import Path

import cramjam
import numpy as np

from bench.consumer import publish
from bench.flows import batches
from bench.rounds import table
from schemas.flow import FLOW
from schemas.wire import Batch, Column, Names, encode

ROWS = (100, 1_000, 10_000)
RECORDS = 50
# Beside which others are not worth a line.
_LEAST_BYTES = 0.05


def by_batch(kafka: str, directory: Path) -> dict:
    """Bytes a row of batches of ROWS rows."""
    columns = ["rows a record", "record, bytes a row", "compressed", "in Kafka's log"]
    return table(
        "A flow row on its way, in records of so many",
        columns,
        [[rows, *_widths(kafka, directory, rows)] for rows in ROWS],
    )


def _widths(kafka: str, directory: Path, rows: int) -> tuple[float, ...]:
    payloads = [encode(one) for one in batches(RECORDS, rows)]
    topic = f"widths.{rows}"
    asyncio.run(publish(kafka, topic, payloads))
    logs = directory.glob(f"**/{topic}-0/*.log")
    sizes = (
        sum(map(len, payloads)),
        sum(map(_compressed, payloads)),
        sum(file.stat().st_size for file in logs),
    )
    return tuple(round(size / RECORDS / rows, 2) for size in sizes)


def by_column() -> dict:
    """Bytes a row of each column, in batches of ROWS rows."""
    some = {rows: batches(RECORDS, rows) for rows in ROWS}
    found = {
        field.name: [_column_width(some[rows], field.name, rows) for rows in ROWS]
        for field in FLOW.fields
    }
    shown = {name: widths for name, widths in found.items() if widths[-1] >= _LEAST_BYTES}
    rest = [widths for name, widths in found.items() if name not in shown]
    rows = [[name, *widths] for name, widths in sorted(shown.items(), key=lambda one: -one[1][-1])]
    rows.append([f"{len(rest)} others", *(round(sum(one), 2) for one in zip(*rest, strict=True))])
    titles = [f"records of {rows:,}" for rows in ROWS]
    return table("Bytes a row of each column, compressed alone", ["column", *titles], rows)


def _column_width(some: list[Batch], name: str, rows: int) -> float:
    sizes = [_compressed(_bytes(one.columns[name])) for one in some]
    return round(sum(sizes) / len(sizes) / rows, 2)


def _bytes(column: Column) -> bytes:
    if isinstance(column, Names):
        return column.codes.tobytes() + "".join(column.categories).encode()
    assert isinstance(column, np.ndarray)
    return column.tobytes()


def _compressed(payload: bytes) -> int:
    # As aiokafka/codec.py does.
    return len(bytes(cramjam.zstd.compress(payload)))
