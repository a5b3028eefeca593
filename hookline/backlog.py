# SPDX-License-Identifier: Apache-2.0
"""Wait until the consumer has stored all that Kafka holds."""

import asyncio
import time

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError as ClientError

from schemas.catalogue import RECORDS

GROUP = "hookline-up"
_POLL_SECONDS = 0.1


async def until_stored(bootstrap: str, timeout_seconds: float) -> bool:
    """Whether the consumer has committed all that is in Kafka now before the timeout."""
    deadline = time.monotonic() + timeout_seconds
    try:
        reader = AIOKafkaConsumer(bootstrap_servers=bootstrap)
        admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
        try:
            await reader.start()
            await admin.start()
            # What is published from here on is not what we wait for.
            ends = await _ends(reader, admin)
            while time.monotonic() < deadline:
                if await _lag(admin, ends) == 0:
                    return True
                await asyncio.sleep(_POLL_SECONDS)
        finally:
            await reader.stop()
            await admin.close()
    except ClientError:
        return False
    return False


async def _ends(reader: AIOKafkaConsumer, admin: AIOKafkaAdminClient) -> dict[TopicPartition, int]:
    topics = await admin.describe_topics([record.topic for record in RECORDS])
    partitions = [
        TopicPartition(topic["topic"], partition["partition"])
        for topic in topics
        for partition in topic["partitions"]
    ]
    ends: dict[TopicPartition, int] = await reader.end_offsets(partitions)
    return ends


async def _lag(admin: AIOKafkaAdminClient, ends: dict[TopicPartition, int]) -> int:
    """How many records before *ends* the consumer has not committed yet."""
    committed = await admin.list_consumer_group_offsets(GROUP)
    done = {one: committed[one].offset if one in committed else 0 for one in ends}
    return sum(max(end - max(done[one], 0), 0) for one, end in ends.items())
