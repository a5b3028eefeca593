# SPDX-License-Identifier: Apache-2.0
"""The embedded broker keeps what it took, stays on loopback and goes when its parent goes."""

import asyncio
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from hookline.broker_files import Retention
from hookline.kafka import Kafka, KafkaError, answers, claimed, free_port, telling_line

pytestmark = pytest.mark.services

TOPIC = "hookline.flow.v1"
DEADLINE_S = 30.0

STARTS_A_BROKER_AND_WAITS = """
import asyncio, sys
from pathlib import Path
from hookline.kafka import Kafka

async def main():
    kafka = Kafka(Path(sys.argv[1]))
    await kafka.start()
    print(kafka.pid, flush=True)
    await kafka.wait()

asyncio.run(main())
"""


async def produce(bootstrap: str, values: list[bytes], topic: str = TOPIC) -> None:
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap,
        enable_idempotence=True,
        acks="all",
        compression_type="zstd",
        max_request_size=16 << 20,
    )
    await producer.start()
    try:
        for value in values:
            await producer.send_and_wait(topic, value, key=b"node-1")
    finally:
        await producer.stop()


async def consume(bootstrap: str, count: int, topic: str = TOPIC) -> list[bytes]:
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, max_partition_fetch_bytes=16 << 20)
    await consumer.start()
    try:
        consumer.assign([TopicPartition(topic, 0)])
        await consumer.seek_to_beginning()
        async with asyncio.timeout(DEADLINE_S):
            return [(await consumer.getone()).value for _ in range(count)]
    finally:
        await consumer.stop()


async def partitions_of(bootstrap: str, topic: str) -> set[int]:
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=bootstrap)
    await consumer.start()
    try:
        return consumer.partitions_for_topic(topic)
    finally:
        await consumer.stop()


async def broker_settings(bootstrap: str) -> dict[str, str]:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        answer = await admin.describe_configs([ConfigResource(ConfigResourceType.BROKER, "1")])
    finally:
        await admin.close()
    return {setting[0]: setting[1] for setting in answer[0].resources[0][4]}


def listening_addresses(pid: int) -> set[str]:
    sockets = subprocess.run(["ss", "-ltnpH"], check=True, capture_output=True, text=True).stdout
    return {
        line.split()[3].rpartition(":")[0] for line in sockets.splitlines() if f"pid={pid}," in line
    }


def ends_within(pid: int, seconds: float) -> bool:
    process = os.pidfd_open(pid)
    try:
        return bool(select.select([process], [], [], seconds)[0])
    finally:
        os.close(process)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def asked(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Kafka]:
    """A broker that keeps what it was asked to keep, in as many partitions as it was asked for."""
    retention = Retention(hours=2, partition_bytes=64 << 20)
    directory = tmp_path_factory.mktemp("asked")
    async with Kafka(directory, partitions=3, retention=retention) as kafka:
        yield kafka


async def test_records_are_found_again_after_a_restart(tmp_path):
    async with Kafka(tmp_path) as kafka:
        await produce(kafka.bootstrap, [b"batch 1", b"batch 2"])
    # Once stopped it answers no more.
    assert not await answers(kafka.port)

    async with Kafka(tmp_path) as kafka:
        await produce(kafka.bootstrap, [b"batch 3"])

        assert await consume(kafka.bootstrap, 3) == [b"batch 1", b"batch 2", b"batch 3"]


async def test_acknowledged_records_survive_a_killed_broker(tmp_path):
    async with Kafka(tmp_path) as kafka:
        await produce(kafka.bootstrap, [b"batch 1", b"batch 2"])
        os.kill(kafka.pid, signal.SIGKILL)
        assert (await kafka.wait()).startswith("kafka exited with -9")

    async with Kafka(tmp_path) as kafka:
        assert await consume(kafka.bootstrap, 2) == [b"batch 1", b"batch 2"]


