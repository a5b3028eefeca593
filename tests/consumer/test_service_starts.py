# SPDX-License-Identifier: Apache-2.0
"""What a consumer waits for as it starts, what it refuses in one line, and what it may do at all."""

import os
import socket
import tempfile
from pathlib import Path

import pytest

from agent.capabilities import capability_set, status_field
from hookline.kafka import Kafka
from schemas.clickhouse import DATABASE
from tests.consumer.place import Place, place
from tests.consumer.process import free_port, publish
from tests.schemas.batches import a_batch

__all__ = ["place"]  # a fixture
pytestmark = pytest.mark.services

SETS = ("Inh", "Prm", "Eff", "Bnd", "Amb")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become nobody: sudo make test")
async def test_a_consumer_is_nobody_and_may_do_nothing(place):
    nobody = ("--reuid=65534", "--regid=65534", "--clear-groups")
    nothing = ("--no-new-privs", "--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all")
    # Not below tmp_path, which only its owner may enter.
    with tempfile.TemporaryDirectory(prefix="hookline-nobody-") as folder:
        os.chown(folder, 65534, 65534)
        place = Place(place.kafka, Path(folder))
        await publish(place.kafka, a_batch(rows=10, node=place.node))

        with place.consumer(run_by=("setpriv", *nobody, *nothing)) as consumer:
            await place.until_read(consumer)
            status = Path(f"/proc/{consumer.process.pid}/status").read_text()
            assert await consumer.terminate() == 0

        assert status_field("Uid", status) == "65534"
        assert {capability_set(f"Cap{one}", status) for one in SETS} == {0}
        assert place.stored() == 10


async def test_a_consumer_may_be_started_before_kafka(tmp_path):
    place = Place(f"127.0.0.1:{free_port()}", tmp_path)

    with place.consumer() as consumer:
        await consumer.until(lambda: "waiting part='kafka at" in consumer.log)
        async with Kafka(tmp_path / "kafka", port=int(place.kafka.rpartition(":")[2])):
            await consumer.until_ready()
            await publish(place.kafka, a_batch(rows=10, node=place.node))
            await consumer.until_inserted(10, table="flows")
            assert await consumer.terminate() == 0

    assert place.stored() == 10


async def test_a_consumer_without_kafka_gives_up_after_its_deadline_with_one_clear_line(tmp_path):
    place = Place(f"127.0.0.1:{free_port()}", tmp_path)

    with place.consumer("--start-timeout", "2") as consumer:
        assert await consumer.ended() == 1
        last = f"consumer: kafka at {place.kafka} is not available after 2 s: no broker answers\n"
        assert consumer.log.endswith(last)
        assert consumer.log.count("waiting part=") == 1
        assert "Traceback" not in consumer.log


async def test_a_consumer_without_clickhouse_gives_up_after_its_deadline(place):
    port = free_port()

    with place.consumer(
        "--start-timeout", "2", "--clickhouse", f"http://127.0.0.1:{port}"
    ) as consumer:
        assert await consumer.ended() == 1
        assert f"clickhouse at http://127.0.0.1:{port} is not available after 2 s: " in consumer.log
        assert "Traceback" not in consumer.log


async def test_a_second_consumer_cannot_open_the_same_database(place):
    with place.consumer() as consumer:
        await consumer.until_ready()
        with place.consumer("--start-timeout", "8", name="second") as second:
            assert await second.ended() == 1
            assert "is not available after 8 s: " in second.log
            assert "lock" in second.log.lower()


async def test_sigterm_while_waiting_for_kafka_ends_at_once(tmp_path):
    place = Place(f"127.0.0.1:{free_port()}", tmp_path)

    with place.consumer() as consumer:
        await consumer.until(lambda: "waiting part='kafka at" in consumer.log)
        assert await consumer.terminate() == 0


async def test_a_table_that_another_hand_changed_is_refused_in_one_line(place):
    with place.engine() as engine:
        engine.migrate()
        engine.execute(f"ALTER TABLE {DATABASE}.flows MODIFY COLUMN dscp String")

    with place.consumer() as consumer:
        assert await consumer.ended() == 1
        assert "consumer: column hookline.flows.dscp has type String" in consumer.log
        assert "Traceback" not in consumer.log


async def test_a_port_that_is_taken_is_named_in_one_line(place):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        with place.consumer("--serve", f"127.0.0.1:{port}") as consumer:
            assert await consumer.ended() == 1
            assert f"consumer: port {port} on 127.0.0.1 is taken" in consumer.log
            assert "Traceback" not in consumer.log
