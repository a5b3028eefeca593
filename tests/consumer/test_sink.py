# SPDX-License-Identifier: Apache-2.0
"""Inserts and questions over HTTP, where answers are late, lost or refusals."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from consumer.migrations import migrate
from consumer.presence import DAY_NS
from consumer.sink import BlockRefused, Sink, SinkError, SinkUnavailable, now_s
from schemas.catalogue import RECORDS
from schemas.clickhouse import DATABASE
from schemas.delivery import DELIVERY
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


@pytest.fixture(scope="module")
def sink(server: Server) -> Iterator[Sink]:
    sink = Sink(server.url)
    sink.connect([record.table for record in RECORDS])
    migrate(sink, RECORDS, retention_days=30, failures=SinkError)
    yield sink
    sink.close()


def count(sink: Sink, node: str) -> int:
    [(rows,)] = sink.rows(f"SELECT count() FROM {DATABASE}.flows WHERE node = '{node}'")
    return int(rows)


async def test_a_server_is_migrated_and_stores_blocks(sink):
    await sink.insert(FLOW, [accepted(a_batch(rows=10, node="plain"))])

    assert count(sink, "plain") == 10


@pytest.mark.parametrize("code", [75, 164, 241, 242, 243, 252, 319, 999, 1001])
async def test_what_passes_by_itself_is_told_apart(sink, server, code):
    server.next_inserts(str(code))

    with pytest.raises(SinkUnavailable, match=f"Code: {code}"):
        await sink.insert(FLOW, [accepted(a_batch(rows=1, node="passes"))])


async def test_rows_are_stored_once_though_the_answer_was_lost(sink, server):
    # The client asks once more by itself.
    server.next_inserts("silent", "silent")
    rows = [accepted(a_batch(rows=10, node="silent"))]

    with pytest.raises(SinkUnavailable):
        await sink.insert(FLOW, rows)
    await sink.insert(FLOW, rows)

    assert count(sink, "silent") == 10


async def test_inserts_of_several_tables_run_side_by_side(sink, server):
    server.next_inserts("held")
    held = asyncio.create_task(sink.insert(FLOW, [accepted(a_batch(rows=10, node="side"))]))
    await server.until_held()

    kinds = [record.kind for record in RECORDS if record not in (FLOW, DELIVERY)]
    others = [a_batch(kind, rows=10, node="side") for kind in kinds]
    await asyncio.gather(*(sink.insert(one.record, [accepted(one)]) for one in others))
    server.release()
    await held

    assert count(sink, "side") == 10


async def test_of_one_table_a_second_insert_waits_for_one_that_nobody_waits_for(sink, server):
    server.next_inserts("held")
    forgotten = asyncio.create_task(sink.insert(FLOW, [accepted(a_batch(rows=1, node="turns"))]))
    await server.until_held()
    forgotten.cancel()

    second = asyncio.create_task(
        sink.insert(FLOW, [accepted(a_batch(rows=2, node="turns", seq=1))])
    )
    await asyncio.sleep(0)
    asked = server.asked("insert.flows")
    server.release()
    await second

    assert server.asked("insert.flows") == asked + 1
    assert count(sink, "turns") == 3


async def test_an_insert_that_comes_too_late_is_not_sent(sink, server):
    asked = server.asked("insert.flows")

    with pytest.raises(SinkUnavailable, match="too late"):
        await sink.insert(FLOW, [accepted(a_batch(rows=1))], until_s=now_s() - 0.001)

    assert server.asked("insert.flows") == asked


async def test_rows_of_too_many_days_are_refused(sink):
    days = (np.arange(200, dtype=np.int64) * 86_400 * 10**9).astype("<i8")

    with pytest.raises(BlockRefused, match="partitions for single INSERT block"):
        await sink.insert(FLOW, [accepted(a_batch(rows=200, columns={"time": days}))])


async def test_batches_are_found_by_their_names_and_days(sink):
    midnight = 20_000 * DAY_NS
    times = (midnight + np.array([-2, -1, 0, 1, 2], np.int64)).astype("<i8")
    over = a_batch(rows=5, node="it's \\ a\0node", run="r'", seq=7, columns={"time": times})
    plain = a_batch(rows=4, node="plainer", seq=1 << 62)
    absent = a_batch(rows=4, node="plainer", seq=3)
    await sink.insert(FLOW, [accepted(over), accepted(plain)])

    found = await sink.find(FLOW, [over, plain, absent])

    today = int(plain.columns["time"][0]) // DAY_NS
    assert found == {
        ("it's \\ a\0node", "r'", 7): {19_999: 2, 20_000: 3},
        ("plainer", "r-1", 1 << 62): {today: 4},
    }


async def test_a_table_without_rows_is_told_from_others(sink):
    await sink.insert(FLOW, [accepted(a_batch(rows=1, node="first"))])

    assert not await sink.is_empty(FLOW)
    assert await sink.is_empty(DELIVERY)


async def test_a_clock_gone_wild_makes_no_query_that_clickhouse_refuses(sink):
    days = (np.arange(20_000, dtype=np.int64) * DAY_NS).astype("<i8")
    wild = a_batch(rows=20_000, node="wild", columns={"time": days})

    assert await sink.find(FLOW, [wild]) == {}


async def test_many_batches_with_long_names_are_asked_for_at_once(sink, server, monkeypatch):
    monkeypatch.setattr("consumer.sink.BATCHES_PER_QUERY", 800)
    batches = [
        a_batch(rows=1, node=f"{'n' * 250}-{number}", run="r" * 256) for number in range(900)
    ]
    await sink.insert(FLOW, [accepted(one) for one in batches[::2]])
    asked = server.asked("query.flows")

    found = await sink.find(FLOW, batches)

    assert len(found) == 450
    assert server.asked("query.flows") - asked == 2


def test_a_server_that_is_not_there_is_unavailable():
    sink = Sink(f"http://127.0.0.1:{free_port()}")

    with pytest.raises(SinkUnavailable) as error:
        sink.connect(["flows"])

    assert "\n" not in str(error.value)
    sink.close()


async def test_a_table_that_is_gone_is_an_error_for_a_human(server):
    other = replace(FLOW, table="gone")
    sink = Sink(server.url)
    sink.connect(["gone"])

    with pytest.raises(SinkError, match=r"insert into gone: .*gone"):
        await sink.insert(other, [accepted(a_batch(rows=1))])
    with pytest.raises(SinkError, match=r"query of gone: .*gone"):
        await sink.find(other, [a_batch(rows=1)])
    sink.close()
