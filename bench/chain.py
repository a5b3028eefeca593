# SPDX-License-Identifier: Apache-2.0
"""All of it as it runs for real: agent at a virtual link, Kafka, consumer, ClickHouse in it.

ClickHouse is asked as anybody asks it while the consumer runs: over its HTTP interface.
"""

import http.client
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from bench.link import Link
from bench.processes import agent, agent_name, consumer, cpu_ns
from hookline.kafka import free_port

PROCESSES = ("agent", "broker", "consumer")
_TIMEOUT_S = 30.0

Seconds = dict[str, float]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Chain:
    """What runs, by process id, and the history at its end."""

    link: Link
    agent_name: str
    pids: dict[str, int]
    history: http.client.HTTPConnection

    def ask(self, sql: str) -> list[str]:
        """The lines of a result, as tab-separated text."""
        self.history.request("POST", "/", sql)
        answer = self.history.getresponse()
        text = answer.read().decode()
        assert answer.status == http.client.OK, text
        return text.splitlines()

    def number(self, sql: str) -> int:
        return int(self.ask(sql)[0])

    def used(self, work: Callable[[], T]) -> tuple[T, Seconds]:
        """What *work* returns, and the CPU seconds of each process meanwhile."""
        before = {name: cpu_ns(pid) for name, pid in self.pids.items()}
        found = work()
        used = {name: (cpu_ns(pid) - before[name]) / 1e9 for name, pid in self.pids.items()}
        return found, used


@contextmanager
def chain(
    one: Link,
    kafka: str,
    kafka_pid: int,
    directory: Path,
    *,
    of_agent: tuple[str, ...] = (),
    of_consumer: tuple[str, ...] = (),
) -> Iterator[Chain]:
    """A chain over the broker *kafka*, in an empty *directory*."""
    port = free_port()
    spool = ("--spool", str(directory / "spool"), "--on-stop", "detach")
    group = ("--group", str(directory))
    with (
        consumer(kafka, directory, "--serve", f"127.0.0.1:{port}", *group, *of_consumer) as storing,
        agent(one.name, kafka, *spool, *of_agent) as observing,
    ):
        history = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)
        pids = dict(zip(PROCESSES, (observing, kafka_pid, storing), strict=True))
        yield Chain(one, agent_name(), pids, history)
        history.close()
