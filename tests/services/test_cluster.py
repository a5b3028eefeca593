# SPDX-License-Identifier: Apache-2.0
"""The agent's publisher rides out the death of the broker that it writes to."""

import asyncio

import pytest

from agent.config import Config
from schemas.flow import FLOW
from schemas.packet import PACKET
from tests.lab.published import read_topic
from tests.lab.waiting import wait_until
from tests.schemas.batches import a_batch
from tests.services.publishing import publishing

pytestmark = [pytest.mark.services, pytest.mark.asyncio(loop_scope="session")]

DEADLINE_S = 60.0
# For longer than the cluster takes to give a dead broker's partitions to another.
BATCHES = 300
PAUSE_S = 0.01


def broker_of(cluster):
    return Config(kafka=cluster.bootstrap).broker("hookline-agent-test")


async def until_published(agent, count):
    await asyncio.to_thread(
        wait_until, lambda: agent.published_batches >= count, f"{count} batches", DEADLINE_S
    )


async def test_the_death_of_the_leader_costs_no_batch_and_repeats_none(cluster):
    await cluster.create_topic(FLOW.topic)
    leader = await cluster.leader(FLOW.topic)
    async with publishing(broker_of(cluster)) as agent:
        dying = None
        for seq in range(BATCHES):
            agent.add(a_batch(node="node-1", seq=seq))
            if agent.published_batches and dying is None:
                dying = asyncio.create_task(cluster.kill(leader))
            await asyncio.sleep(PAUSE_S)
        await dying
        await until_published(agent, BATCHES)

    assert await cluster.leader(FLOW.topic) != leader
    assert await seqs(cluster, FLOW.topic) == list(range(BATCHES))


async def test_a_broker_that_comes_back_fetches_what_it_missed(cluster):
    await cluster.create_topic(PACKET.topic)
    leader = await cluster.leader(PACKET.topic)
    await cluster.kill(leader)
    async with publishing(broker_of(cluster)) as agent:
        agent.add(a_batch("packet", node="node-1", seq=0))
        await until_published(agent, 1)

    await cluster.restart(leader)
    await cluster.until_whole()
    await cluster.kill(await cluster.leader(PACKET.topic))

    assert await seqs(cluster, PACKET.topic) == [0]


async def seqs(cluster, topic):
    """The numbers of all batches that a topic holds, in its order."""
    return [batch.seq for batch in await read_topic(cluster.bootstrap, topic, "node-1")]
