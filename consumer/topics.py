# SPDX-License-Identifier: Apache-2.0
"""Create the topics that a consumer reads, so that who starts first need not wait for the other."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, TopicAlreadyExistsError
from aiokafka.errors import for_code as error_for_code

from service.broker import BrokerUnavailable, one_line

log = logging.getLogger(__name__)


async def create_topics(connection: Mapping[str, Any], names: Sequence[str]) -> None:
    """Create the topics that are missing, as the broker's own defaults say.

    Where we may not, somebody else has to: the consumer waits for them either way.

    Raises:
        BrokerUnavailable: no broker answers, or none lets us in.
    """
    refused = await refused_topics(connection, [new_topic(name) for name in sorted(set(names))])
    for name, reason in refused.items():
        log.warning("topic not created", extra={"topic": name, "reason": reason})


async def refused_topics(
    connection: Mapping[str, Any], topics: Sequence[NewTopic]
) -> dict[str, str]:
    """Create those that are missing; which of them the broker did not create, and why.

    Raises:
        BrokerUnavailable: no broker answers, or none lets us in.
    """
    admin = AIOKafkaAdminClient(**connection)
    try:
        await admin.start()
        there = set(await admin.list_topics())
        answer = await admin.create_topics([one for one in topics if one.name not in there])
    except KafkaError as error:
        raise BrokerUnavailable(one_line(error)) from None
    finally:
        await admin.close()
    return {
        name: str(reason or code)
        for name, code, reason in answer.topic_errors
        if code and error_for_code(code) is not TopicAlreadyExistsError
    }


def new_topic(
    name: str, *, partitions: int = -1, configs: Mapping[str, str] | None = None
) -> NewTopic:
    """A topic of as many replicas, and by default partitions, as the broker has by default."""
    # -1 is the broker's default; the client takes it only beside an explicit lack of replicas.
    return NewTopic(
        name,
        num_partitions=partitions,
        replication_factor=-1,
        replica_assignments={},
        topic_configs=configs,
    )
