# SPDX-License-Identifier: Apache-2.0
"""Wait until the consumer has stored all that Kafka holds."""

import asyncio
import time

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError as ClientError

from hookline.kafka import Kafka
from schemas.catalogue import RECORDS

GROUP = "hookline-up"
_POLL_SECONDS = 0.1


async def until_stored(kafka: Kafka, timeout_seconds: float) -> bool:
    """Whether the consumer has committed everything before the timeout."""
    deadline = time.monotonic() + timeout_seconds
    try:
        reader = AIOKafkaConsumer(bootstrap_servers=kafka.bootstrap)
        admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
        try:
            await reader.start()
            await admin.start()
            while time.monotonic() < deadline:
                if await _lag(reader, admin) == 0:
                    return True
                await asyncio.sleep(_POLL_SECONDS)
        finally:
            await reader.stop()
            await admin.close()
    except ClientError:
        return False
    return False


async def _lag(reader: AIOKafkaConsumer, admin: AIOKafkaAdminClient) -> int:
    """How many records the consumer has not committed yet."""
    topics = await admin.describe_topics([record.topic for record in RECORDS])
    partitions = [
        TopicPartition(topic["topic"], partition["partition"])
        for topic in topics
        for partition in topic["partitions"]
    ]
    committed = await admin.list_consumer_group_offsets(GROUP)
    ends = await reader.end_offsets(partitions)
    return sum(
        ends[one] - max(committed[one].offset if one in committed else 0, 0) for one in partitions
    )
