# SPDX-License-Identifier: Apache-2.0
"""Publish batches to Kafka, in order and each until it is acknowledged.

The one module that imports aiokafka's producer.  Batches stay where they wait (agent/outbox.py)
until Kafka has acknowledged them; here are only those on their way.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from agent.segments import Entry, Name
from schemas.catalogue import RECORD_OF_KIND
from service.broker import Broker, BrokerUnavailable, one_line
from service.logs import quiet_kafka_client
from service.options import host_and_port
from service.reach import reach

log = logging.getLogger(__name__)

# Larger than any batch (see agent/batch.py), so that each can be sent at once.
_MAX_REQUEST_BYTES = 16 << 20
_RETRY_SECONDS = (0.1, 0.2, 0.5, 1, 2, 5)
# How many of the oldest batches are under way together.  Idempotence keeps their order.
_IN_FLIGHT = 8
# A producer may have got into a state that it does not leave, so another one is tried.
_FAILURES_OF_ONE_PRODUCER = 3
_LET_GO_SECONDS = 1.0


class Waiting(Protocol):
    """Where batches wait."""

    def peek(self, most: int) -> list[Entry]: ...
    def acknowledge(self, count: int) -> None: ...


class Publisher:
    """Sends what waits in each of *sources*.  Start it, tell it of more, and stop it."""

    def __init__(
        self,
        broker: Broker,
        sources: Sequence[Waiting],
        on_retry: Callable[[Name], None] = lambda _: None,
    ) -> None:
        self._broker = broker
        self._sources = sources
        self._on_retry = on_retry
        self._added = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._producer: AIOKafkaProducer | None = None
        self.published_batches_total = 0
        self.published_rows_total = 0
        self.published_bytes_total = 0
        self.retried_batches_total = 0

    def start(self) -> None:
        self._added.set()
        self._task = asyncio.create_task(self._run())

    def raise_if_failed(self) -> None:
        """Pass on what ended the publishing, which retries all that may pass."""
        if self._task is not None and self._task.done():
            self._task.result()

    def more_waits(self) -> None:
        """Send what has been added."""
        self._added.set()

    @property
    def brokers(self) -> tuple[tuple[str, int], ...]:
        """Host and port of every broker: of those to start from, and of those they have named."""
        first = [host_and_port(one.strip(), "kafka") for one in self._broker.addresses.split(",")]
        named = self._producer.client.cluster.brokers() if self._producer else ()
        return (*first, *((one.host, one.port) for one in named))

    @property
    def is_idle(self) -> bool:
        """Whether everything that waited has been acknowledged."""
        return not any(source.peek(1) for source in self._sources)

    async def stop(self, timeout: float) -> bool:  # noqa: ASYNC109 - the caller's own deadline
        """Publish what waits, for *timeout* seconds at most; whether nothing is left."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        task = self._task
        if task is None:
            return self.is_idle
        while not self.is_idle and not task.done() and loop.time() < deadline:
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return self.is_idle

    async def _run(self) -> None:
        while True:
            quiet_kafka_client(quiet=True)
            self._producer = producer = await self._connect()
            quiet_kafka_client(quiet=False)
            try:
                await self._publish(producer)
            finally:
                await _let_go(producer)

    async def _connect(self) -> AIOKafkaProducer:
        """A producer, once a broker lets us in; until then everything waits."""
        told = ""
        for attempt in range(1 << 62):
            try:
                producer = await self._let_in()
            except BrokerUnavailable as error:
                # Once a reason: what is mended step by step is seen step by step.
                if told != (told := str(error)):
                    log.warning(
                        "kafka is not reachable, retrying; rows are kept",
                        extra={"brokers": self._broker.addresses, "reason": told},
                    )
            else:
                if attempt:
                    log.info("kafka is reachable", extra={"brokers": self._broker.addresses})
                return producer
            await asyncio.sleep(_RETRY_SECONDS[min(attempt, len(_RETRY_SECONDS) - 1)])
        raise AssertionError  # unreachable: it retries for ever

    async def _let_in(self) -> AIOKafkaProducer:
        """A producer that has reached a broker.

        Raises:
            BrokerUnavailable: no broker answers, or none lets us in.
        """
        await reach(self._broker)
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
            raise BrokerUnavailable(one_line(error)) from None
        return producer

    async def _publish(self, producer: AIOKafkaProducer) -> None:
        """Publish until this producer has failed too often in a row."""
        failures = 0
        while failures < _FAILURES_OF_ONE_PRODUCER:
            await self._added.wait()
            self._added.clear()
            while failures < _FAILURES_OF_ONE_PRODUCER and not self.is_idle:
                failures = 0 if await self._publish_some(producer) else failures + 1
                if failures:
                    await asyncio.sleep(_RETRY_SECONDS[failures])
        self._added.set()

    async def _publish_some(self, producer: AIOKafkaProducer) -> bool:
        """Send the oldest of each source; whether all of them were acknowledged."""
        sent = await asyncio.gather(
            *(self._send(producer, source, source.peek(_IN_FLIGHT)) for source in self._sources)
        )
        return all(sent)

    async def _send(
        self, producer: AIOKafkaProducer, source: Waiting, entries: Sequence[Entry]
    ) -> bool:
        """Send *entries* in order, and forget those that were acknowledged before one failed."""
        futures = []
        for entry in entries:
            topic = RECORD_OF_KIND[entry.name.kind].topic
            try:
                sent = await producer.send(topic, entry.payload, key=entry.name.node.encode())
            except KafkaError as error:
                log.warning("batch not sent, retrying", extra={"reason": one_line(error)})
                break
            futures.append(sent)
        results = await asyncio.gather(*futures, return_exceptions=True)
        acknowledged = next(
            (at for at, result in enumerate(results) if isinstance(result, BaseException)),
            len(results),
        )
        self._forget(source, entries[:acknowledged])
        if acknowledged == len(entries):
            return True
        if acknowledged < len(results):
            self._say_why(results[acknowledged])
        for entry in entries[acknowledged:]:
            self.retried_batches_total += 1
            self._on_retry(entry.name)
        return False

    def _say_why(self, failure: object) -> None:
        if not isinstance(failure, KafkaError):
            raise failure  # type: ignore[misc]  # it is an exception
        log.warning("batch not acknowledged, retrying", extra={"reason": one_line(failure)})

    def _forget(self, source: Waiting, entries: Sequence[Entry]) -> None:
        source.acknowledge(len(entries))
        for entry in entries:
            self.published_batches_total += 1
            self.published_rows_total += entry.name.rows
            self.published_bytes_total += len(entry.payload)


async def _let_go(producer: AIOKafkaProducer) -> None:
    """Close a producer, which would wait for what it has under way, perhaps for ever."""
    with suppress(TimeoutError, KafkaError):
        async with asyncio.timeout(_LET_GO_SECONDS):
            await producer.stop()
