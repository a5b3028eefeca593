# SPDX-License-Identifier: Apache-2.0
"""What the source does when partitions move while it waits for records, and when it is thrown out.

The moment of a move cannot be hit at will with a real broker, so a stand-in for the client moves
them.
"""

import asyncio
from types import SimpleNamespace

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import IllegalStateError

from consumer.membership import NO_GENERATION
from consumer.positions import Position
from consumer.source import Source
from service.broker import BrokerError
from tests.consumer.process import FLOWS, committed, publish
from tests.schemas.batches import a_batch

FLOWS_0 = TopicPartition(FLOWS, 0)
DEADLINE_S = 30


class MovingClient:
    """A client whose partition is revoked and assigned again inside one call."""

    def __init__(self, committed, *, is_gone=False, opens_first=False):
        self.position = None
        self._committed = committed
        self._is_gone = is_gone
        self._opens_first = opens_first
        self.source = None

    async def getmany(self, timeout_ms):
        await self.source.revoked(frozenset([FLOWS_0]))
        self.source.assigned(frozenset([FLOWS_0]))
        if self._opens_first:
            await self.source.until_assigned()
        self.position = 23
        record = SimpleNamespace(
            topic=FLOWS_0.topic, partition=0, offset=22, timestamp=0, key=None, value=b"x"
        )
        return {FLOWS_0: [record]}

    async def beginning_offsets(self, partitions):
        return dict.fromkeys(partitions, 3)

    async def end_offsets(self, partitions):
        return dict.fromkeys(partitions, 30)

    def seek(self, partition, offset):
        if self._is_gone:
            raise IllegalStateError(partition)
        self.position = offset

    generation = 7
    has_ended = False

    def check(self):
        """Nothing is wrong."""

    async def committed(self, partitions):
        return dict.fromkeys(partitions, self._committed) if self._committed else {}


def a_source(connection, **changes):
    async def nothing(*_):
        pass

    return Source(
        connection,
        **{
            "group": "g",
            "group_instance": "",
            "topics": [],
            "on_revoked": nothing,
            "on_assigned": nothing,
            "on_lost": lambda topic, records: None,
            **changes,
        },
    )


async def source_of(client, **changes):
    source = a_source({}, **changes)
    source._consumer = source._membership = client
    client.source = source
    source.assigned(frozenset([FLOWS_0]))
    await source.until_assigned()
    return source


@pytest.mark.parametrize("opens_first", [True, False])
async def test_records_that_come_while_partitions_move_are_read_again(opens_first):
    client = MovingClient((20, ""), opens_first=opens_first)
    source = await source_of(client)

    fetched = await source.fetch(0.2)
    await source.until_assigned()

    assert fetched.by_partition == []
    assert fetched.assignment == source.assignment
    assert client.position == 20


async def test_without_a_commit_they_are_read_again_from_the_beginning():
    client = MovingClient(None)
    source = await source_of(client)

    await source.fetch(0.2)
    await source.until_assigned()

    assert client.position == 3


async def test_a_partition_that_has_gone_again_is_left_to_its_next_owner():
    client = MovingClient((20, ""), is_gone=True)
    source = await source_of(client)

    fetched = await source.fetch(0.2)

    assert fetched.by_partition == []


async def test_an_assignment_tells_what_is_committed_and_where_the_log_is():
    told = []

    async def tell(*assignment):
        told.append(assignment)

    await source_of(MovingClient((20, "a plan")), on_assigned=tell)
    await source_of(MovingClient(None), on_assigned=tell)

    assert told == [
        (0, {(FLOWS, 0): Position(20, "a plan", 3, 30)}),
        (0, {(FLOWS, 0): Position(3, "", 3, 30, is_committed=False)}),
    ]


@pytest.mark.services
async def test_a_consumer_that_was_thrown_out_commits_nothing_even_if_nobody_is_in_the_group(kafka):
    connection = {"bootstrap_servers": kafka}
    await publish(kafka, a_batch(node="thrown-out"))
    source = a_source(connection, group="thrown-out", topics=[FLOWS])
    await source.start()
    await source.until_assigned()
    assignment = source.assignment
    assert await source.commit({(FLOWS, 0): (1, "")}, assignment=assignment)

    # What the client does when a heartbeat is answered so, here with the group empty as well.
    coordinator = source._consumer._coordinator
    await coordinator._maybe_leave_group()
    assert source._membership.generation == NO_GENERATION
    assert not await source.commit({(FLOWS, 0): (0, "")}, assignment=assignment)

    assert await committed(kafka, "thrown-out") == 1
    # It comes back by itself, as a member of another generation.
    async with asyncio.timeout(DEADLINE_S):
        while source.assignment == assignment or not source._is_open.is_set():
            await source.fetch(0.1)
    assert not await source.commit({(FLOWS, 0): (0, "")}, assignment=assignment)
    assert await source.commit({(FLOWS, 0): (1, "x")}, assignment=source.assignment)
    await source.stop()


@pytest.mark.services
async def test_a_plan_too_large_for_the_broker_is_an_error_for_a_human(kafka):
    source = a_source({"bootstrap_servers": kafka}, group="too-large", topics=[FLOWS])
    await source.start()
    await source.until_assigned()

    with pytest.raises(BrokerError, match="kafka takes no commit: .*OffsetMetadataTooLarge"):
        await source.commit({(FLOWS, 0): (0, "x" * 5000)}, assignment=source.assignment)
    await source.stop()
