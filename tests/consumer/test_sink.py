# SPDX-License-Identifier: Apache-2.0
"""Inserts over HTTP, where answers are late, lost or refusals."""

import asyncio
from collections.abc import Iterator

import numpy as np
import pytest

from consumer.migrations import migrate
from consumer.sink import BlockRefused, Sink, SinkError, SinkUnavailable
from schemas.catalogue import RECORDS
from schemas.clickhouse import DATABASE
from schemas.flow import FLOW
from tests.consumer.clickhouse_server import Server
from tests.consumer.engine import accepted
from tests.consumer.process import free_port
from tests.schemas.batches import a_batch

pytestmark = pytest.mark.services


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("server") / "db") as server:
        yield server


@pytest.fixture
def retried() -> list[str]:
    return []


@pytest.fixture
def sink(server: Server, retried: list[str]) -> Iterator[Sink]:
    sink = Sink(server.url, on_retry=retried.append)
    sink.connect([record.table for record in RECORDS])
    migrate(sink, RECORDS, retention_days=30, failures=SinkError)
    yield sink
    sink.close()


def count(sink: Sink, node: str) -> int:
    [(rows,)] = sink.rows(f"SELECT count() FROM {DATABASE}.flows WHERE node = '{node}'")
    return int(rows)


async def test_a_server_is_migrated_and_stores_blocks(sink, retried):
    await sink.insert(FLOW, [accepted(a_batch(rows=10, node="plain"))])

    assert count(sink, "plain") == 10
    assert retried == []


async def test_an_overloaded_server_is_asked_again(sink, server, retried):
    server.next_inserts("overloaded", "overloaded")

    await sink.insert(FLOW, [accepted(a_batch(rows=10, node="overloaded"))])

    assert count(sink, "overloaded") == 10
    assert retried == ["flows", "flows"]


async def test_rows_are_stored_once_though_the_answer_was_lost(sink, server, retried):
    server.next_inserts("silent", "silent")

    await sink.insert(FLOW, [accepted(a_batch(rows=10, node="silent"))])

    assert count(sink, "silent") == 10


async def test_inserts_of_several_tables_run_side_by_side(sink):
    batches = [a_batch(record.kind, rows=10, node="side") for record in RECORDS]

    await asyncio.gather(*(sink.insert(one.record, [accepted(one)]) for one in batches))

    assert count(sink, "side") == 10


async def test_rows_of_too_many_days_are_refused_and_not_tried_again(sink, retried):
    days = (np.arange(200, dtype=np.int64) * 86_400 * 10**9).astype("<i8")

    with pytest.raises(BlockRefused, match="partitions for single INSERT block"):
        await sink.insert(FLOW, [accepted(a_batch(rows=200, columns={"time": days}))])
    assert retried == []


def test_a_server_that_is_not_there_is_unavailable():
    sink = Sink(f"http://127.0.0.1:{free_port()}", on_retry=lambda _: None)

    with pytest.raises(SinkUnavailable) as error:
        sink.connect(["flows"])

    assert "\n" not in str(error.value)
    sink.close()


async def test_a_table_that_is_gone_is_an_error_for_a_human(sink):
    other = FLOW.__class__("flow", "gone", "", FLOW.fields, "time")
    sink.connect(["gone"])

    with pytest.raises(SinkError, match=r"insert into gone: .*gone"):
        await sink.insert(other, [accepted(a_batch(rows=1))])