async def test_a_record_of_fifteen_mebibytes_passes(kafka):
    value = os.urandom(15 << 20)

    await produce(kafka, [value], topic="large")

    assert await consume(kafka, 1, topic="large") == [value]


async def test_topics_get_as_many_partitions_as_asked_for_when_first_used(asked):
    await produce(asked.bootstrap, [b"batch 1"])

    assert await partitions_of(asked.bootstrap, TOPIC) == {0, 1, 2}


async def test_listens_on_loopback_only(asked):
    addresses = listening_addresses(asked.pid)

    assert addresses
    assert addresses <= {"127.0.0.1", "[::ffff:127.0.0.1]"}


def test_the_broker_ends_when_its_parent_is_killed(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", STARTS_A_BROKER_AND_WAITS, tmp_path],
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        broker = int(parent.stdout.readline())
        parent.kill()

        assert ends_within(broker, DEADLINE_S)


async def test_a_broker_that_does_not_end_in_time_is_killed_and_answers_no_more(tmp_path):
    kafka = Kafka(tmp_path)
    await kafka.start()
    broker = kafka.pid
    assert await answers(kafka.port)
    os.kill(broker, signal.SIGSTOP)

    await kafka.stop(deadline_s=0.1)

    assert not Path(f"/proc/{broker}").exists()
    assert not await answers(kafka.port)


async def test_a_start_that_is_cancelled_leaves_no_broker(tmp_path):
    kafka = Kafka(tmp_path)

    with pytest.raises(KafkaError, match=r"^kafka did not answer on 127.0.0.1:\d+ within 0.1 s: "):
        await kafka.start(deadline_s=0.1)

    with pytest.raises(KafkaError, match="^kafka is not running$"):
        _ = kafka.pid


async def test_a_taken_port_is_refused_by_its_number(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]

        with pytest.raises(
            KafkaError,
            match=rf"^cannot listen on 127.0.0.1:{port} \(Address already in use\): choose another port$",
        ):
            await Kafka(tmp_path, port=port).start()


async def test_a_port_is_taken_before_its_broker_listens(tmp_path):
    port = free_port()
    with (
        claimed(port),
        pytest.raises(
            KafkaError, match=rf"^cannot listen on 127.0.0.1:{port} \(Address already in"
        ),
    ):
        await Kafka(tmp_path, port=port).start()


async def test_a_directory_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(KafkaError, match=rf"^cannot write {tmp_path}/file: File exists$"):
        await Kafka(tmp_path / "file").start()


async def test_a_broker_that_exits_at_start_is_quoted(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "meta.properties").write_text("version=1\nnode.id=7\ncluster.id=x\n")

    with pytest.raises(KafkaError, match="^kafka exited with 1: .*node.id"):
        await Kafka(tmp_path).start()


async def test_two_brokers_do_not_share_a_directory(asked):
    with pytest.raises(KafkaError, match=f"^another broker is running in {asked.directory}$"):
        await Kafka(asked.directory).start()

    assert await answers(asked.port)


async def test_the_broker_keeps_records_as_long_as_asked(asked):
    settings = await broker_settings(asked.bootstrap)

    assert settings["log.retention.hours"] == "2"
    assert settings["log.retention.bytes"] == str(64 << 20)


def test_the_innermost_cause_is_what_a_person_reads():
    log = (
        "2026-01-01T00:00:00 SEVERE Exiting Kafka due to fatal exception\n"
        "org.apache.kafka.common.KafkaException: Failed to start\n"
        "\tat kafka.Kafka$.main(Kafka.scala:76)\n"
        "Caused by: java.net.BindException: Address already in use\n"
        "\t... 6 more\n"
    )

    assert telling_line(log) == "Address already in use"


def test_a_log_without_an_exception_is_quoted_by_its_last_line():
    assert telling_line("starting\nUnrecognized VM option 'UseMagicGC'\n\n") == (
        "Unrecognized VM option 'UseMagicGC'"
    )
