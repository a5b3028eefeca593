# SPDX-License-Identifier: Apache-2.0
"""Everything is killed and frozen at random moments, and the books balance to the byte.

    make chaos ARGS="--chaos-events 1000 --chaos-seed 4711"

Two agents observe a link each, by other hooks and other buffers, while datagrams of known size flow
both ways.  They publish to three brokers, from which two consumers store in one ClickHouse.
"""

import asyncio
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from schemas.catalogue import RECORDS
from schemas.dead_letter import TOPIC as DEAD_LETTERS
from tests.chaos.cast import INTERVAL_S, ROOT, Brokering, Database, Observing, Storing, Talker
from tests.chaos.play import Play
from tests.consumer.clickhouse_server import Server
from tests.lab.links import Counters, Link, link
from tests.services.cluster import Cluster

pytestmark = [pytest.mark.kernel, pytest.mark.services]

PARTITIONS = 4
PACKETS_PER_S = 1200
ETHERNET_BYTES = 14
UDP_OVERHEAD_BYTES = ETHERNET_BYTES + 20 + 8
SETTLE_S = 120.0
# Packets and bytes: by interface and direction; and by destination and both ports as well.
Sums = dict[tuple[str, str], tuple[int, int]]
FiveTuples = dict[tuple[str, str, str, int, int], tuple[int, int]]


@dataclass(slots=True)
class Stage:
    """Everybody."""

    kafka: str
    brokers: list[Brokering]
    database: Database
    agents: list[Observing]
    consumers: list[Storing]
    before: list[Counters] = field(default_factory=list)
    talkers: list[Talker] = field(default_factory=list)

    async def begin(self, seed: int) -> None:
        self.before = [agent.link.quiet() for agent in self.agents]
        for actor in (*self.agents, *self.consumers):
            await actor.start()
        for actor in (*self.agents, *self.consumers):
            await actor.until_it_works()
        for agent in self.agents:
            near, far = agent.link.near, agent.link.far
            self.talkers.append(Talker(f"{seed} out", near, far, PACKETS_PER_S))
            self.talkers.append(Talker(f"{seed} in", far, near, PACKETS_PER_S))

    def until_silence(self) -> tuple[FiveTuples, Sums]:
        """Stop all traffic: what was sent by five-tuple, and what the interfaces counted."""
        sent: FiveTuples = {}
        near = {agent.link.near.name for agent in self.agents}
        for talker in self.talkers:
            is_out = talker.end.name in near
            interface = talker.end.name if is_out else talker.to.name
            direction = "egress" if is_out else "ingress"
            for ports, (packets, payload_bytes) in talker.stop().items():
                in_bytes = payload_bytes + packets * UDP_OVERHEAD_BYTES
                sent[interface, direction, talker.to.ipv4, *ports] = packets, in_bytes
        counted = {}
        for agent, before in zip(self.agents, self.before, strict=True):
            grown = agent.link.quiet(0.5) - before
            packets, in_bytes = grown.ingress
            if agent.is_at_xdp:
                # The driver of a veth leaves the Ethernet header out, once XDP runs there.
                in_bytes += ETHERNET_BYTES * packets
            counted[agent.link.near.name, "ingress"] = packets, in_bytes
            counted[agent.link.near.name, "egress"] = grown.egress
        return sent, counted

    def rows(self, question: str) -> list[Any]:
        return self.database.server.rows(question)

    async def until_stored(self, counted: Sums) -> None:
        """Return once all is stored, or after a time in which it should be."""
        expected = sum(packets for packets, _ in counted.values())
        try:
            async with asyncio.timeout(SETTLE_S):
                for question in (STORED_PACKETS, TOLD_PACKETS):
                    while not await asyncio.to_thread(self._has, question, expected):
                        await asyncio.sleep(INTERVAL_S)
        except TimeoutError:
            pass  # what is missing is for the assertions to tell

    def _has(self, question: str, expected: int) -> bool:
        return self.rows(question)[0][0] >= expected


STORED_PACKETS = "SELECT sum(packets) FROM hookline.flows"
TOLD_PACKETS = "SELECT sum(flow_packets) FROM hookline.ledger"
SUMS = """
SELECT interface, toString(direction), sum({packets}), sum({bytes}) FROM hookline.{table}
GROUP BY interface, direction
"""
FIVE_TUPLES = """
SELECT interface, toString(direction), IPv6NumToString(dst_addr), src_port, dst_port,
    sum(packets), sum(bytes)
FROM hookline.flows WHERE protocol = 17
GROUP BY ALL
"""
STORED_TWICE = """
SELECT node, run, seq, interface, toString(direction), toString(end), count()
FROM hookline.ledger GROUP BY ALL HAVING count() > 1
"""


