# SPDX-License-Identifier: Apache-2.0
"""Who takes part: each can be killed, frozen and started again, whatever becomes of the others."""

import asyncio
import os
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from pathlib import Path

from hookline.kafka import Kafka
from tests.consumer.clickhouse_server import Server
from tests.consumer.process import Consumer
from tests.lab.agents import Agent, remove_pins
from tests.lab.links import End, Link

ROOT = Path(__file__).parents[2]
INTERVAL_S = 0.5
_POLL_S = 0.02
_START_DEADLINE_S = 60.0


class Actor(ABC):
    """A process that a play may end at any moment."""

    name: str

    @property
    @abstractmethod
    def pid(self) -> int:
        """Of the process that runs now."""

    @abstractmethod
    async def start(self) -> None:
        """Start it; return as soon as it may be ended again."""

    @abstractmethod
    async def ended(self) -> None:
        """Return once it has ended, which somebody has told it."""

    @abstractmethod
    async def until_it_works(self) -> None:
        """Return once it does what it is for; raise if it has ended."""

    async def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        await self.ended()

    async def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)
        await self.ended()

    async def freeze(self, seconds: float) -> None:
        os.kill(self.pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            os.kill(self.pid, signal.SIGCONT)


class Observing(Actor):
    """An agent on the near end of a link."""

    def __init__(self, name: str, kafka: str, link: Link, *flags: str) -> None:
        self.name = name
        self.link = link
        self._kafka = kafka
        self.is_at_xdp = "xdp" in flags
        self._flags = flags
        self._agent: Agent | None = None
        self.said: list[str] = []

    @property
    def pid(self) -> int:
        return self._running().pid

    @property
    def node(self) -> str:
        return self._running().name

    async def start(self) -> None:
        self._agent = Agent(
            *("--interface", self.link.near.name, "--interval", str(INTERVAL_S)),
            *("--on-stop", "keep", *self._flags),
            kafka=self._kafka,
            name=self._agent.name if self._agent else "",
        )

    async def ended(self) -> None:
        running = self._running()
        await asyncio.to_thread(running.wait)
        self.said += running.lines

    async def until_it_works(self) -> None:
        await asyncio.to_thread(self._running().until_ready)

    async def kill_loader(self) -> None:
        """Kill the child that loads programs, as soon as there is one; the agent ends by that."""
        running = self._running()
        async with asyncio.timeout(_START_DEADLINE_S):
            while running.is_running:
                children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text()
                if children:
                    os.kill(int(children.split()[0]), signal.SIGKILL)
                    break
                await asyncio.sleep(_POLL_S)
        await self.ended()

    async def leave(self) -> None:
        """End it, and take everything of it out of the kernel."""
        if self._agent and self._agent.is_running:
            os.kill(self.pid, signal.SIGCONT)
            await self.kill()
        if self._agent:
            remove_pins(self._agent)

    def _running(self) -> Agent:
        assert self._agent is not None
        return self._agent


class Storing(Actor):
    """A consumer."""

    def __init__(self, name: str, directory: Path, *flags: str) -> None:
        self.name = name
        self._directory = directory
        self._flags = flags
        self._consumer: Consumer | None = None

    @property
    def pid(self) -> int:
        return self._running().process.pid

    @property
    def log(self) -> str:
        return self._running().log

    async def start(self) -> None:
        self._consumer = Consumer(
            self._directory, *self._flags, "--group-instance", self.name, name=self.name
        )

    async def ended(self) -> None:
        await asyncio.to_thread(self._running().process.wait)

    async def until_it_works(self) -> None:
        await self._running().until(lambda: "consumer ready: " in self.log, _START_DEADLINE_S)

    async def leave(self) -> None:
        if self._consumer:
            self._consumer.kill()

    def _running(self) -> Consumer:
        assert self._consumer is not None
        return self._consumer


class Brokering(Actor):
    """One broker."""

    def __init__(self, name: str, kafka: Kafka) -> None:
        self.name = name
        self._kafka = kafka

    @property
    def pid(self) -> int:
        return self._kafka.pid

    async def start(self) -> None:
        await self._kafka.start()

    async def ended(self) -> None:
        await self._kafka.stop()

    async def until_it_works(self) -> None:
        """It does, as soon as it is started."""


class Database(Actor):
    """The ClickHouse."""

    name = "database"

    def __init__(self, server: Server) -> None:
        self.server = server

    @property
    def pid(self) -> int:
        return self.server.pid

    async def start(self) -> None:
        await asyncio.to_thread(self.server.start)

    async def ended(self) -> None:
        await asyncio.to_thread(self.server.kill)

    async def until_it_works(self) -> None:
        """It does, as soon as it is started."""


class Talker:
    """Datagrams from one end of a link to the other; what it has sent is known to the byte."""

    def __init__(self, seed: str, end: End, to: End, packets_per_s: int) -> None:
        self.end, self.to = end, to
        self._process = subprocess.Popen(
            end.namespace.command(
                *(sys.executable, "-m", "tests.chaos.traffic"),
                *(seed, to.ipv4, str(packets_per_s)),
            ),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def stop(self) -> dict[tuple[int, int], tuple[int, int]]:
        """Packets and payload bytes by source and destination port."""
        told, _ = self._process.communicate(timeout=30)
        assert self._process.returncode == 0
        lines = (map(int, line.split()) for line in told.splitlines())
        return {(source, to): (packets, in_bytes) for source, to, packets, in_bytes in lines}

    def leave(self) -> None:
        self._process.kill()
        self._process.wait()
