# SPDX-License-Identifier: Apache-2.0
"""A consumer as its own process, as it runs in the field, and the records it reads."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import msgpack
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete

from schemas import wire
from schemas.dead_letter import TOPIC as DEAD_LETTERS

ROOT = Path(__file__).parents[2]
DEADLINE_S = 30.0
# A look has the consumer write its page of metrics, or is a client of Kafka of its own.
POLL_S = 0.1
FLOWS = "hookline.flow.v1"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Consumer:
    """`python -m consumer`, or another *module* that is one, which ends with the test."""

    def __init__(
        self,
        directory: Path,
        *flags: str,
        name: str = "consumer",
        module: str = "consumer",
        environment: Mapping[str, str] | None = None,
        run_by: Sequence[str] = (),
    ) -> None:
        """*run_by* is a command that runs the consumer in its own place."""
        self.metrics_port = free_port()
        self._log = directory / f"{name}.{time.monotonic_ns()}.log"
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *(*run_by, sys.executable, "-m", module),
                    *("--metrics-listen", f"127.0.0.1:{self.metrics_port}"),
                    *flags,
                ],
                cwd=ROOT,
                env={**os.environ, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def log(self) -> str:
        return self._log.read_text()

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric over everything that has these labels; 0 before it is served."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics") as page:
                text = page.read().decode()
        except OSError:
            return 0.0
        return sum(
            float(value)
            for found, value in re.findall(rf"^{name}(\{{.*?\}}|) (\S+)$", text, re.MULTILINE)
            if all(f'{key}="{label}"' in found for key, label in labels.items())
        )

    async def until(self, is_so: Callable[[], bool], deadline_s: float = DEADLINE_S) -> None:
        """Return once *is_so*; fail when the process ends first, or after the deadline."""
        deadline = time.monotonic() + deadline_s
        while not await asyncio.to_thread(is_so):
            assert self.process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            await asyncio.sleep(POLL_S)

    async def until_ready(self) -> None:
        await self.until(lambda: "consumer ready: " in self.log)

    async def until_inserted(self, rows: int, **labels: str) -> None:
        await self.until(lambda: self.metric("consumer_inserted_rows_total", **labels) >= rows)

    async def ended(self, deadline_s: float = DEADLINE_S) -> int:
        """The exit code, once it has one."""
        return await asyncio.to_thread(self.process.wait, deadline_s)

    async def terminate(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return await self.ended()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@asynccontextmanager
async def producer(kafka: str) -> AsyncIterator[AIOKafkaProducer]:
    one = AIOKafkaProducer(
        bootstrap_servers=kafka, compression_type="zstd", max_request_size=8 << 20
    )
    await one.start()
    try:
        yield one
    finally:
        await one.stop()


async def publish(kafka: str, *batches: wire.Batch) -> None:
    """Publish batches as an agent does: each in the topic of its kind, keyed by its node."""
    await publish_payloads(
        kafka, *((one.record.topic, one.node, wire.encode(one)) for one in batches)
    )


async def publish_payloads(kafka: str, *records: tuple[str, str, bytes | None]) -> None:
    """Publish payloads as they are; each record is its topic, key and value."""
    async with producer(kafka) as one:
        for topic, key, payload in records:
            await one.send_and_wait(topic, payload, key.encode())


async def dead_letters(kafka: str, *, key: str | None) -> list[dict[str, Any]]:
    """Every dead letter of records with *key*, in their order."""
    wanted = None if key is None else key.encode()
    return [letter for letter in await _all_dead_letters(kafka) if letter["key"] == wanted]


async def _all_dead_letters(kafka: str) -> list[dict[str, Any]]:
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka, auto_offset_reset="earliest")
    await consumer.start()
    try:
        partition = TopicPartition(DEAD_LETTERS, 0)
        consumer.assign([partition])
        end = (await consumer.end_offsets([partition]))[partition]
        letters: list[dict[str, Any]] = []
        while await consumer.position(partition) < end:
            letters.append(msgpack.unpackb((await consumer.getone()).value))
    finally:
        await consumer.stop()
    return letters


async def committed(kafka: str, group: str, topic: str = FLOWS) -> int | None:
    """The sum of the offsets that *group* has committed in *topic*, or None."""
    found = [
        offset
        for partition, offset in (await _committed(kafka, group)).items()
        if partition.topic == topic
    ]
    return sum(found) if found else None


async def has_read_everything(kafka: str, group: str, topics: Sequence[str]) -> bool:
    """Whether *group* has committed the end of every partition of *topics* that holds records."""
    done = await _committed(kafka, group)
    return all(
        begin == end or done.get(partition, 0) == end
        for partition, (begin, end) in (await held(kafka, topics)).items()
    )


async def held(kafka: str, topics: Sequence[str]) -> dict[TopicPartition, tuple[int, int]]:
    """The first offset that each partition of *topics* holds, and the next that it will."""
    reader = AIOKafkaConsumer(*topics, bootstrap_servers=kafka)
    await reader.start()
    try:
        begins = await reader.beginning_offsets(reader.assignment())
        ends = await reader.end_offsets(reader.assignment())
    finally:
        await reader.stop()
    return {partition: (begins[partition], end) for partition, end in ends.items()}


async def _committed(kafka: str, group: str) -> dict[TopicPartition, int]:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        offsets = await admin.list_consumer_group_offsets(group)
    finally:
        await admin.close()
    return {partition: one.offset for partition, one in offsets.items()}


async def create_topics(kafka: str, topics: Sequence[str], *, partitions: int) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(name, partitions, 1) for name in topics])
    finally:
        await admin.close()


async def delete_everything(kafka: str, *topics: str) -> None:
    """Delete the records of *topics*, as their retention would."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        await admin.delete_records(
            {
                partition: RecordsToDelete(before_offset=end)
                for partition, (begin, end) in (await held(kafka, topics)).items()
                if begin < end
            }
        )
    finally:
        await admin.close()


def ask(port: int, query: str) -> str:
    """The answer to a query over ClickHouse's HTTP interface on loopback."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/", data=query.encode())
    with urllib.request.urlopen(request) as answer:  # noqa: S310
        return str(answer.read().decode())
