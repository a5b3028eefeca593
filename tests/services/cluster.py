# SPDX-License-Identifier: Apache-2.0
"""Three brokers that keep three copies of everything: one may die, and nothing is lost.

Each is broker and controller at once.  A record is acknowledged by two at least; two that are left
are a quorum and go on.  A test may kill any of them and start it again: `cluster` gives the next
test all three.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import pytest_asyncio
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError

from hookline.broker_files import LOOPBACK, as_properties, kafka_uuid
from hookline.kafka import Kafka, free_port

NODES = (1, 2, 3)
COPIES = 3
_DEADLINE_S = 60.0
_STOP_S = 1.0
_POLL_S = 0.1


@dataclass(slots=True)
class Cluster:
    """Its brokers by number."""

    directory: Path
    nodes: dict[int, Kafka] = field(default_factory=dict)

    @property
    def bootstrap(self) -> str:
        return ",".join(kafka.bootstrap for kafka in self.nodes.values())

    async def start(self) -> None:
        """Start all three, which wait for each other."""
        ports = {number: (free_port(), free_port()) for number in NODES}
        cluster_id = kafka_uuid()
        for number in NODES:
            directory = self.directory / str(number)
            _identify(directory / "data", number, cluster_id)
            settings = _settings(number, ports)
            self.nodes[number] = Kafka(directory, port=ports[number][0], settings=settings)
        await asyncio.gather(*(kafka.start() for kafka in self.nodes.values()))
        await self.until_whole()

    async def stop(self) -> None:
        # One that is alone waits for the others, to hand over to them.
        await asyncio.gather(*(kafka.stop(_STOP_S) for kafka in self.nodes.values()))

    async def kill(self, number: int) -> None:
        """End a broker as a power cut does; its disk stays."""
        os.kill(self.nodes[number].pid, signal.SIGKILL)
        await self.nodes[number].stop()

    async def restart(self, number: int) -> None:
        await self.nodes[number].start()

    async def create_topic(self, name: str, *, partitions: int = 1) -> None:
        admin = await self._admin()
        try:
            await admin.create_topics([NewTopic(name, partitions, COPIES)])
        finally:
            await admin.close()
        await self.leader(name)

    async def leader(self, topic: str, partition: int = 0) -> int:
        """Which broker leads a partition, as soon as whichever of those that answer knows."""
        async with asyncio.timeout(_DEADLINE_S):
            while True:
                for described in await self._partitions([topic]):
                    if described["partition"] == partition and described["leader"] in NODES:
                        return int(described["leader"])
                await asyncio.sleep(_POLL_S)

    async def mend(self) -> None:
        """Start what was killed, and return once it has caught up."""
        for number, kafka in self.nodes.items():
            if not kafka.is_running:
                await self.restart(number)
        await self.until_whole()

    async def until_whole(self) -> None:
        """Return once all three are there, and have a copy of everything."""
        async with asyncio.timeout(_DEADLINE_S):
            while not await self._is_whole():
                await asyncio.sleep(_POLL_S)

    async def _is_whole(self) -> bool:
        admin = await self._admin()
        try:
            described = await admin.describe_cluster()
            if len(described["brokers"]) < len(NODES):
                return False
            partitions = await self._partitions(await admin.list_topics())
            return all(len(one["isr"]) == COPIES for one in partitions)
        except KafkaError:
            return False
        finally:
            await admin.close()

    async def _partitions(self, topics: list[str]) -> list[dict]:
        admin = await self._admin()
        try:
            described = await admin.describe_topics(topics) if topics else []
            return [partition for topic in described for partition in topic["partitions"]]
        finally:
            await admin.close()

    async def _admin(self) -> AIOKafkaAdminClient:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        return admin


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def three_brokers(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    """The cluster that all tests of a run share; ask for `cluster`."""
    made = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        await made.start()
        yield made
    finally:
        await made.stop()


@pytest_asyncio.fixture(loop_scope="session")
async def cluster(three_brokers: Cluster) -> AsyncIterator[Cluster]:
    """Three brokers, whatever the test before has done to them."""
    await three_brokers.mend()
    return three_brokers


def _identify(data: Path, number: int, cluster_id: str) -> None:
    """Make a data folder that belongs to this node of this cluster."""
    data.mkdir(parents=True)
    identity = {
        "version": 1,
        "cluster.id": cluster_id,
        "node.id": number,
        "directory.id": kafka_uuid(),
    }
    (data / "meta.properties").write_text(as_properties(identity))


def _settings(number: int, ports: dict[int, tuple[int, int]]) -> dict[str, object]:
    broker, controller = ports[number]
    here = f"PLAINTEXT://{LOOPBACK}:{broker}"
    return {
        "node.id": number,
        "controller.quorum.voters": ",".join(
            f"{node}@{LOOPBACK}:{its}" for node, (_, its) in ports.items()
        ),
        "listeners": f"{here},CONTROLLER://{LOOPBACK}:{controller}",
        "advertised.listeners": here,
        "default.replication.factor": COPIES,
        "min.insync.replicas": COPIES - 1,
        "offsets.topic.replication.factor": COPIES,
        "transaction.state.log.replication.factor": COPIES,
        "transaction.state.log.min.isr": COPIES - 1,
        # Others do want to know that the controller is alive.
        "metadata.max.idle.interval.ms": 500,
    }
