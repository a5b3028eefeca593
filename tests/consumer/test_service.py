# SPDX-License-Identifier: Apache-2.0
"""The whole consumer between a real Kafka and the real engine.

All tests share one broker, so each has a group and nodes of its own and looks at those alone.
"""

import asyncio
import itertools
from pathlib import Path

import msgpack
import numpy as np
import pytest

from hookline.kafka import Kafka
from schemas import wire
from schemas.catalogue import RECORDS
from schemas.clickhouse import DATABASE
from tests.consumer.engine import Engine
from tests.consumer.process import (
    DEADLINE_S,
    FLOWS,
    POLL_S,
    Consumer,
    committed,
    create_topics,
    dead_letters,
    free_port,
    has_read_everything,
    publish,
    publish_payloads,
)
from tests.schemas.batches import a_batch

pytestmark = pytest.mark.services

TOPICS = [record.topic for record in RECORDS]
numbers = itertools.count()


class Field:
    """One test's names: its group, its node and its database."""

    def __init__(self, kafka: str, directory: Path) -> None:
        self.kafka = kafka
        self.directory = directory
        self.node = f"node-{next(numbers)}"
        self.group = f"group-of-{self.node}"
        self.database = directory / "db"

    def consumer(self, *flags: str, name: str = "consumer") -> Consumer:
        return Consumer(
            self.directory,
            *("--kafka", self.kafka, "--group", self.group, "--group-instance", name),
            *("--clickhouse", f"chdb://{self.database}", "--max-age", "0.2", *flags),
            name=name,
        )

    async def store_everything(self) -> None:
        """Run a consumer until nothing is left to read."""
        with self.consumer() as consumer:
            await self.until_read(consumer)
            assert await consumer.terminate() == 0

    async def until_read(self, consumer: Consumer) -> None:
        """Return once everything that is in Kafka now is stored, or a dead letter."""
        async with asyncio.timeout(DEADLINE_S):
            while not await has_read_everything(self.kafka, self.group, TOPICS):
                assert consumer.process.poll() is None, consumer.log
                await asyncio.sleep(POLL_S)

    def engine(self) -> Engine:
        return Engine(self.database)

    def stored(self, what: str = "count()", table: str = "flows", node: str = "") -> object:
        with self.engine() as engine:
            return engine.value(
                f"SELECT {what} FROM {DATABASE}.{table} WHERE node LIKE '{node or self.node}'"
            )


@pytest.fixture
def field(kafka: str, tmp_path: Path) -> Field:
    return Field(kafka, tmp_path)


async def test_what_agents_publish_is_in_the_tables(field):
    nodes = [f"{field.node}-{letter}" for letter in "abc"]
    await publish(
        field.kafka,
        *(
            a_batch(record.kind, rows=40, node=node, seq=seq)
            for record in RECORDS
            for node in nodes
            for seq in range(2)
        ),
    )

    await field.store_everything()

    with field.engine() as engine:
        for record in RECORDS:
            assert engine.rows(
                f"SELECT node, count() FROM {DATABASE}.{record.table}"
                f" WHERE node LIKE '{field.node}-%' GROUP BY node ORDER BY node"
            ) == [(node, 80) for node in nodes]
        sent = a_batch(rows=40)
        assert engine.value(
            f"SELECT sum(bytes) FROM {DATABASE}.flows WHERE node = '{nodes[0]}'"
        ) == 2 * int(sent.columns["bytes"].sum())


async def test_a_consumer_that_continues_stores_the_rest_and_nothing_twice(field):
    await publish(field.kafka, a_batch(rows=10, node=field.node, seq=0))
    await field.store_everything()
    await publish(field.kafka, a_batch(rows=5, node=field.node, seq=1))

    await field.store_everything()

    assert field.stored() == 15


