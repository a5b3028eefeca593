# SPDX-License-Identifier: Apache-2.0
"""What the source does when partitions move while it waits for records.

The moment cannot be hit at will with a real broker, so a stand-in for the client moves them.
"""

from types import SimpleNamespace

from aiokafka import TopicPartition
from aiokafka.errors import IllegalStateError

from consumer.source import Source

FLOWS_0 = TopicPartition("hookline.flow.v1", 0)


class MovingClient:
    """A client whose partition is revoked and assigned again inside one call."""

    def __init__(self, committed, *, is_gone=False):
        self.position = 23
        self._committed = committed
        self._is_gone = is_gone
        self.source = None

    async def getmany(self, timeout_ms):
        await self.source.revoked(frozenset([FLOWS_0]))
        await self.source.assigned(frozenset([FLOWS_0]))
        record = SimpleNamespace(
            topic=FLOWS_0.topic, partition=0, offset=22, timestamp=0, key=None, value=b"x"
        )
        return {FLOWS_0: [record]}

    async def committed(self, partition):
        return self._committed

    def seek(self, partition, offset):
        if self._is_gone:
            raise IllegalStateError(partition)
        self.position = offset

    async def seek_to_beginning(self, partition):
        self.position = 0


def source_of(client):
    async def nothing():
        pass

    source = Source(
        {},
        group="g",
        group_instance="",
        topics=[],
        on_revoked=nothing,
        on_assigned=lambda _: None,
        on_lost=lambda topic, records: None,
    )
    source._consumer = client
    client.source = source
    return source


async def test_records_that_come_while_partitions_move_are_read_again():
    client = MovingClient(committed=20)
    source = source_of(client)

    fetched = await source.fetch(0.2)

    assert fetched.by_partition == []
    assert fetched.assignment == source.assignment
    assert client.position == 20


async def test_without_a_commit_they_are_read_again_from_the_beginning():
    client = MovingClient(committed=None)

    await source_of(client).fetch(0.2)

    assert client.position == 0


async def test_a_partition_that_has_gone_again_is_left_to_its_next_owner():
    client = MovingClient(committed=20, is_gone=True)

    fetched = await source_of(client).fetch(0.2)

    assert fetched.by_partition == []
