# SPDX-License-Identifier: Apache-2.0
"""Publish batches to Kafka, in order and each until it is acknowledged.

The one module that imports aiokafka's producer.  Batches wait in a queue bounded in bytes.  When
it is full, `has_room` says so, and the pipeline leaves flows where they are: in the kernel, which
goes on counting them.  So an outage costs detail at most, and this process stays small.
"""

import asyncio
import logging
from collections import deque
from dataclasses import dataclass

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from schemas.catalogue import RECORD_OF_KIND
from schemas.wire import Batch, encode
from service.broker import Broker, one_line
from service.logs import quiet_kafka_client

log = logging.getLogger(__name__)

# Larger than any batch (see agent/batch.py), so that each can be sent at once.
_MAX_REQUEST_BYTES = 16 << 20
_RETRY_SECONDS = (0.1, 0.2, 0.5, 1, 2, 5)
# How many of the oldest batches are under way together.  Idempotence keeps their order.
_IN_FLIGHT = 8


@dataclass(frozen=True, slots=True)
class _Payload:
    topic: str
    value: bytes
    rows: int


class Publisher:
    """A queue of batches on their way to Kafka.  Start it, add, and stop it."""

    def __init__(self, broker: Broker, *, node: str, backlog_bytes: int) -> None:
        self._broker = broker
        self._key = node.encode()
        self._backlog_bytes = backlog_bytes
        self._waiting: deque[_Payload] = deque()
        self._waiting_bytes = 0
        self._added = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.published_batches_total = 0
        self.published_rows_total = 0
        self.published_bytes_total = 0
        self.retried_batches_total = 0

    @property
    def has_room(self) -> bool:
        """Whether more should be added; a batch is never refused."""
        return self._waiting_bytes < self._backlog_bytes

    @property
    def waiting_bytes(self) -> int:
        return self._waiting_bytes

    @property
    def waiting_rows(self) -> int:
        return sum(payload.rows for payload in self._waiting)

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    def raise_if_failed(self) -> None:
        """Pass on what ended the publishing, which retries all that may pass."""
        if self._task is not None and self._task.done():
            self._task.result()

    def add(self, batch: Batch) -> None:
        payload = _Payload(RECORD_OF_KIND[batch.kind].topic, encode(batch), batch.rows)
        self._waiting.append(payload)
        self._waiting_bytes += len(payload.value)
        self._added.set()

    async def stop(self, timeout: float) -> int:  # noqa: ASYNC109 - the caller's own deadline
        """Publish what waits, for *timeout* seconds at most; returns the rows left behind."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        task = self._task
        if task is None:
            return self.waiting_rows
        while self._waiting and not task.done() and loop.time() < deadline:
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return self.waiting_rows

    async def _run(self) -> None:
        quiet_kafka_client(quiet=True)
        producer = await self._connect()
        quiet_kafka_client(quiet=False)
        try:
            while True:
                await self._added.wait()
                await self._publish_waiting(producer)
        finally:
            await producer.stop()

    async def _connect(self) -> AIOKafkaProducer:
        """A producer, once a broker answers; until then everything waits."""
        for attempt in range(1 << 62):
            producer = AIOKafkaProducer(
                **self._broker.connection(),
                acks="all",
                enable_idempotence=True,
                compression_type="zstd",
                max_request_size=_MAX_REQUEST_BYTES,
                max_batch_size=_MAX_REQUEST_BYTES,
            )
            try:
                await producer.start()
            except (KafkaError, OSError) as error:
                await producer.stop()
                if attempt == 0:
                    log.warning(
                        "kafka is not reachable, retrying; flows are kept",
                        extra={"brokers": self._broker.addresses, "reason": one_line(error)},
                    )
            else:
                if attempt:
                    log.info("kafka is reachable", extra={"brokers": self._broker.addresses})
                return producer
            await asyncio.sleep(_RETRY_SECONDS[min(attempt, len(_RETRY_SECONDS) - 1)])
        raise AssertionError  # unreachable: it retries for ever

    async def _publish_waiting(self, producer: AIOKafkaProducer) -> None:
        self._added.clear()
        failures = 0
        while self._waiting:
            first = list(self._waiting)[:_IN_FLIGHT]
            acknowledged = await self._send(producer, first)
            for payload in first[:acknowledged]:
                self._forget(payload)
            if acknowledged == len(first):
                failures = 0
                continue
            self.retried_batches_total += len(first) - acknowledged
            await asyncio.sleep(_RETRY_SECONDS[min(failures, len(_RETRY_SECONDS) - 1)])
            failures += 1

    async def _send(self, producer: AIOKafkaProducer, payloads: list[_Payload]) -> int:
        """Send *payloads* in order; returns how many were acknowledged before the first failed."""
        futures = []
        for payload in payloads:
            try:
                sent = await producer.send(payload.topic, payload.value, key=self._key)
            except KafkaError as error:
                log.warning("batch not sent, retrying", extra={"reason": one_line(error)})
                break
            futures.append(sent)
        results = await asyncio.gather(*futures, return_exceptions=True)
        for count, result in enumerate(results):
            if isinstance(result, KafkaError):
                log.warning("batch not acknowledged, retrying", extra={"reason": one_line(result)})
                return count
            if isinstance(result, BaseException):
                raise result
        return len(results)

    def _forget(self, payload: _Payload) -> None:
        self._waiting.popleft()
        self._waiting_bytes -= len(payload.value)
        self.published_batches_total += 1
        self.published_rows_total += payload.rows
        self.published_bytes_total += len(payload.value)
