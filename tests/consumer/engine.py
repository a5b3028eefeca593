# SPDX-License-Identifier: Apache-2.0
"""The embedded ClickHouse engine in a process of its own.

An engine takes one directory a process and one process a directory, so a test that wants a
database of its own, or one that a consumer has just left, cannot open it in its own process.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Self

from consumer.migrations import migrate
from consumer.record import Accepted, Record
from consumer.rollups import summed_here
from consumer.sink import Sink, SinkError
from consumer.tables import existing_tables
from schemas import wire
from schemas.catalogue import RECORDS
from schemas.rollup import ROLLUPS

_sinks: list[Sink] = []
# Children of one that has imported all but the engine, which would cost each of them a second.
_processes = get_context("forkserver")
_processes.set_forkserver_preload([__name__])


def _open(dsn: str, clients: int) -> None:
    for _ in range(clients):
        sink = Sink(dsn)
        sink.connect([record.table for record in RECORDS])
        _sinks.append(sink)


def _close() -> None:
    while _sinks:
        _sinks.pop().close()


def _rows(query: str) -> list[tuple[Any, ...]]:
    return _sinks[0].rows(query)


def _execute(statement: str) -> None:
    _sinks[0].execute(statement)


def _migrate(records: Sequence[Any], retention_days: int, number: int) -> int:
    return migrate(
        _sinks[number],
        records,
        retention_days=retention_days,
        failures=SinkError,
        rollups=ROLLUPS if len(records) == len(RECORDS) else (),
    )


async def _migrate_side_by_side(records: Sequence[Any]) -> int:
    return sum(
        await asyncio.gather(
            *(asyncio.to_thread(_migrate, records, 30, number) for number in range(len(_sinks)))
        )
    )


def _migrate_at_once(records: Sequence[Any]) -> int:
    return asyncio.run(_migrate_side_by_side(records))


def _store(batches: Sequence[wire.Batch]) -> None:
    asyncio.run(_sinks[0].insert(batches[0].record, [accepted(one) for one in batches]))


def _store_with_sums(batches: Sequence[wire.Batch]) -> None:
    sink = _sinks[0]
    sink.add_to(summed_here(existing_tables(sink), ROLLUPS))
    some = [accepted(one) for one in batches]
    asyncio.run(sink.insert(batches[0].record, some, is_summed=True))


def accepted(batch: wire.Batch, *, offset: int = 0) -> Accepted:
    """A batch as if it had come from Kafka."""
    return Accepted(Record(batch.record.topic, 0, offset, 0, b"", b""), batch)


class Engine:
    """A database in *directory*, open from `__enter__` to `__exit__`."""

    def __init__(self, directory: Path, clients: int = 1) -> None:
        self._pool = ProcessPoolExecutor(1, _processes, _open, (f"chdb://{directory}", clients))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._call(_close)
        self._pool.shutdown()

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        return self._call(_rows, query)

    def value(self, query: str) -> Any:
        """The only value of a query."""
        [(value,)] = self.rows(query)
        return value

    def execute(self, statement: str) -> None:
        self._call(_execute, statement)

    def migrate(self, records: Sequence[Any] = RECORDS, retention_days: int = 30) -> int:
        return self._call(_migrate, records, retention_days, 0)

    def migrate_at_once(self, records: Sequence[Any] = RECORDS) -> int:
        """Migrate through every client at the same time."""
        return self._call(_migrate_at_once, records)

    def store(self, *batches: wire.Batch, is_summed: bool = False) -> None:
        """Insert batches of one kind as one block, and their sums unless the views make those."""
        self._call(_store_with_sums if is_summed else _store, batches)

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return self._pool.submit(function, *arguments).result()
