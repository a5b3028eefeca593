# SPDX-License-Identifier: Apache-2.0
"""The whole service between a real Kafka and the table of alerts."""

import asyncio
import itertools
import json
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
from aiokafka import AIOKafkaConsumer

from schemas import wire
from schemas.catalogue import RECORDS
from schemas.clickhouse import DATABASE
from tests.consumer.alerts.scenes import SYN, batch, many
from tests.consumer.engine import Engine
from tests.consumer.process import DEADLINE_S, Consumer, create_topics, publish, publish_payloads
from tests.schemas.batches import plain_texts

pytestmark = pytest.mark.services

TOPIC = "hookline.alert.v1"
FLOWS = "hookline.flow.v1"
numbers = itertools.count(1)


class Place:
    """One test's service, and its victim."""

    def __init__(self, kafka: str, directory: Path) -> None:
        number = next(numbers)
        self.kafka = kafka
        self.directory = directory
        self.victim = f"192.0.2.{number}"
        self.node = f"alerted-{number}"
        self._seqs = itertools.count()

    def service(self, *flags: str) -> Consumer:
        return Consumer(
            self.directory,
            *(
                "--kafka",
                self.kafka,
                "--group",
                f"group-of-{self.node}",
                "--node",
                self.node,
                "--group-instance",
                "a",
            ),
            *("--folder", str(self.directory / "alert"), *flags),
            name="alert",
            module="consumer.alerts",
        )

    def flood(self, *, count: int = 2000, ago_s: float = 0.5, seq: int | None = None) -> wire.Batch:
        return batch(
            rows=count,
            node=self.node,
            seq=next(self._seqs) if seq is None else seq,
            begin_s=int(time.time() - ago_s),
            src_addr=many(np.arange(count), "10.0.0.0"),
            dst_addr=self.victim,
            dst_port=443,
            tcp_flags=SYN,
        )

    async def alerts(self, status: str = "firing") -> list[dict[str, object]]:
        """Every change of alerts of our victim that is in Kafka."""
        found = []
        for one in await batches(self.kafka):
            if one.node != self.node:
                continue
            columns = one.columns
            found += [
                {"labels": json.loads(labels), "summary": summary.decode(), "time": int(at)}
                for labels, summary, at, of in zip(
                    plain_texts(columns["labels"]),
                    plain_texts(columns["summary"]),
                    columns["time"],
                    columns["status"],
                    strict=True,
                )
                if of == {"firing": 1, "resolved": 2}[status]
            ]
        return found


async def batches(kafka: str) -> list[wire.Batch]:
    reader = AIOKafkaConsumer(TOPIC, bootstrap_servers=kafka, auto_offset_reset="earliest")
    await reader.start()
    try:
        ends = await reader.end_offsets(reader.assignment())
        found = []
        while any([await reader.position(one) < end for one, end in ends.items()]):
            for some in (await reader.getmany(timeout_ms=100)).values():
                found += [wire.decode(one.value) for one in some]
    finally:
        await reader.stop()
    return found


@pytest_asyncio.fixture
async def place(kafka: str, tmp_path: Path) -> Place:
    await create_topics(kafka, [record.topic for record in RECORDS], partitions=1)
    return Place(kafka, tmp_path)


async def until_ready(service: Consumer) -> None:
    await service.until(lambda: "alert ready: " in service.log)


async def until_fired(service: Consumer, count: int = 1) -> None:
    await service.until(lambda: service.metric("alert_changes_total") >= count)


async def test_a_flood_is_an_alert_in_kafka_and_a_row_in_the_table(place):
    with place.service() as service:
        await until_ready(service)
        await publish(place.kafka, place.flood())
        await until_fired(service)
        assert await service.terminate() == 0, service.log

    [alert] = await place.alerts()
    assert alert["labels"]["destination"] == place.victim
    assert "SYN flood" in alert["summary"]
    stored = [one for one in await batches(place.kafka) if one.node == place.node]
    with Engine(place.directory / "db") as engine:
        engine.migrate()
        engine.store(*stored)
        rows = engine.rows(
            "SELECT detector, severity, status, JSONExtractString(labels, 'port'), resolved = 0"
            f" FROM {DATABASE}.alerts"
        )
    assert [tuple(row) for row in rows] == [("syn_flood", "critical", "firing", "443", 1)]


async def test_what_was_published_before_the_first_start_is_not_looked_at(place):
    await publish(place.kafka, place.flood())
    with place.service() as service:
        await until_ready(service)
        await asyncio.sleep(0.3)

        assert service.metric("alert_records_total") == 0


async def test_what_is_older_than_catch_up_after_a_pause_is_not_looked_at(place):
    with place.service() as service:
        await until_ready(service)
        await publish(place.kafka, place.flood(count=10))
        await service.until(lambda: service.metric("alert_records_total", topic=FLOWS) == 1)
        assert await service.terminate() == 0
    await publish(place.kafka, place.flood())
    await asyncio.sleep(1.1)
    with place.service("--catch-up", "1") as service:
        await until_ready(service)
        await publish(place.kafka, place.flood(count=20))
        await service.until(lambda: service.metric("alert_records_total", topic=FLOWS) >= 1)

        assert service.metric("alert_rows_total", topic=FLOWS) == 20


async def test_a_batch_that_an_agent_sends_again_is_looked_at_once(place):
    flood = place.flood(count=300)
    with place.service() as service:
        await until_ready(service)
        await publish(place.kafka, flood, flood)
        await service.until(lambda: service.metric("alert_repeated_batches_total") == 1)

        assert service.metric("alert_changes_total") == 0


async def test_a_record_that_cannot_be_decoded_is_counted_and_passed_over(place):
    with place.service() as service:
        await until_ready(service)
        await publish_payloads(place.kafka, (FLOWS, place.node, b"\xc1"))
        await publish(place.kafka, place.flood())
        await until_fired(service)

        assert service.metric("alert_rejected_records_total", topic=FLOWS) == 1


async def test_a_node_is_silent_until_it_is_heard_again(place, tmp_path):
    (tmp_path / "hookline.toml").write_text("[alert.agent_silent]\nseconds = 1\nintervals = 1\n")

    def books(seq):
        return batch("ledger", node=place.node, seq=seq, begin_s=time.time(), end=1.0, hook=3)

    with place.service("--config", str(tmp_path / "hookline.toml")) as service:
        await until_ready(service)
        await publish(place.kafka, books(0))
        await service.until(lambda: service.metric("alert_changes_total", status="firing") >= 1)
        async with asyncio.timeout(DEADLINE_S):
            for seq in itertools.count(1):
                if service.metric("alert_changes_total", status="resolved"):
                    break
                await publish(place.kafka, books(seq))
                await asyncio.sleep(0.3)
        assert await service.terminate() == 0

    labels = [one["labels"] for one in await place.alerts()]
    assert labels[0] == {"node": place.node}


async def test_a_service_that_was_killed_goes_on_where_it_was_and_resolves_what_is_over(place):
    with place.service() as service:
        await until_ready(service)
        await publish(place.kafka, place.flood())
        await until_fired(service)
        await asyncio.sleep(1.2)  # until it commits
        service.process.send_signal(signal.SIGKILL)
    await publish(place.kafka, place.flood())
    with place.service("--refresh", "1") as service:
        await until_ready(service)
        await service.until(lambda: service.metric("alert_records_total", topic=FLOWS) == 1)
        assert await service.terminate() == 0

    assert len({str(one["labels"]) for one in await place.alerts()}) == 1
