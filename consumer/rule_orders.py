# SPDX-License-Identifier: Apache-2.0
"""Send signed rules to every agent: records of the compacted topic `hookline.rules`."""

import asyncio
from collections.abc import Mapping
from typing import Self

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from consumer.topics import new_topic, refused_topics
from schemas.rules.signed import TOPIC
from service.broker import Broker, BrokerUnavailable, one_line

# One, so that agents read rules in the order in which they were sent.
_PARTITIONS = 1
_SEND_SECONDS = 10.0
_MAX_RECORD_BYTES = 4 << 20  # two lists of 100,000 networks
_TOPIC_CONFIGS = {"cleanup.policy": "compact", "max.message.bytes": str(_MAX_RECORD_BYTES)}


class RuleOrders:
    """Sends orders that are signed already; comes in at Kafka with the first of them."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._producer: AIOKafkaProducer | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Let go of Kafka."""
        if self._producer is not None:
            await self._producer.stop()
            self._producer = None

    async def send(self, values: Mapping[str, bytes]) -> None:
        """Send one record for each rule, by its name; all are in Kafka when this returns.

        Raises:
            BrokerUnavailable: some may not be, or the topic cannot be made.
        """
        await self.start()
        assert self._producer is not None  # noqa: S101 - it has just been made
        try:
            async with asyncio.timeout(_SEND_SECONDS):
                sent = [
                    await self._producer.send(TOPIC, value, key=name.encode())
                    for name, value in values.items()
                ]
                for one in sent:
                    await one
        except TimeoutError:
            raise BrokerUnavailable(f"no answer within {_SEND_SECONDS:g} s") from None
        except KafkaError as error:
            await self.stop()
            raise BrokerUnavailable(one_line(error)) from None

    async def start(self) -> None:
        """Come in at Kafka before there is anything to send.

        Raises:
            BrokerUnavailable: nobody lets us in, or the topic cannot be made.
        """
        if self._producer is None:
            await self._ensure_topic()
            self._producer = await self._started()

    async def _started(self) -> AIOKafkaProducer:
        producer = AIOKafkaProducer(
            **self._broker.connection(),
            acks="all",
            enable_idempotence=True,
            compression_type="zstd",
            max_request_size=_MAX_RECORD_BYTES,
        )
        try:
            await producer.start()
        except KafkaError as error:
            await producer.stop()
            raise BrokerUnavailable(one_line(error)) from None
        return producer

    async def _ensure_topic(self) -> None:
        topic = new_topic(TOPIC, partitions=_PARTITIONS, configs=_TOPIC_CONFIGS)
        refused = await refused_topics(self._broker.connection(), [topic])
        if refused:
            raise BrokerUnavailable(f"topic {TOPIC} cannot be created: {refused[TOPIC]}")
