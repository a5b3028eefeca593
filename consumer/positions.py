# SPDX-License-Identifier: Apache-2.0
"""Where a consumer begins in its partitions: what is committed, and how old records may be."""

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from consumer.membership import Membership
from consumer.record import Partition


@dataclass(frozen=True, slots=True)
class Position:
    """Where a partition is read from, and what is known of it as it becomes ours."""

    offset: int  # the committed one, or that of the first record
    metadata: str
    log_start: int
    log_end: int
    is_committed: bool = True


Positions = Mapping[Partition, Position]


async def find_positions(
    client: Any, membership: Membership, partitions: Collection[Any], *, latest_s: float | None
) -> dict[Partition, Position]:
    """Where each of these partitions of the client is read from, as the group has it now.

    Where nothing is committed it is read from its first record.  With *latest_s* it is read from
    its end then, and never from records that are older than so many seconds.

    Raises:
        aiokafka.errors.KafkaError: a broker does not say.
    """
    pairs = [(one.topic, one.partition) for one in partitions]
    committed = await membership.committed(pairs)
    log_starts = await client.beginning_offsets(partitions)
    log_ends = await client.end_offsets(partitions)
    firsts = log_starts if latest_s is None else log_ends
    recent = await _recent_offsets(client, log_ends, latest_s)
    positions = {}
    for pair, partition in zip(pairs, partitions, strict=True):
        offset, metadata = committed.get(pair, (firsts[partition], ""))
        positions[pair] = Position(
            max(offset, recent[partition]),
            metadata,
            log_starts[partition],
            log_ends[partition],
            is_committed=pair in committed,
        )
    return positions


async def _recent_offsets(
    client: Any, log_ends: Mapping[Any, int], latest_s: float | None
) -> dict[Any, int]:
    """Where the records begin that are young enough; 0 where all are."""
    if latest_s is None:
        return dict.fromkeys(log_ends, 0)
    since_ms = int((time.time() - latest_s) * 1000)
    found = await client.offsets_for_times(dict.fromkeys(log_ends, since_ms))
    return {one: at.offset if (at := found.get(one)) else log_ends[one] for one in log_ends}
