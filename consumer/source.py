# SPDX-License-Identifier: Apache-2.0
"""Fetch records from Kafka as a member of the consumer group, and commit what becomes of them.

Each assignment of partitions has a number.  It changes when partitions are revoked, after the
listener had its chance to insert and commit what it holds; what was fetched under an older
number is void, because whoever has the partitions now fetches it again.

An assignment begins with a look at what is committed, once we are a member of its generation: from
then on nobody else can commit, so what we read stays true.  Nothing is fetched before.

Brokers restart, and their tasks move; all of that is waited out here.  What a human has to settle,
such as a right that we lack, ends the process.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import (
    IllegalGenerationError,
    IllegalStateError,
    KafkaError,
    RebalanceInProgressError,
    UnknownMemberIdError,
)

from consumer.kafka_errors import lasts
from consumer.membership import NO_GENERATION, Mark, Membership, NoMember
from consumer.patience import Patience
from consumer.positions import Positions, find_positions
from consumer.record import Partition, Record
from service.broker import BrokerError, BrokerUnavailable, one_line
from service.unpack import Unreadable, bound_client_library, payload_and_fault

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

# How often we look whether the group has told us our partitions.
OPEN_POLL_S = 0.2

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
        self._source.assigned(frozenset(assigned))


class Source:
    """A group member that reads *topics*; commits happen by hand.

    *on_revoked* runs while the old assignment still holds and must not outlast
    `REBALANCE_TIMEOUT_MS`; *on_assigned* gets the number of the assignment and its partitions;
    *on_lost* a topic and how many of its records Kafka deleted before we read them.

    With *latest_s* it begins at the end where nothing is committed, and never with records that are
    older than so many seconds.
    """

    def __init__(
        self,
        connection: Mapping[str, Any],
        *,
        group: str,
        group_instance: str,
        topics: Sequence[str],
        on_revoked: Callable[[], Awaitable[None]],
        on_assigned: Callable[[int, Positions], Awaitable[None]],
        on_lost: Callable[[str, int], None],
        latest_s: float | None = None,
    ) -> None:
        self._connection = connection
        self._group = group
        self._group_instance = group_instance
        self._topics = topics
        self._on_revoked = on_revoked
        self._on_assigned = on_assigned
        self._on_lost = on_lost
        self._latest_s = latest_s
        self._next_offsets: dict[Any, int] = {}
        self._allowance = bound_client_library()
        self._consumer: Any = None
        self._membership: Any = None
        self._generation = NO_GENERATION
        self._opening: asyncio.Task[None] | None = None
        self._is_open = asyncio.Event()
        self.assignment = 0

    async def start(self) -> None:
        """Connect and join the group.

        Raises:
            BrokerUnavailable: no broker answers, or none lets us in.
        """
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
        self._membership = Membership(self._consumer)
        self._consumer.subscribe(self._topics, listener=_Listener(self))

    async def until_assigned(self) -> None:
        """Return once the group has told us which partitions are ours, if only none.

        Raises:
            BrokerError: we may not be a member, or not know what is committed.
        """
        while not self._is_open.is_set():
            await self._wait_until_open(OPEN_POLL_S)

    async def fetch(self, wait_s: float) -> Fetched:
        """What has arrived, after at most *wait_s* seconds; often nothing.

        Raises:
            BrokerError: we may not read, or what is stored is damaged.
        """
        if not self._is_open.is_set():
            await self._wait_until_open(wait_s)
            return Fetched(self.assignment, [])
        assignment = self.assignment
        self._allowance.renew()
        try:
            fetched = await self._consumer.getmany(timeout_ms=max(1, int(wait_s * 1000)))
        except KafkaError as error:
            self._raise_if_it_lasts("gives no records", error)
            await Patience("records awaited").rest(one_line(error))
            return Fetched(assignment, [])
        if assignment != self.assignment:
            self._rewind(fetched)
            return Fetched(self.assignment, [])
        for partition, some in fetched.items():
            self._advance(partition, some)
        return Fetched(assignment, [_records(some) for some in fetched.values()])

    async def _wait_until_open(self, wait_s: float) -> None:
        """Wait for the group, and for the look at what is committed, for *wait_s* seconds."""
        try:
            self._membership.check()
        except KafkaError as error:
            self._raise_if_it_lasts("lets us not into the group", error)
        if self._opening and self._opening.done() and not self._opening.cancelled():
            self._opening.result()
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._is_open.wait()

    def _raise_if_it_lasts(self, what: str, error: KafkaError) -> None:
        if lasts(error) or self._membership.has_ended:
            raise BrokerError(f"kafka {what}: {one_line(error)}") from None

    def _rewind(self, partitions: Iterable[Any]) -> None:
        """Read these partitions again from where the assignment begins.

        They moved, perhaps to us again, while we waited.  What came may be of either assignment;
        the client believes it delivered, so without this we would pass over it.
        """
        for partition in partitions:
            if partition in self._next_offsets:
                # Gone again meanwhile: then its next owner begins there.
                with suppress(IllegalStateError):
                    self._consumer.seek(partition, self._next_offsets[partition])

    def _advance(self, partition: Any, fetched: Sequence[Any]) -> None:
        # Our producers use no transactions, so an offset without a record is a record lost.
        first = _first_offset(fetched[0])
        expected = self._next_offsets.get(partition, first)
        place = {
            "topic": partition.topic,
            "partition": partition.partition,
            "offset": expected,
        }
        if (lost := first - expected) > 0:
            self._on_lost(partition.topic, lost)
            log.error(
                "records lost: kafka deleted them before they were read",
                extra={**place, "records": lost},
            )
        elif lost < 0:
            log.warning(
                "offsets begin again: the topic was made anew, or its end was lost",
                extra={**place, "now": first},
            )
        self._next_offsets[partition] = fetched[-1].offset + 1

    async def commit(self, marks: Mapping[Partition, Mark], *, assignment: int) -> bool:
        """Commit offsets with their metadata; False where the partitions are not ours any more.

        Raises:
            BrokerError: we may not commit.
        """
        patience = Patience("commit retried")
        while assignment == self.assignment:
            try:
                await self._membership.commit(marks, self._generation)
            except (
                NoMember,
                UnknownMemberIdError,
                IllegalGenerationError,
                RebalanceInProgressError,
            ):
                return False
            except KafkaError as error:
                self._raise_if_it_lasts("takes no commit", error)
                reason = one_line(error)
            else:
                return True
            await patience.rest(reason)
        return False

    def pause(self, partition: Partition) -> None:
        """Fetch nothing of a partition while this assignment lasts."""
        self._consumer.pause(TopicPartition(*partition))

    def lag(self) -> dict[Partition, int]:
        """Records that wait in Kafka, by partition, as far as the last fetch has told."""
        return {
            (partition.topic, partition.partition): max(0, end - self._next_offsets[partition])
            for partition in self._consumer.assignment()
            if partition in self._next_offsets
            and (end := self._consumer.highwater(partition)) is not None
        }

    async def answers(self, wait_s: float) -> bool:
        """Whether the brokers of our partitions answer within *wait_s* seconds."""
        try:
            async with asyncio.timeout(wait_s):
                await self._consumer.end_offsets(self._consumer.assignment())
        except (TimeoutError, KafkaError):
            return False
        return True

    async def revoked(self, partitions: frozenset[Any]) -> None:
        if self._opening:
            self._opening.cancel()
        if partitions:
            await self._on_revoked()
        self.assignment += 1
        self._generation = NO_GENERATION
        self._is_open.clear()
        self._next_offsets.clear()

    def assigned(self, partitions: frozenset[Any]) -> None:
        self._generation = self._membership.generation
        log.info("partitions assigned", extra={"partitions": len(partitions)})
        # The client sends no heartbeat while it waits for its listener, and this may take long.
        self._opening = asyncio.create_task(self._open(self.assignment, partitions))

    async def _open(self, assignment: int, partitions: frozenset[Any]) -> None:
        """Find out where to begin, then let records come."""
        positions = await self._positions_of(partitions)
        # A rebalance cancels us, but may have begun within the last step.
        if assignment != self.assignment:
            return
        self._next_offsets = {
            TopicPartition(*partition): position.offset for partition, position in positions.items()
        }
        # A fetch that began before may have had records of this assignment already.
        self._rewind(partitions)
        await self._on_assigned(assignment, positions)
        self._is_open.set()

    async def _positions_of(self, partitions: frozenset[Any]) -> Positions:
        patience = Patience("committed offsets awaited")
        while True:
            try:
                return await find_positions(
                    self._consumer, self._membership, partitions, latest_s=self._latest_s
                )
            except KafkaError as error:
                self._raise_if_it_lasts("does not tell what is committed", error)
                reason = one_line(error)
            await patience.rest(reason)

    async def stop(self) -> None:
        """Leave the group."""
        if self._opening:
            self._opening.cancel()
        await self._consumer.stop()


def _first_offset(one: Any) -> int:
    """Where a record begins; one that stands for a batch has the last offset of that."""
    return int(one.value.first_offset if isinstance(one.value, Unreadable) else one.offset)


def _records(fetched: Iterable[Any]) -> list[Record]:
    return [
        Record(
            one.topic,
            one.partition,
            one.offset,
            one.timestamp,
            one.key,
            *payload_and_fault(one.value),
        )
        for one in fetched
    ]
