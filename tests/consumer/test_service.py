# SPDX-License-Identifier: Apache-2.0
"""The whole consumer between a real Kafka and the real engine: records in, rows out."""

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest

from hookline.kafka import Kafka
from schemas import wire
from schemas.catalogue import RECORDS
from schemas.clickhouse import DATABASE
from schemas.ledger import LEDGER
from schemas.rollup import ROLLUPS
from tests.consumer.place import TOPICS, Place, place
from tests.consumer.process import (
    FLOWS,
    ask,
    committed,
    create_topics,
    dead_letters,
    delete_everything,
    free_port,
    held,
    publish,
    publish_payloads,
)
from tests.schemas.batches import a_batch

__all__ = ["place"]  # a fixture
pytestmark = pytest.mark.services


async def test_what_agents_publish_is_in_the_tables(place):
    nodes = [f"{place.node}-{letter}" for letter in "abc"]
    await publish(
        place.kafka,
        *(
            a_batch(record.kind, rows=40, node=node, seq=seq)
            for record in RECORDS
            for node in nodes
            for seq in range(2)
        ),
    )

    await place.store_everything()

    with place.engine() as engine:
        for record in RECORDS:
            assert engine.rows(
                f"SELECT node, count() FROM {DATABASE}.{record.table}"
                f" WHERE node LIKE '{place.node}-%' GROUP BY node ORDER BY node"
            ) == [(node, 80) for node in nodes]
        sent = a_batch(rows=40)
        assert engine.value(
            f"SELECT sum(bytes) FROM {DATABASE}.flows WHERE node = '{nodes[0]}'"
        ) == 2 * int(sent.columns["bytes"].sum())


async def test_a_consumer_that_continues_stores_the_rest_and_nothing_twice(place):
    await publish(place.kafka, a_batch(rows=10, node=place.node, seq=0))
    await place.store_everything()
    await publish(place.kafka, a_batch(rows=5, node=place.node, seq=1))

    await place.store_everything()

    assert place.stored() == 15


async def test_sigterm_stores_and_commits_what_is_not_due_yet(tmp_path):
    # A broker of its own: what others have left in a topic may be so much that it is due.
    async with Kafka(tmp_path / "kafka") as broker:
        await create_topics(broker.bootstrap, TOPICS, partitions=1)
        place = Place(broker.bootstrap, tmp_path)
        await publish(place.kafka, a_batch(rows=10, node=place.node))

        with place.consumer("--max-age", "3600", "--flow-max-age", "3600") as consumer:
            await consumer.until(
                lambda: consumer.metric("consumer_pending_rows", table="flows") == 10
            )
            assert await committed(place.kafka, place.group) is None
            assert await consumer.terminate() == 0

        assert place.stored() == 10
        assert await committed(place.kafka, place.group) == 1


async def test_flows_need_not_wait_as_long_as_the_rest(place):
    ages = ("--max-age", "3600", "--flow-max-age", "0.1")
    await publish(
        place.kafka,
        a_batch("packet", rows=10, node=place.node),
        a_batch(rows=10, node=place.node),
    )

    with place.consumer(*ages) as consumer:
        await consumer.until(
            lambda: (
                consumer.metric("consumer_inserted_rows_total", table="flows") >= 10
                and consumer.metric("consumer_pending_rows", table="packets") >= 10
            )
        )
        assert consumer.metric("consumer_inserted_rows_total", table="packets") == 0
        assert await consumer.terminate() == 0


