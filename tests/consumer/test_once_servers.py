# SPDX-License-Identifier: Apache-2.0
"""Every batch is stored once while Kafka and ClickHouse die, hang, or refuse what they get."""

import os
import signal
from contextlib import nullcontext

import numpy as np
import pytest

from consumer.presence import DAY_NS
from schemas import wire
from schemas.clickhouse import DATABASE
from tests.consumer.process import dead_letters, publish
from tests.consumer.staged import broker, server, stage
from tests.consumer.test_unfinished import NEWEST, cut_off

__all__ = ["broker", "server", "stage"]  # fixtures
pytestmark = [pytest.mark.services, pytest.mark.asyncio(loop_scope="module")]


@pytest.mark.parametrize("is_killed", [False, True], ids=["same consumer", "its successor"])
async def test_what_a_server_loses_as_it_is_killed_is_stored_again(stage, server, is_killed):
    with stage.consumer() as consumer:
        await consumer.until_ready()
        await stage.publish(*stage.batches("run", 0))
        await stage.until_committed(consumer)
        server.next_inserts("done")
        server.rows(f"SYSTEM STOP MERGES {DATABASE}.flows")
        await stage.publish(*stage.batches("run", 1))
        await server.until_held()
        [[part]] = server.rows(NEWEST.format("flows"))
        if is_killed:
            consumer.kill()
        server.kill()
        cut_off(part)
        server.start()
        with stage.consumer() if is_killed else nullcontext(consumer) as last:
            await stage.until_committed(last)
            assert last.metric("consumer_restored_rows_total", table="flows") == 10
            assert await last.terminate() == 0

    assert stage.stored() == stage.sent
    assert len(set(stage.summed())) == 1


async def test_what_clickhouse_refuses_becomes_dead_letters_and_the_rest_is_stored_once(
    stage, server
):
    # A clock gone wild: more days in one record than ClickHouse takes in one insert.
    days = (np.arange(200, dtype=np.int64) * DAY_NS).astype("<i8")
    [poison] = stage.batches("poison", 0, rows=200)
    poison.columns["time"][:] = days
    good = stage.batches("run", *range(7))

    with stage.consumer("--max-age", "1", "--flow-max-age", "1") as consumer:
        await consumer.until_ready()
        # The first insert is refused; that of its half is on its way when the consumer dies.
        server.next_inserts("", "held")
        await publish(stage.kafka, *good[:5], poison, *good[5:])
        stage.sent = {(one.node, one.run, one.seq): one.rows for one in good}
        await server.until_held()
        consumer.kill()
    with stage.consumer() as consumer:
        await consumer.until_ready()
        await stage.until_committed(consumer)
        server.release()
        assert consumer.metric("consumer_refused_inserts_total", table="flows") >= 2
        assert await consumer.terminate() == 0

    assert stage.stored() == stage.sent
    assert len(set(stage.summed())) == 1
    [letter] = await dead_letters(stage.kafka, key=stage.node)
    assert letter["reason"].startswith("clickhouse refuses its rows: ")
    assert letter["payload"] == wire.encode(poison)


async def test_a_view_that_refuses_rows_does_not_make_them_be_stored_twice(stage, server):
    view = f"{DATABASE}.view_of_{stage.node.replace('-', '_')}"
    server.rows(
        f"CREATE MATERIALIZED VIEW {view} ENGINE = Null AS"
        f" SELECT CAST(toString(seq) = '2' AND node = '{stage.node}' ? 'x' : '1', 'UInt8') AS number"
        f" FROM {DATABASE}.flows"
    )

    with stage.consumer("--max-age", "1", "--flow-max-age", "1") as consumer:
        await consumer.until_ready()
        await stage.publish(*stage.batches("run", *range(5)))
        await stage.until_committed(consumer)
        assert consumer.metric("consumer_refused_inserts_total", table="flows") >= 1
        assert await consumer.terminate() == 0
    server.rows(f"DROP VIEW {view}")

    assert stage.stored() == stage.sent


async def test_a_server_that_is_away_or_has_no_room_costs_nothing_but_time(stage, server):
    with stage.consumer("--stop-timeout", "0.5") as consumer:
        await consumer.until_ready()
        server.next_inserts("held")
        await stage.publish(*stage.batches("run", 0, 1))
        await server.until_held()
        server.kill()
        await stage.publish(*stage.batches("run", 2))
        await consumer.until(lambda: "insert retried" in consumer.log)
        # What cannot be stored stays in Kafka, and the end comes in time.
        assert await consumer.terminate() == 1
        assert "stopped before everything was stored; it stays in kafka" in consumer.log
        assert "Traceback" not in consumer.log
        server.start()

    with stage.consumer() as consumer:
        await consumer.until_ready()
        await stage.until_committed(consumer)
        server.next_inserts("252", "242", "243", "silent", "silent")
        server.next_queries("159")
        await stage.publish(*stage.batches("other", 0))
        await stage.until_committed(consumer)
        assert consumer.metric("consumer_retried_inserts_total", table="flows") == 4
        assert consumer.metric("consumer_retried_queries_total", table="flows") == 1
        assert 0 < consumer.log.count("retried") < 6
        assert await consumer.terminate() == 0

    assert stage.stored() == stage.sent
    assert len(set(stage.summed())) == 1


async def test_brokers_that_restart_or_hang_are_waited_for(stage, server, broker):
    with stage.consumer() as consumer:
        await consumer.until_ready()
        await stage.publish(*stage.batches("run", 0))
        await stage.until_committed(consumer)
        # The rows are stored, and their commit hangs as the consumer dies.
        server.next_inserts("done")
        await stage.publish(*stage.batches("run", 1))
        await server.until_held()
        os.kill(broker.pid, signal.SIGSTOP)
        server.release()
        await consumer.until(lambda: consumer.log.count("rows inserted") == 2)
        consumer.kill()
        os.kill(broker.pid, signal.SIGCONT)

    with stage.consumer() as consumer:
        await consumer.until_ready()
        await stage.until_committed(consumer)
        server.next_inserts("done")
        await stage.publish(*stage.batches("run", 2))
        await server.until_held()
        await broker.stop()
        server.release()
        await consumer.until(lambda: "commit retried" in consumer.log)
        await broker.start()
        await stage.publish(*stage.batches("run", 3))
        await stage.until_committed(consumer)
        assert "Traceback" not in consumer.log
        assert await consumer.terminate() == 0

    assert stage.stored() == stage.sent
    assert len(set(stage.summed())) == 1
