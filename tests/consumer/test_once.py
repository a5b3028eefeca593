# SPDX-License-Identifier: Apache-2.0
"""Consumers that are killed, paused, replaced or out of date store every batch once."""

import asyncio
import itertools
import signal
import time
from dataclasses import replace

import numpy as np
import pytest

from consumer.metrics import Metrics
from consumer.migrations import migrate
from consumer.pipeline import Pipeline
from consumer.plan import VERSION, Plan, insert_token, planned
from consumer.presence import DAY_NS
from consumer.quarantine import Quarantine
from consumer.sink import Sink, SinkError
from consumer.source import Source
from schemas.catalogue import RECORDS
from schemas.clickhouse import DATABASE
from schemas.packet import PACKET
from tests.consumer.engine import accepted
from tests.consumer.process import DEADLINE_S, FLOWS, dead_letters, publish_payloads
from tests.consumer.stage import TOPICS
from tests.consumer.staged import broker, server, stage
from tests.schemas.batches import a_batch

__all__ = ["broker", "server", "stage"]  # fixtures
pytestmark = [pytest.mark.services, pytest.mark.asyncio(loop_scope="module")]


async def test_a_consumer_that_is_killed_at_any_step_stores_every_batch_once(stage, server):
    steps = (
        # Before the plan, which the answer to this query is needed for.
        lambda: server.next_queries("dropped"),
        # After the plan: the insert never arrives.
        lambda: server.next_inserts("dropped"),
        # After the insert, before its answer.
        lambda: server.next_inserts("done"),
        # Within the insert, which is stored when its successor has stored it.
        lambda: server.next_inserts("held"),
    )
    for number, arrange in enumerate(steps):
        with stage.consumer() as consumer:
            await consumer.until_ready()
            await stage.until_committed(consumer)
            # What is held until now is late.
            server.release()
            arrange()
            # A run of its own, so that the first of its batches is in doubt.
            await stage.publish(*stage.batches(f"run-{number}", 0, 1))
            await server.until_held()
            consumer.kill()
            # Whoever comes next would group all of them together.
            await stage.publish(*stage.batches(f"run-{number}", 2, 3))
            if number < len(steps) - 1:
                server.release()

    with stage.consumer() as consumer:
        await consumer.until_ready()
        await stage.until_committed(consumer)
        server.release()
        assert consumer.metric("consumer_repeated_blocks_total", table="flows") == 1
        assert await consumer.terminate() == 0

    assert stage.stored() == stage.sent
    assert len(set(stage.summed())) == 1


async def test_a_consumer_that_is_killed_at_each_point_stores_every_batch_once(stage):
    points = [
        *("before send 1", "after send 1", "before commit 1", "after commit 1"),
        # Rows, and both of the sums that are ours.
        *("before table 1", "after table 1", "after table 2", "after table 3"),
        "after commit 2",
    ]
    for number, point in enumerate(points):
        await publish_payloads(stage.kafka, (FLOWS, stage.node, b"poison %d" % number))
        await stage.publish(*stage.batches(f"run-{number}", 0, 1))
        with stage.consumer(module="tests.consumer.mortal", environment={"DIES": point}) as mortal:
            assert await mortal.ended() == -signal.SIGKILL, point

    with stage.consumer() as consumer:
        await consumer.until_ready()
        await stage.until_committed(consumer)
        assert await consumer.terminate() == 0
    letters = await dead_letters(stage.kafka, key=stage.node)

    assert stage.stored() == stage.sent
    assert len(set(stage.summed())) == 1
    # A letter may come twice, and never not at all.
    assert {letter["payload"] for letter in letters} == {
        b"poison %d" % number for number in range(len(points))
    }


async def test_a_consumer_that_was_paused_within_an_insert_changes_nothing_any_more(stage, server):
    with stage.consumer(is_static=False) as paused:
        await paused.until_ready()
        server.next_inserts("held")
        await stage.publish(*stage.batches("run", 0, 1))
        await server.until_held()
        paused.process.send_signal(signal.SIGSTOP)
        await stage.publish(*stage.batches("run", 2, 3))
        with stage.consumer(name="b", is_static=False) as other:
            await other.until_ready()
            await stage.until_committed(other)
            # Now nobody is in the group, which takes commits of anybody.
            assert await other.terminate() == 0
        before = stage.stored()

        server.release()
        paused.process.send_signal(signal.SIGCONT)
        await paused.until(lambda: "partitions moved" in paused.log)
        await stage.publish(*stage.batches("run", 4))
        await stage.until_committed(paused)
        assert paused.metric("consumer_uncommitted_inserts_total", table="flows") == 1
        assert await paused.terminate() == 0

    assert len(before) == 4
    assert stage.stored() == stage.sent
    assert len(set(stage.summed())) == 1


