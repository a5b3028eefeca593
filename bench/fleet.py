# SPDX-License-Identifier: Apache-2.0
"""Publish for many nodes from one process, each interval at its own moment.

    python -m bench.fleet --kafka HOST:PORT --nodes 100 --interval 1 --intervals 10 --share 1

Batches are those of bench/nodes.py, and the way to Kafka is the agent's own publisher, with a
connection for every *share* nodes: 1 is what agents do.  Prints `ready` once all have connected and
reported once, begins when it is told to by a line on its standard input, and prints as one JSON
object what every run has made.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Sequence

from agent.publisher import Publisher
from bench.nodes import Contents, Node, a_fleet
from service.broker import BrokerOptions

_POLL_S = 0.01
_CONNECTING = 50  # at once
_DRAIN_S = 60.0


class Connection:
    """One publisher, and the nodes that it sends for."""

    def __init__(self, kafka: str, nodes: Sequence[Node]) -> None:
        logs = [log for node in nodes for log in (node.books, node.rows)]
        broker = BrokerOptions(kafka=kafka).broker(f"hookline-agent-{nodes[0].name}")
        self.nodes = nodes
        self.publisher = Publisher(broker, logs)

    async def begin(self, contents: Contents) -> None:
        """Connect, and report once: the client then knows all topics, as after a day."""
        for node in self.nodes:
            node.begin(time.time_ns())
            node.close_interval(contents, time.time_ns())
        self.publisher.start()
        await self.until_idle()

    async def until_idle(self) -> None:
        while not self.publisher.is_idle:
            self.publisher.raise_if_failed()
            await asyncio.sleep(_POLL_S)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.fleet", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--kafka", required=True)
    parser.add_argument("--nodes", type=int, default=10)
    parser.add_argument("--interval", type=float, default=1.0)
    parser.add_argument("--intervals", type=int, default=5)
    parser.add_argument("--share", type=int, default=1)
    print(json.dumps(asyncio.run(run(parser.parse_args()))))


async def run(arguments: argparse.Namespace) -> dict[str, object]:
    nodes = list(a_fleet(arguments.nodes, arguments.interval))
    contents = Contents()
    connections = [
        Connection(arguments.kafka, nodes[at : at + arguments.share])
        for at in range(0, len(nodes), arguments.share)
    ]
    for at in range(0, len(connections), _CONNECTING):
        await asyncio.gather(*(one.begin(contents) for one in connections[at : at + _CONNECTING]))
    before = made_by(nodes)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    latest_s = await report(connections, contents, arguments)
    async with asyncio.timeout(_DRAIN_S):
        for one in connections:
            await one.until_idle()
    await asyncio.gather(*(one.publisher.stop(0) for one in connections))
    return {
        "latest_s": latest_s,
        "before": before,
        "made": [[node.name, node.run, node.made] for node in nodes],
    }


def made_by(nodes: Sequence[Node]) -> tuple[int, int]:
    """How many records they have made so far, and how many rows."""
    batches = [rows for node in nodes for made in node.made.values() for rows in made]
    return len(batches), sum(batches)


async def report(
    connections: Sequence[Connection], contents: Contents, arguments: argparse.Namespace
) -> float:
    """Close all intervals, each node at its own place in them; how late the latest one was."""
    places = [(node, one) for one in connections for node in one.nodes]
    began_s, latest_s = time.monotonic(), 0.0
    for interval in range(arguments.intervals):
        for place, (node, connection) in enumerate(places):
            due_s = began_s + (interval + (place + 1) / len(places)) * arguments.interval
            late_s = time.monotonic() - due_s
            # Also when it is late, the publishers want a turn.
            await asyncio.sleep(max(0.0, -late_s))
            latest_s = max(latest_s, late_s)
            node.close_interval(contents, time.time_ns())
            connection.publisher.more_waits()
        for one in connections:
            one.publisher.raise_if_failed()
    return latest_s


if __name__ == "__main__":
    main()