async def test_everything_that_is_no_record_becomes_a_dead_letter_and_the_rest_arrives(place):
    good = [wire.encode(a_batch(rows=10, node=place.node, seq=seq)) for seq in range(4)]
    content = msgpack.unpackb(good[0])
    bad = {
        "payload is no msgpack": b"\xc1garbage",
        "payload is no msgpack: Unpack failed": good[0][: len(good[0]) // 2],
        "version is 9, this consumer reads 1": msgpack.packb({**content, "v": 9}),
        "kind 'dnx' is unknown": msgpack.packb({**content, "kind": "dnx"}),
        "column bytes has type <f8, not <u8": msgpack.packb(
            {**content, "cols": {**content["cols"], "bytes": ["<f8", bytes(80)]}}
        ),
        "kind 'packet' belongs into topic hookline.packet.v1": wire.encode(
            a_batch("packet", node=place.node)
        ),
        "record has no value": None,
    }
    mixed = [good[0], *bad.values(), good[1]]
    await publish_payloads(place.kafka, *((FLOWS, place.node, payload) for payload in mixed))

    with place.consumer() as consumer:
        await place.until_read(consumer)
        assert consumer.metric("consumer_rejected_records_total", topic=FLOWS) >= len(bad)
        await publish_payloads(place.kafka, *((FLOWS, place.node, payload) for payload in good[2:]))
        await place.until_read(consumer)
        assert await consumer.terminate() == 0

    assert place.stored() == 40
    letters = await dead_letters(place.kafka, key=place.node)
    assert [letter["payload"] for letter in letters] == list(bad.values())
    for letter, reason in zip(letters, bad, strict=True):
        assert letter["reason"].startswith(reason)
        assert (letter["v"], letter["topic"], letter["partition"]) == (1, FLOWS, 0)
    offsets = [letter["offset"] for letter in letters]
    assert offsets == list(range(offsets[0], offsets[0] + len(bad)))


async def test_a_large_payload_leaves_its_beginning_and_its_length(place):
    payload = b"\xc1" + bytes(3_000_000)
    await publish_payloads(place.kafka, (FLOWS, place.node, payload[:1_000_000]))

    await place.store_everything()

    [letter] = await dead_letters(place.kafka, key=place.node)
    assert letter["payload_bytes"] == 1_000_000
    assert letter["payload"] == payload[:900_000]


async def test_unknown_columns_are_ignored_and_missing_ones_filled_and_both_are_counted(place):
    content = msgpack.unpackb(wire.encode(a_batch(rows=10, node=place.node)))
    content["cols"]["as_number"] = ["<u4", bytes(40)]
    del content["cols"]["dscp"], content["cols"]["interface"], content["cols"]["direction"]
    await publish_payloads(place.kafka, (FLOWS, place.node, msgpack.packb(content)))

    with place.consumer() as consumer:
        await place.until_read(consumer)
        assert consumer.metric("consumer_unknown_columns_total", topic=FLOWS) == 1
        assert consumer.metric("consumer_defaulted_columns_total", topic=FLOWS) == 3
        assert await consumer.terminate() == 0

    assert place.stored("(count(), any(dscp), any(interface), any(direction))") == (
        10,
        0,
        "",
        "ingress",
    )


async def test_kill_9_at_any_time_loses_nothing_and_repeats_nothing(place):
    sent: dict[str, int] = {}
    enough = asyncio.Event()

    async def publish_until_enough() -> None:
        while not enough.is_set():
            batch = a_batch(rows=10, node=f"{place.node}-{len(sent)}", seq=len(sent))
            sent[batch.node] = 10
            await publish(place.kafka, batch)

    publishing = asyncio.create_task(publish_until_enough())
    for rows in (30, 60, 90):
        with place.consumer("--max-age", "0.01") as consumer:
            await consumer.until_inserted(rows, table="flows")
            consumer.kill()
    enough.set()
    await publishing
    await place.store_everything()

    with place.engine() as engine:
        found = engine.rows(
            f"SELECT node, count() FROM {DATABASE}.flows"
            f" WHERE node LIKE '{place.node}-%' GROUP BY node"
        )
        summed = [
            engine.rows(f"SELECT node, sum(flows) FROM {DATABASE}.{table} GROUP BY node")
            for table in ("flows_1m", "edges_1d")
        ]
        sides = engine.value(f"SELECT sum(flows) FROM {DATABASE}.addresses_1d")
    assert dict(found) == sent
    assert [dict(one) for one in summed] == [sent, sent]
    assert sides == 2 * sum(sent.values())


async def test_an_insert_that_cannot_succeed_ends_the_process_and_commits_nothing(place):
    await publish(place.kafka, a_batch(rows=10, node=place.node))
    with place.engine() as engine:
        engine.migrate()
        engine.execute(
            f"CREATE MATERIALIZED VIEW {DATABASE}.broken ENGINE = Null"
            f" AS SELECT throwIf(1, 'no disk') AS thrown FROM {DATABASE}.flows"
        )

    with place.consumer() as consumer:
        assert await consumer.ended() == 1
        assert "consumer: insert into flows: " in consumer.log
        assert "no disk" in consumer.log
        assert "Traceback" not in consumer.log
    # Its plan is committed, with the offset where it begins.
    ((begin, _),) = (await held(place.kafka, [FLOWS])).values()
    assert await committed(place.kafka, place.group) == begin


async def test_the_embedded_engine_answers_queries_while_records_come_in(place):
    port = free_port()
    await publish(place.kafka, a_batch(rows=10, node=place.node))

    with place.consumer("--serve", f"127.0.0.1:{port}") as consumer:
        await place.until_read(consumer)
        query = f"SELECT count() FROM {DATABASE}.flows WHERE node = '{place.node}'"
        answer = await asyncio.to_thread(ask, port, query)
        assert await consumer.terminate() == 0

    assert answer == "10\n"


async def test_records_that_kafka_deleted_before_they_were_read_are_counted(place):
    await publish(place.kafka, a_batch("ledger", rows=1, node=place.node, seq=0))
    await place.store_everything()
    lost = [a_batch("ledger", rows=1, node=place.node, seq=seq) for seq in range(1, 4)]
    await publish(place.kafka, *lost)
    await delete_everything(place.kafka, LEDGER.topic)
    await publish(place.kafka, a_batch("ledger", rows=1, node=place.node, seq=4))

    with place.consumer() as consumer:
        await place.until_read(consumer)
        assert consumer.metric("consumer_lost_records_total", topic=LEDGER.topic) == 3
        assert "error records lost: kafka deleted them before they were read" in consumer.log
        assert await consumer.terminate() == 0

    assert place.stored(table="ledger") == 2


async def test_rows_that_wait_are_stored_before_their_partitions_move(tmp_path):
    async with Kafka(tmp_path / "kafka") as kafka:
        place = Place(kafka.bootstrap, tmp_path)
        other = Place(kafka.bootstrap, tmp_path / "other")
        other.group = place.group
        await publish(kafka.bootstrap, a_batch(rows=10, node=place.node))

        with place.consumer("--max-age", "3600", "--flow-max-age", "3600", name="a") as a:
            await a.until(lambda: a.metric("consumer_pending_rows", table="flows") == 10)
            with other.consumer(name="b") as b:
                await b.until_ready()
                assert a.metric("consumer_inserted_rows_total", table="flows") == 10
                assert await committed(kafka.bootstrap, place.group) == 1
                assert await b.terminate() == 0
            assert await a.terminate() == 0


async def test_sums_are_kept_beside_the_rows_unless_that_is_not_wanted(place):
    await publish(place.kafka, a_batch(rows=10, node=place.node))
    with place.consumer("--rollups", "no") as consumer:
        await place.until_read(consumer)
        assert await consumer.terminate() == 0
    assert place.tables() == {record.table for record in RECORDS}
    assert place.stored() == 10

    await place.store_everything()
    assert place.tables() >= {rollup.table for rollup in ROLLUPS}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 100 MB."""
    if os.geteuid() != 0:
        pytest.skip("needs root: sudo make test")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", disk], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", disk], check=True)


async def test_a_full_disk_is_waited_for(place, small_disk):
    place.database = small_disk / "db"
    ballast = small_disk / "ballast"

    with place.consumer() as consumer:
        await publish(place.kafka, a_batch(rows=10, node=place.node, seq=0))
        await place.until_read(consumer)
        # Less is left than a part that is being written should find.
        ballast.write_bytes(bytes(60 << 20))
        await publish(place.kafka, a_batch(rows=10, node=place.node, seq=1))
        await consumer.until(lambda: consumer.metric("consumer_retried_inserts_total") >= 2)
        assert consumer.metric("consumer_lag_records", topic=FLOWS) == 0
        ballast.unlink()
        await place.until_read(consumer)
        assert await consumer.terminate() == 0
        assert "insert retried table=flows" in consumer.log
        assert "Code: 243. " in consumer.log

    assert place.stored() == 20