async def test_batches_that_are_sent_again_are_dropped_by_their_names(stage, server):
    first = stage.batches("run", *range(4))
    with stage.consumer() as consumer:
        await consumer.until_ready()
        await stage.publish(*first)
        await stage.until_committed(consumer)
        await stage.publish(*first[1:], *stage.batches("run", 4))
        await stage.until_committed(consumer)
        assert consumer.metric("consumer_repeated_batches_total", topic=FLOWS) == 3
        asked = server.asked("query.flows")
        await stage.publish(*stage.batches("run", 5))
        await stage.until_committed(consumer)
        assert server.asked("query.flows") == asked
        consumer.kill()

    with stage.consumer() as consumer:
        await consumer.until_ready()
        await stage.publish(*first, *stage.batches("run", 4, 5, 6), *stage.batches("other", 0))
        await stage.until_committed(consumer)
        assert consumer.metric("consumer_repeated_batches_total", topic=FLOWS) == 6
        assert await consumer.terminate() == 0

    assert stage.stored() == stage.sent
    assert len(set(stage.summed())) == 1


async def test_consumers_that_come_and_go_while_records_flow_store_each_batch_once(stage):
    enough = asyncio.Event()

    async def flow() -> None:
        for seq in itertools.count():
            # Of as many nodes that each partition has some.
            await stage.publish(
                *(
                    replace(one, node=f"{stage.node}-{number}")
                    for number in range(12)
                    for one in stage.batches("run", seq)
                )
            )
            if enough.is_set():
                return

    with stage.consumer(is_static=False) as a:
        await a.until_ready()
        flowing = asyncio.create_task(flow())
        await a.until_inserted(100)
        with stage.consumer(name="b") as b:
            await b.until_inserted(50)
            b.kill()
        with stage.consumer(name="b") as b:
            await b.until_inserted(50)
            assert await a.terminate() == 0
            enough.set()
            await flowing
            await stage.until_committed(b)
            assert await b.terminate() == 0

    assert stage.stored() == stage.sent
    assert len(set(stage.summed())) == 1


async def test_of_a_batch_whose_rows_of_one_day_are_stored_only_the_others_are_inserted(
    stage, server
):
    midnight = int(time.time()) // 86_400 * DAY_NS
    times = (midnight + np.arange(-4, 6)).astype("<i8")
    [batch] = stage.batches("run", 0)
    batch.columns["time"][:] = times
    with stage.consumer() as consumer:
        await consumer.until_ready()
        server.rows(
            f"INSERT INTO {DATABASE}.flows (time, node, run, seq)"
            f" SELECT fromUnixTimestamp64Nano(toInt64({midnight} - 1 - number)), '{stage.node}', 'run', 0"
            " FROM numbers(4)"
        )
        server.next_inserts("done")
        await stage.publish(batch, *stage.batches("run", 1))
        await server.until_held()
        consumer.kill()
    with stage.consumer() as consumer:
        await consumer.until_ready()
        await stage.until_committed(consumer)
        server.release()
        assert consumer.metric("consumer_completed_batches_total", topic=FLOWS) == 1
        assert await consumer.terminate() == 0

    assert stage.stored() == stage.sent
    assert len(set(stage.summed())) == 1
    [[found]] = server.rows(
        f"SELECT arraySort(groupArray(toUnixTimestamp64Nano(time) - {midnight}))"
        f" FROM {DATABASE}.flows WHERE node = '{stage.node}' AND seq = 0"
    )
    assert found == list(range(-4, 6))