async def test_sigterm_stores_and_commits_what_is_not_due_yet(field):
    await publish(field.kafka, a_batch(rows=10, node=field.node))

    with field.consumer("--max-age", "3600") as consumer:
        await consumer.until(lambda: consumer.metric("consumer_pending_rows", table="flows") >= 10)
        assert await committed(field.kafka, field.group) is None
        assert await consumer.terminate() == 0

    assert field.stored() == 10
    assert await committed(field.kafka, field.group) is not None


async def test_everything_that_is_no_record_becomes_a_dead_letter_and_the_rest_arrives(field):
    good = [wire.encode(a_batch(rows=10, node=field.node, seq=seq)) for seq in range(4)]
    content = msgpack.unpackb(good[0])
    bad = {
        "payload is no msgpack": b"\xc1garbage",
        "payload is no msgpack: Unpack failed": good[0][: len(good[0]) // 2],
        "version is 9, this consumer reads 1": msgpack.packb({**content, "v": 9}),
        "kind 'dns' is unknown": msgpack.packb({**content, "kind": "dns"}),
        "column bytes has type <f8, not <u8": msgpack.packb(
            {**content, "cols": {**content["cols"], "bytes": ["<f8", bytes(80)]}}
        ),
        "kind 'packet' belongs into topic hookline.packet.v1": wire.encode(
            a_batch("packet", node=field.node)
        ),
        "record has no value": None,
    }
    mixed = [good[0], *bad.values(), good[1]]
    await publish_payloads(field.kafka, *((FLOWS, field.node, payload) for payload in mixed))

    with field.consumer() as consumer:
        await field.until_read(consumer)
        assert consumer.metric("consumer_rejected_records_total", topic=FLOWS) >= len(bad)
        await publish_payloads(field.kafka, *((FLOWS, field.node, payload) for payload in good[2:]))
        await field.until_read(consumer)
        assert await consumer.terminate() == 0

    assert field.stored() == 40
    letters = await dead_letters(field.kafka, key=field.node)
    assert [letter["payload"] for letter in letters] == list(bad.values())
    for letter, reason in zip(letters, bad, strict=True):
        assert letter["reason"].startswith(reason)
        assert (letter["v"], letter["topic"], letter["partition"]) == (1, FLOWS, 0)
    offsets = [letter["offset"] for letter in letters]
    assert offsets == list(range(offsets[0], offsets[0] + len(bad)))


async def test_a_large_payload_leaves_its_beginning_and_its_length(field):
    payload = b"\xc1" + bytes(3_000_000)
    await publish_payloads(field.kafka, (FLOWS, field.node, payload[:1_000_000]))

    await field.store_everything()

    [letter] = await dead_letters(field.kafka, key=field.node)
    assert letter["payload_bytes"] == 1_000_000
    assert letter["payload"] == payload[:900_000]


async def test_rows_that_clickhouse_refuses_do_not_take_the_good_ones_along(field):
    # A clock gone wild: more days in one record than ClickHouse takes in one insert.
    days = (np.arange(200, dtype=np.int64) * 86_400 * 10**9).astype("<i8")
    good = [a_batch(rows=10, node=field.node, seq=seq) for seq in range(6)]
    poison = a_batch(rows=200, node=f"{field.node}-poison", columns={"time": days})
    await publish(field.kafka, *good[:3], poison, *good[3:])

    with field.consumer("--max-age", "1") as consumer:
        await field.until_read(consumer)
        assert consumer.metric("consumer_refused_inserts_total", table="flows") >= 1
        assert await consumer.terminate() == 0

    assert field.stored() == 60
    assert field.stored(node=poison.node) == 0
    [letter] = await dead_letters(field.kafka, key=poison.node)
    assert letter["reason"].startswith("clickhouse refuses its rows: ")
    assert "partitions for single INSERT block" in letter["reason"]
    assert letter["payload"] == wire.encode(poison)


async def test_unknown_columns_are_ignored_and_missing_ones_filled_and_both_are_counted(field):
    content = msgpack.unpackb(wire.encode(a_batch(rows=10, node=field.node)))
    content["cols"]["as_number"] = ["<u4", bytes(40)]
    del content["cols"]["dscp"], content["cols"]["interface"], content["cols"]["direction"]
    await publish_payloads(field.kafka, (FLOWS, field.node, msgpack.packb(content)))

    with field.consumer() as consumer:
        await field.until_read(consumer)
        assert consumer.metric("consumer_unknown_columns_total", topic=FLOWS) == 1
        assert consumer.metric("consumer_defaulted_columns_total", topic=FLOWS) == 3
        assert await consumer.terminate() == 0

    assert field.stored("(count(), any(dscp), any(interface), any(direction))") == (
        10,
        0,
        "",
        "ingress",
    )


async def test_offsets_are_committed_only_after_the_insert(field):
    await publish(field.kafka, a_batch(rows=10, node=field.node))
    with field.engine() as engine:
        engine.migrate()
        # Whoever inserts now waits for three seconds.
        engine.execute(
            f"CREATE MATERIALIZED VIEW {DATABASE}.slow ENGINE = Null"
            f" AS SELECT sleepEachRow(3) AS waited FROM {DATABASE}.flows LIMIT 1"
        )

    with field.consumer("--max-age", "0.01") as consumer:
        await consumer.until(lambda: consumer.metric("consumer_records_total", topic=FLOWS) > 0)
        await consumer.until(lambda: consumer.metric("consumer_pending_rows") == 0)
        assert consumer.metric("consumer_inserted_rows_total", table="flows") == 0
        consumer.kill()
    assert await committed(field.kafka, field.group) is None

    with field.engine() as engine:
        engine.execute(f"DROP VIEW {DATABASE}.slow")
        # The rows may be there already; they must be there in the end.
    await field.store_everything()
    assert field.stored("uniqExact(time)") == 10


async def test_kill_9_at_any_time_loses_nothing(field):
    sent = [a_batch(rows=10, node=f"{field.node}-{seq}", seq=seq) for seq in range(60)]
    publishing = asyncio.create_task(_publish_slowly(field.kafka, sent))

    for rows in (30, 60, 90):
        with field.consumer("--max-age", "0.01") as consumer:
            await consumer.until_inserted(rows, table="flows")
            consumer.kill()
    await publishing
    await field.store_everything()

    with field.engine() as engine:
        found = engine.rows(
            f"SELECT node, uniqExact(time) FROM {DATABASE}.flows"
            f" WHERE node LIKE '{field.node}-%' GROUP BY node"
        )
    assert dict(found) == {batch.node: 10 for batch in sent}


async def _publish_slowly(kafka: str, batches: list[wire.Batch]) -> None:
    for some in (
        itertools.batched(batches, 3) if hasattr(itertools, "batched") else _threes(batches)
    ):
        await publish(kafka, *some)


def _threes(batches: list[wire.Batch]) -> list[list[wire.Batch]]:
    return [batches[at : at + 3] for at in range(0, len(batches), 3)]


async def test_an_insert_that_cannot_succeed_ends_the_process_and_commits_nothing(field):
    await publish(field.kafka, a_batch(rows=10, node=field.node))
    with field.engine() as engine:
        engine.migrate()
        engine.execute(
            f"CREATE MATERIALIZED VIEW {DATABASE}.broken ENGINE = Null"
            f" AS SELECT throwIf(1, 'no disk') AS thrown FROM {DATABASE}.flows"
        )

    with field.consumer() as consumer:
        assert await consumer.ended() == 1
        assert "consumer: insert into flows: " in consumer.log
        assert "no disk" in consumer.log
        assert "Traceback" not in consumer.log
    assert await committed(field.kafka, field.group) is None


async def test_partitions_that_move_between_consumers_lose_nothing_and_repeat_nothing(tmp_path):
    async with Kafka(tmp_path / "kafka") as kafka:
        field = Field(kafka.bootstrap, tmp_path)
        await create_topics(kafka.bootstrap, TOPICS, partitions=4)
        sent = [a_batch(rows=10, node=f"{field.node}-{seq}", seq=seq) for seq in range(90)]
        other = Field(kafka.bootstrap, tmp_path / "other")
        other.group = field.group

        with field.consumer("--max-age", "0.1", name="a") as a:
            await a.until_ready()
            publishing = asyncio.create_task(_publish_slowly(kafka.bootstrap, sent))
            await a.until_inserted(100, table="flows")
            with other.consumer("--max-age", "0.1", name="b") as b:
                await b.until_ready()
                await b.until(lambda: b.metric("consumer_assigned_partitions") > 0)
                await publishing
                await a.until(
                    lambda: (
                        sum(
                            one.metric("consumer_inserted_rows_total", table="flows")
                            for one in (a, b)
                        )
                        >= 900
                    )
                )
                assert a.metric("consumer_assigned_partitions") < 12
                assert await b.terminate() == 0
            assert await a.terminate() == 0
            assert "partitions moved before the commit" not in a.log + b.log

        found: list[tuple[object, ...]] = []
        for one in (field, other):
            with one.engine() as engine:
                found += engine.rows(f"SELECT node, count() FROM {DATABASE}.flows GROUP BY node")
    assert sorted(found) == sorted((batch.node, 10) for batch in sent)


async def test_a_consumer_may_be_started_before_kafka(tmp_path):
    field = Field(f"127.0.0.1:{free_port()}", tmp_path)

    with field.consumer() as consumer:
        await consumer.until(lambda: "waiting part='kafka at" in consumer.log)
        async with Kafka(tmp_path / "kafka", port=int(field.kafka.rpartition(":")[2])):
            await consumer.until_ready()
            await publish(field.kafka, a_batch(rows=10, node=field.node))
            await consumer.until_inserted(10, table="flows")
            assert await consumer.terminate() == 0

    assert field.stored() == 10


async def test_a_consumer_without_kafka_gives_up_after_its_deadline_with_one_clear_line(tmp_path):
    field = Field(f"127.0.0.1:{free_port()}", tmp_path)

    with field.consumer("--start-timeout", "2") as consumer:
        assert await consumer.ended() == 1
        last = f"consumer: kafka at {field.kafka} is not available after 2 s: no broker answers\n"
        assert consumer.log.endswith(last)
        assert consumer.log.count("waiting part=") == 1
        assert "Traceback" not in consumer.log


async def test_a_consumer_without_clickhouse_gives_up_after_its_deadline(field):
    port = free_port()

    with field.consumer(
        "--start-timeout", "2", "--clickhouse", f"http://127.0.0.1:{port}"
    ) as consumer:
        assert await consumer.ended() == 1
        assert f"clickhouse at http://127.0.0.1:{port} is not available after 2 s: " in consumer.log
        assert "Traceback" not in consumer.log


async def test_a_second_consumer_cannot_open_the_same_database(field):
    with field.consumer() as consumer:
        await consumer.until_ready()
        with field.consumer("--start-timeout", "2", name="second") as second:
            assert await second.ended() == 1
            assert "is not available after 2 s: " in second.log
            assert "lock" in second.log.lower()


async def test_sigterm_while_waiting_for_kafka_ends_at_once(tmp_path):
    field = Field(f"127.0.0.1:{free_port()}", tmp_path)

    with field.consumer() as consumer:
        await consumer.until(lambda: "waiting part='kafka at" in consumer.log)
        assert await consumer.terminate() == 0


async def test_a_table_that_another_hand_changed_is_refused_in_one_line(field):
    with field.engine() as engine:
        engine.migrate()
        engine.execute(f"ALTER TABLE {DATABASE}.flows MODIFY COLUMN dscp String")

    with field.consumer() as consumer:
        assert await consumer.ended() == 1
        assert "consumer: column hookline.flows.dscp has type String" in consumer.log
        assert "Traceback" not in consumer.log
