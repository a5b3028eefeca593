# SPDX-License-Identifier: Apache-2.0
"""Our membership in the consumer group: which generation we are of, and what we commit as it.

The client's own `commit()` sends whatever generation it has at the moment.  That may be a later
one than that in which partitions became ours; and once it was thrown out it is none, which a
broker takes for a commit from outside if the group is empty.  A commit has to fail then, because
the partition may have had another owner.  So this module, and no other, reaches behind the
client's public face, into its coordinator; that also gives the metadata of what is committed, over
the connection on which we joined.
"""

from collections.abc import Collection, Mapping
from typing import Any

from aiokafka import TopicPartition
from aiokafka.structs import OffsetAndMetadata

from consumer.record import Partition

Mark = tuple[int, str]  # an offset and its metadata

NO_GENERATION = -1


class NoMember(Exception):  # noqa: N818  # it says what we are
    """We are no member of that generation any more."""


class Membership:
    """What the coordinator of a started *client* knows, and does for us."""

    def __init__(self, client: Any) -> None:
        self._coordinator = client._coordinator  # noqa: SLF001  # the module says why

    @property
    def generation(self) -> int:
        """The generation we are a member of; NO_GENERATION while we are not."""
        return int(self._coordinator.generation)

    def check(self) -> None:
        """Raises: aiokafka.errors.KafkaError, what keeps us from being a member."""
        self._coordinator.check_errors()

    @property
    def has_ended(self) -> bool:
        """Whether the coordinator has given up for good."""
        return bool(self._coordinator._coordination_task.done())  # noqa: SLF001

    async def commit(self, marks: Mapping[Partition, Mark], generation: int) -> None:
        """Try once to commit as a member of *generation*.

        Raises:
            NoMember: that generation is over, or we are out of it.
            aiokafka.errors.KafkaError: the broker says something else.
        """
        await self._coordinator.ensure_coordinator_known()
        if generation == NO_GENERATION or generation != self.generation:
            raise NoMember
        # Up to its first await this call writes the request, so the generation is still the same.
        await self._coordinator._do_commit_offsets(  # noqa: SLF001
            None,
            {
                TopicPartition(*partition): OffsetAndMetadata(*mark)
                for partition, mark in marks.items()
            },
        )

    async def committed(self, partitions: Collection[Partition]) -> dict[Partition, Mark]:
        """What is committed for these partitions; those without are left out.

        Raises:
            aiokafka.errors.KafkaError: we may not know it.
        """
        found = await self._coordinator.fetch_committed_offsets(
            [TopicPartition(*partition) for partition in partitions]
        )
        return {
            (partition.topic, partition.partition): (one.offset, one.metadata or "")
            for partition, one in found.items()
        }