async def test_plans_that_cannot_be_followed_are_told_counted_and_never_skip_a_batch(
    stage, server, broker
):
    begins = await stage.begin()
    foreign, gone, newer = (stage.flows_partition(number) for number in range(3))
    batches = {}
    for partition in (foreign, gone, newer):
        batches[partition] = [
            replace(one, node=f"{stage.node}-{partition[1]}") for one in stage.batches("run", 0, 1)
        ]
        await stage.publish_to(partition, *batches[partition])
    # The first block of `gone` was planned in a topic of the same name that was longer.
    plan = Plan(begins[gone], begins[gone] + 100, "0123456789abcdef")
    await stage.commit(
        {
            foreign: (begins[foreign], "somebody's note"),
            gone: (begins[gone], plan.text()),
            newer: (begins[newer], f'{{"hookline_plan":{VERSION + 1},"blocks":[]}}'),
        }
    )
    # A consumer that knows more than we do has planned what we cannot form.
    other = (PACKET.topic, 0)
    packets = [a_batch("packet", node=stage.node, seq=seq) for seq in range(2)]
    for one in packets:
        await stage.publish_to(other, one)
        del stage.sent[one.node, one.run, one.seq]
    plan = Plan(begins[other], begins[other] + 2, "f" * 16)
    await stage.commit({other: (begins[other], plan.text())})
    waiting = {(one.node, one.run, one.seq): one.rows for one in batches[newer]}

    with stage.consumer() as consumer:
        await consumer.until_ready()
        await consumer.until(lambda: len(stage.stored()) == 4)
        assert stage.stored() == {
            name: rows for name, rows in stage.sent.items() if name not in waiting
        }
        assert consumer.metric("consumer_void_plans_total", topic=FLOWS) == 3
        assert consumer.metric("consumer_waiting_partitions") == 1
        await consumer.until(lambda: len(stage.stored("packets")) == 2)
        assert consumer.metric("consumer_void_plans_total", topic=PACKET.topic) == 1
        assert "error metadata is no plan; every batch is asked for" in consumer.log
        assert "error a planned block is gone from kafka" in consumer.log
        assert "error a newer consumer's plan; its partition has to wait" in consumer.log
        assert await consumer.terminate() == 0


async def test_a_block_is_formed_again_as_its_plan_says_not_as_this_version_would(stage, server):
    begins = await stage.begin()
    partition = stage.flows_partition(0)
    start = begins[partition]
    batches = stage.batches("run", *range(4))
    # Whoever planned it could not decode the second, and knew that the third was stored.
    await stage.publish_to(partition, *batches)
    token = insert_token([accepted(batches[0])])
    plan = planned(start, start + 3, token, [start])
    await stage.commit({partition: (start, plan.text())})

    with stage.consumer() as consumer:
        await consumer.until_ready()
        await consumer.until_inserted(20, table="flows")
        assert consumer.metric("consumer_repeated_blocks_total", table="flows") == 1
        assert await consumer.terminate() == 0

    assert stage.stored() == {
        (one.node, one.run, one.seq): one.rows for one in (batches[0], batches[3])
    }
    assert token in server.sent()
    assert await dead_letters(stage.kafka, key=stage.node) == []


async def test_a_consumer_that_the_group_gives_up_while_clickhouse_hangs_stores_each_batch_once(
    stage, server, monkeypatch
):
    # What takes a quarter of an hour in the field.
    monkeypatch.setattr("consumer.source.MAX_POLL_INTERVAL_MS", 1_000)
    monkeypatch.setattr("consumer.pipeline.RELEASE_TIMEOUT_S", 0.1)
    connection = {"bootstrap_servers": stage.kafka}
    sink = Sink(server.url)
    sink.connect([record.table for record in RECORDS])
    migrate(sink, RECORDS, retention_days=30, failures=SinkError)
    letters = Quarantine(connection)
    await letters.start()
    pipeline = Pipeline(sink, letters, Metrics(RECORDS), kinds=RECORDS, max_rows=10, max_age_s=0.1)
    source = Source(
        connection,
        group=stage.group,
        group_instance="",
        topics=TOPICS,
        on_revoked=pipeline.release,
        on_assigned=lambda number, positions: pipeline.take_over(source, number, positions),
        on_lost=lambda topic, records: None,
    )
    await source.start()
    await source.until_assigned()
    stop = asyncio.Event()
    running = asyncio.create_task(pipeline.run(source, stop, stop_timeout_s=DEADLINE_S))
    first = source.assignment

    server.next_inserts("held")
    # One is inserted, one waits, and for the third there is no room.
    await stage.publish(*stage.batches("run", *range(5)))
    async with asyncio.timeout(DEADLINE_S):
        while source.assignment < first + 2 and not running.done():
            await asyncio.sleep(0.05)
    server.release()
    await stage.until_committed()
    stop.set()

    assert await running
    await source.stop()
    await letters.stop()
    await asyncio.to_thread(sink.close)
    assert stage.stored() == stage.sent
    assert len(set(stage.summed())) == 1