@asynccontextmanager
async def stage(directory: Path) -> AsyncIterator[Stage]:
    """Two links, two agents, three brokers, two consumers and a database."""
    async with AsyncExitStack() as leaving:
        cluster = Cluster(directory / "brokers")
        leaving.push_async_callback(cluster.stop)
        await cluster.start()
        for topic in (*(record.topic for record in RECORDS), DEAD_LETTERS):
            await cluster.create_topic(topic, partitions=PARTITIONS)
        links = [leaving.enter_context(link()) for _ in range(2)]
        server = leaving.enter_context(Server(directory / "clickhouse"))
        flags = ("--kafka", cluster.bootstrap, "--clickhouse", server.url, "--max-age", "0.3")
        flags += ("--group", f"chaos-{secrets.token_hex(4)}")
        made = Stage(
            cluster.bootstrap,
            [Brokering(f"broker {number}", one) for number, one in cluster.nodes.items()],
            Database(server),
            agents_on(links, cluster.bootstrap, directory / "spools"),
            [Storing(f"consumer-{number}", directory, *flags) for number in (1, 2)],
        )
        for actor in (*made.consumers, *made.agents):
            leaving.push_async_callback(actor.leave)
        leaving.callback(lambda: [talker.leave() for talker in made.talkers])
        yield made


def agents_on(links: list[Link], kafka: str, spools: Path) -> list[Observing]:
    hooks = (
        # So few slots that most flows leave by the ring, which has room for what comes while no
        # agent reads it.
        ("--hook", "tc", "--flow-slots", "256", "--ring-bytes", str(64 << 20)),
        # A perf buffer goes with its agent, so that the cache must have room for all of them.
        ("--hook", "xdp", "--buffer", "perf"),
    )
    return [
        Observing(
            f"agent {number}",
            kafka,
            on,
            *flags,
            *("--spool", str(spools)),
        )
        for number, (on, flags) in enumerate(zip(links, hooks, strict=True), 1)
    ]


@pytest.mark.timeout(0)
async def test_books_balance_whatever_is_killed_and_frozen(lab, tmp_path, pytestconfig):
    seed = pytestconfig.getoption("--chaos-seed") or secrets.randbits(32)
    events = pytestconfig.getoption("--chaos-events")
    print(f"seed {seed}")
    async with stage(tmp_path) as on_stage:
        await on_stage.begin(seed)
        play = Play(
            seed,
            [
                *on_stage.agents,
                *on_stage.brokers,
                *on_stage.consumers,
                on_stage.database,
            ],
        )
        try:
            await play.run(events)
        finally:
            print(*play.told, sep="\n")
        sent, counted = await asyncio.to_thread(on_stage.until_silence)
        await on_stage.until_stored(counted)
        assert_all_is_there(on_stage, sent, counted)
        await asyncio.to_thread(assert_audited, on_stage)
        print(f"{sum(packets for packets, _ in sent.values()):,} packets, {len(sent):,} flows")


def assert_all_is_there(on_stage: Stage, sent: FiveTuples, counted: Sums) -> None:
    """Interfaces, ledger and flows agree to the byte, and each five-tuple is there once."""

    def sums(table: str, packets: str, in_bytes: str) -> Sums:
        rows = on_stage.rows(SUMS.format(table=table, packets=packets, bytes=in_bytes))
        return {(interface, direction): tuple(its) for interface, direction, *its in rows}

    told = sums("ledger", "seen_packets", "seen_bytes")
    assert told == counted
    assert sums("flows", "packets", "bytes") == counted
    nothing = dict.fromkeys(counted, (0, 0))
    assert sums("ledger", "lost_packets", "lost_bytes") == nothing
    assert sums("ledger", "overflow_packets", "overflow_bytes") == nothing
    stored = {
        (interface, direction, to.removeprefix("::ffff:"), source, destination): tuple(amounts)
        for interface, direction, to, source, destination, *amounts in on_stage.rows(FIVE_TUPLES)
    }
    assert stored == sent
    assert on_stage.rows(STORED_TWICE) == []
    assert on_stage.rows("SELECT reason FROM hookline.dead_letters") == []


def assert_audited(on_stage: Stage) -> None:
    """Whoever asks is told so."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "hookline", "audit", "--since", "all", "--settle", "1s"),
            *("--url", on_stage.database.server.url, "--kafka", on_stage.kafka),
        ],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    print(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert "the books balance; complete to 100 %" in done.stdout
