# SPDX-License-Identifier: Apache-2.0
"""Fetch records from Kafka as a member of the consumer group, and commit what was inserted.

Each assignment of partitions has a number.  It changes when partitions are revoked, after the
listener had its chance to insert and commit what it holds; what was fetched under an older
number is void, because whoever has the partitions now fetches it again.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import (
    CommitFailedError,
    IllegalStateError,
    KafkaError,
    TopicAlreadyExistsError,
)
from aiokafka.errors import for_code as error_for_code

from consumer.record import Partition, Record
from consumer.unpack import Allowance, Unreadable, bound_client_library
from service.broker import BrokerError, BrokerUnavailable, one_line

# Large enough that one fetch feeds one insert, small enough to hold several in memory.
MAX_PARTITION_FETCH_BYTES = 8 << 20
MAX_FETCH_BYTES = 32 << 20
FETCH_WAIT_MS = 100
# How soon a topic that somebody else creates is noticed.
METADATA_MAX_AGE_MS = 5_000
SESSION_TIMEOUT_MS = 10_000
HEARTBEAT_INTERVAL_MS = 2_000
# How long the group waits for a member to insert and commit before its partitions move.
REBALANCE_TIMEOUT_MS = 30_000
# Nothing is fetched while ClickHouse is away.  Nobody else could insert either, so we keep our
# partitions for as long as an ordinary restart of a server takes.
MAX_POLL_INTERVAL_MS = 900_000

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Fetched:
    """Records in the order of each partition, and the assignment that they belong to."""

    assignment: int
    by_partition: Sequence[Sequence[Record]]


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    def __init__(self, source: "Source") -> None:
        self._source = source

    async def on_partitions_revoked(self, revoked: Iterable[Any]) -> None:
        await self._source.revoked(frozenset(revoked))

    async def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
        await self._source.assigned(frozenset(assigned))


class Source:
    """A group member that reads *topics*; commits happen by hand.

    *on_revoked* runs while the old assignment still holds and must not outlast
    `REBALANCE_TIMEOUT_MS`; *on_assigned* gets the number of partitions; *on_lost* a topic and
    how many of its records Kafka deleted before we read them.
    """

    def __init__(
        self,
        connection: Mapping[str, Any],
        *,
        group: str,
        group_instance: str,
        topics: Sequence[str],
        on_revoked: Callable[[], Awaitable[None]],
        on_assigned: Callable[[float], None],
        on_lost: Callable[[str, int], None],
    ) -> None:
        self._connection = connection
        self._group = group
        self._group_instance = group_instance
        self._topics = topics
        self._on_revoked = on_revoked
        self._on_assigned = on_assigned
        self._on_lost = on_lost
        self._next_offsets: dict[Any, int] = {}
        self._allowance = Allowance()
        self._consumer: Any = None
        self._assigned = asyncio.Event()
        self.assignment = 0

    async def start(self) -> None:
        """Connect and join the group.

        Raises:
            BrokerUnavailable: no broker answers, or none lets us in.
        """
        bound_client_library(self._allowance)
        self._consumer = AIOKafkaConsumer(
            **self._connection,
            group_id=self._group,
            group_instance_id=self._group_instance or None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=FETCH_WAIT_MS,
            fetch_max_bytes=MAX_FETCH_BYTES,
            max_partition_fetch_bytes=MAX_PARTITION_FETCH_BYTES,
            metadata_max_age_ms=METADATA_MAX_AGE_MS,
            session_timeout_ms=SESSION_TIMEOUT_MS,
            heartbeat_interval_ms=HEARTBEAT_INTERVAL_MS,
            rebalance_timeout_ms=REBALANCE_TIMEOUT_MS,
            max_poll_interval_ms=MAX_POLL_INTERVAL_MS,
        )
        try:
            await self._consumer.start()
        except KafkaError as error:
            await self._consumer.stop()
            raise BrokerUnavailable(one_line(error)) from None
        self._consumer.subscribe(self._topics, listener=_Listener(self))

    async def until_assigned(self) -> None:
        """Return once the group has told us which partitions are ours, if only none."""
        await self._assigned.wait()

    async def fetch(self, wait_s: float) -> Fetched:
        """What has arrived, after at most *wait_s* seconds; often nothing.

        Raises:
            BrokerError: we may not read, or what is stored is damaged.
        """
        assignment = self.assignment
        self._allowance.renew()
        try:
            fetched = await self._consumer.getmany(timeout_ms=max(1, int(wait_s * 1000)))
        except KafkaError as error:
            raise BrokerError(f"kafka gives no records: {one_line(error)}") from None
        if assignment != self.assignment:
            await self._rewind(fetched)
            return Fetched(self.assignment, [])
        for partition, some in fetched.items():
            self._advance(partition, some)
        return Fetched(assignment, [_records(some) for some in fetched.values()])

    async def _rewind(self, partitions: Iterable[Any]) -> None:
        """Read these partitions again from what is committed.

        They moved, perhaps to us again, while we waited.  What came may be of either assignment;
        the client believes it delivered, so without this the next commit would pass over it.
        """
        for partition in partitions:
            committed = await self._consumer.committed(partition)
            # Gone again meanwhile: then its next owner begins there.
            with suppress(IllegalStateError):
                if committed is None:
                    await self._consumer.seek_to_beginning(partition)
                else:
                    self._consumer.seek(partition, committed)

    def _advance(self, partition: Any, fetched: Sequence[Any]) -> None:
        # Our producers use no transactions, so an offset without a record is a record lost.
        first = _first_offset(fetched[0])
        expected = self._next_offsets.get(partition, first)
        if lost := first - expected:
            self._on_lost(partition.topic, lost)
            log.error(
                "records lost: kafka deleted them before they were read",
                extra={
                    "topic": partition.topic,
                    "partition": partition.partition,
                    "offset": expected,
                    "records": lost,
                },
            )
        self._next_offsets[partition] = fetched[-1].offset + 1

    async def commit(self, next_offsets: Mapping[Partition, int], *, assignment: int) -> bool:
        """Commit offsets; False where the partitions are no longer ours to commit.

        Raises:
            BrokerError: we may not commit.
        """
        if assignment != self.assignment:
            return False
        offsets = {TopicPartition(*partition): at for partition, at in next_offsets.items()}
        try:
            await self._consumer.commit(offsets)
        except (CommitFailedError, IllegalStateError):
            return False
        except KafkaError as error:
            raise BrokerError(f"kafka takes no commit: {one_line(error)}") from None
        return True

    def lag(self) -> dict[Partition, int]:
        """Records that wait in Kafka, by partition, as far as the last fetch has told."""
        return {
            (partition.topic, partition.partition): max(0, end - self._next_offsets[partition])
            for partition in self._consumer.assignment()
            if partition in self._next_offsets
            and (end := self._consumer.highwater(partition)) is not None
        }

    async def revoked(self, partitions: frozenset[Any]) -> None:
        if not partitions:
            return
        await self._on_revoked()
        self.assignment += 1
        self._next_offsets.clear()

    async def assigned(self, partitions: frozenset[Any]) -> None:
        for partition in partitions:
            if (committed := await self._consumer.committed(partition)) is not None:
                self._next_offsets[partition] = committed
        log.info("partitions assigned", extra={"partitions": len(partitions)})
        self._on_assigned(len(partitions))
        self._assigned.set()

    async def stop(self) -> None:
        """Leave the group."""
        await self._consumer.stop()


def _first_offset(one: Any) -> int:
    """Where a record begins; one that stands for a batch has the last offset of that."""
    return int(one.value.first_offset if isinstance(one.value, Unreadable) else one.offset)


def _records(fetched: Iterable[Any]) -> list[Record]:
    return [
        Record(one.topic, one.partition, one.offset, one.timestamp, one.key, *_content(one.value))
        for one in fetched
    ]


def _content(value: bytes | Unreadable | None) -> tuple[bytes | None, str]:
    """Payload and fault of a record."""
    return (value.shown, value.reason) if isinstance(value, Unreadable) else (value, "")


async def create_topics(connection: Mapping[str, Any], topics: Sequence[str]) -> None:
    """Create the topics that are missing, as the broker's own defaults say.

    Where we may not, somebody else has to: the consumer waits for them either way.

    Raises:
        BrokerUnavailable: no broker answers, or none lets us in.
    """
    admin = AIOKafkaAdminClient(**connection)
    try:
        await admin.start()
        missing = sorted(set(topics) - set(await admin.list_topics()))
        answer = await admin.create_topics([_new_topic(name) for name in missing])
    except KafkaError as error:
        raise BrokerUnavailable(one_line(error)) from None
    finally:
        await admin.close()
    for name, code, reason in answer.topic_errors:
        if code and error_for_code(code) is not TopicAlreadyExistsError:
            log.warning("topic not created", extra={"topic": name, "reason": reason or code})


def _new_topic(name: str) -> NewTopic:
    # -1 is the broker's default; the client takes it only beside an explicit lack of replicas.
    return NewTopic(name, num_partitions=-1, replication_factor=-1, replica_assignments={})
