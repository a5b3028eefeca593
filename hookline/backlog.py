# SPDX-License-Identifier: Apache-2.0
"""Wait until the consumer has stored all that Kafka holds."""

import asyncio
import time
from collections.abc import Mapping

from consumer.record import Partition
from hookline.topics import Topics
from schemas.catalogue import RECORDS
from service.broker import BrokerError, BrokerOptions, BrokerUnavailable

GROUP = "hookline-up"
_CLIENT_ID = "hookline-backlog"
_POLL_SECONDS = 0.1


async def until_stored(bootstrap: str, timeout_seconds: float) -> bool:
    """Whether the consumer has committed all that is in Kafka now before the timeout."""
    deadline = time.monotonic() + timeout_seconds
    try:
        async with Topics(BrokerOptions(kafka=bootstrap).broker(_CLIENT_ID)) as topics:
            # What is published from here on is not what we wait for.
            ends = await _ends(topics)
            while time.monotonic() < deadline:
                if _lag(await topics.committed(GROUP), ends) == 0:
                    return True
                await asyncio.sleep(_POLL_SECONDS)
    except (BrokerError, BrokerUnavailable):
        return False
    return False


async def _ends(topics: Topics) -> dict[Partition, int]:
    partitions = await topics.partitions(record.topic for record in RECORDS)
    return {one: span.stop for one, span in (await topics.spans(partitions)).items()}


def _lag(committed: Mapping[Partition, int], ends: Mapping[Partition, int]) -> int:
    """How many records before *ends* the consumer has not committed yet."""
    return sum(max(end - max(committed.get(one, 0), 0), 0) for one, end in ends.items())
