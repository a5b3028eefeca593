# SPDX-License-Identifier: Apache-2.0
"""Read Kafka's topics without a group, write to them, and ask for their offsets.

This is the only module of the package that knows Kafka's client.  Who reads says from where to
where, so a reading ends although the topic grows; it holds one fetch in memory, however much
there is.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping, Sequence
from typing import Any, Self, TypeVar

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from consumer.record import Partition, Record
from schemas.payload import MAX_PAYLOAD_BYTES
from service.broker import Broker, BrokerError, BrokerUnavailable, one_line
from service.unpack import bound_client_library, payload_and_fault

# Somebody waits at a terminal for the answer.
_REQUEST_TIMEOUT_MS = 15_000
_SILENCE_S = 20.0
_FETCH_WAIT_MS = 100
_MAX_FETCH_BYTES = 16 << 20
_MAX_PARTITION_FETCH_BYTES = 4 << 20
_MAX_RECORDS = 500

T = TypeVar("T")


class Topics:
    """The topics of one cluster, from `__aenter__` to `__aexit__`.

    Every method raises `BrokerError` where the cluster does not answer, or does not let us.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._asker: Any = None
        self._admin: Any = None
        self._producer: Any = None

    async def __aenter__(self) -> Self:
        """Connect.

        Raises:
            BrokerUnavailable: no broker answers, or none lets us in.
            OSError: a certificate or key cannot be read.
        """
        connection = self._broker.connection()
        self._asker = AIOKafkaConsumer(**connection, request_timeout_ms=_REQUEST_TIMEOUT_MS)
        self._admin = AIOKafkaAdminClient(**connection, request_timeout_ms=_REQUEST_TIMEOUT_MS)
        try:
            await self._asker.start()
            await self._admin.start()
        except KafkaError as error:
            await self._close()
            raise BrokerUnavailable(one_line(error)) from None
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    async def _close(self) -> None:
        await self._asker.stop()
        await self._admin.close()
        if self._producer is not None:
            await self._producer.stop()

    async def partitions(self, topics: Iterable[str]) -> list[Partition]:
        """The partitions of those of *topics* that exist; asking creates none."""
        there = set(await _answer(self._admin.list_topics()))
        if not (wanted := sorted(there.intersection(topics))):
            return []
        described = await _answer(self._admin.describe_topics(wanted))
        return sorted(
            (topic["topic"], partition["partition"])
            for topic in described
            for partition in topic["partitions"]
        )

    async def spans(
        self, partitions: Sequence[Partition], *, since_ms: int = 0
    ) -> dict[Partition, range]:
        """The offsets of each partition that are there now, from the time *since_ms* on."""
        asked = [TopicPartition(*one) for one in partitions]
        ends = await _answer(self._asker.end_offsets(asked))
        if since_ms:
            times = dict.fromkeys(asked, since_ms)
            found = await _answer(self._asker.offsets_for_times(times))
            starts = {one: at.offset if at else ends[one] for one, at in found.items()}
        else:
            starts = await _answer(self._asker.beginning_offsets(asked))
        return {_plain(one): range(starts[one], ends[one]) for one in asked}

    async def committed(self, group: str) -> dict[Partition, int]:
        """The offsets that a consumer group has committed."""
        offsets = await _answer(self._admin.list_consumer_group_offsets(group))
        return {_plain(one): at.offset for one, at in offsets.items()}

    async def records(self, spans: Mapping[Partition, range]) -> AsyncIterator[list[Record]]:
        """The records in these offsets, in the order of each partition, some at a time.

        Raises:
            BrokerError: the cluster stopped answering, or what is stored is damaged.
        """
        left = {TopicPartition(*one): span.stop for one, span in spans.items() if span}
        if not left:
            return
        reader = AIOKafkaConsumer(
            **self._broker.connection(),
            request_timeout_ms=_REQUEST_TIMEOUT_MS,
            # Where Kafka has deleted the first of them meanwhile, go on with what there is.
            auto_offset_reset="earliest",
            fetch_max_wait_ms=_FETCH_WAIT_MS,
            fetch_max_bytes=_MAX_FETCH_BYTES,
            max_partition_fetch_bytes=_MAX_PARTITION_FETCH_BYTES,
        )
        try:
            await _answer(reader.start())
            reader.assign(list(left))
            for partition in left:
                reader.seek(partition, spans[_plain(partition)].start)
            async for some in _until_end(reader, left):
                yield some
        finally:
            await reader.stop()

    async def record_at(self, partition: Partition, offset: int) -> Record | None:
        """The record at that place, None where there is none any more."""
        if partition not in await self.partitions([partition[0]]):
            return None
        span = (await self.spans([partition]))[partition]
        if offset not in span:
            return None
        found = None
        async for some in self.records({partition: range(offset, offset + 1)}):
            found = next((one for one in some if one.offset == offset), found)
        return found

    async def send(
        self, topic: str, payload: bytes, *, key: bytes | None, partition: int | None = None
    ) -> Awaitable[Any]:
        """Send a record after those before; what is returned ends once all replicas have it.

        Its result has the partition and offset; await it by `acknowledged`.
        """
        if self._producer is None:
            await self._start_producer()
        sent: Awaitable[Any] = await _answer(
            self._producer.send(topic, payload, key, partition=partition)
        )
        return sent

    async def _start_producer(self) -> None:
        producer = AIOKafkaProducer(
            **self._broker.connection(),
            request_timeout_ms=_REQUEST_TIMEOUT_MS,
            acks="all",
            enable_idempotence=True,
            # As an agent sends it: a broker's limit is about what is compressed.
            compression_type="zstd",
            max_request_size=MAX_PAYLOAD_BYTES,
        )
        self._producer = producer
        await _answer(producer.start())


async def acknowledged(sent: Sequence[Awaitable[Any]]) -> list[tuple[int, int]]:
    """Partition and offset of records that were sent, once all of them are stored.

    Raises:
        BrokerError: one of them is not.
    """
    stored = await _answer(asyncio.gather(*sent))
    return [(one.partition, one.offset) for one in stored]


async def _until_end(reader: Any, left: dict[Any, int]) -> AsyncIterator[list[Record]]:
    while left:
        try:
            async with asyncio.timeout(_SILENCE_S):
                some = await _some(reader, left)
        except TimeoutError:
            raise BrokerError(f"kafka has not answered for {_SILENCE_S:g} s") from None
        yield some


async def _some(reader: Any, left: dict[Any, int]) -> list[Record]:
    """What comes next; partitions whose end has been reached leave *left*."""
    fetched: dict[Any, Any] = {}
    while not fetched and left:
        bound_client_library().renew()
        fetched = await _answer(
            reader.getmany(*left, timeout_ms=_FETCH_WAIT_MS, max_records=_MAX_RECORDS)
        )
        stops = dict(left)
        for partition, stop in stops.items():
            # Not the last record tells: behind it there may be offsets without any.
            if await reader.position(partition) >= stop:
                del left[partition]
                reader.pause(partition)
    return [
        Record(
            *(one.topic, one.partition, one.offset, one.timestamp, one.key),
            *payload_and_fault(one.value),
        )
        for partition, some in fetched.items()
        for one in some
        if one.offset < stops[partition]
    ]


async def _answer(asked: Awaitable[T]) -> T:
    try:
        return await asked
    except KafkaError as error:
        raise BrokerError(one_line(error)) from None


def _plain(partition: Any) -> Partition:
    return partition.topic, partition.partition
