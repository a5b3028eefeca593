# SPDX-License-Identifier: Apache-2.0
"""`hookline up`: everything on this machine, as one process tree.

Kafka, then the consumer with the embedded ClickHouse, then the agent.  The services are the ones
that run in a cluster; only the endpoints differ.  They stop in the opposite direction: the agent
first, and the rest once what it published is stored.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
import time
import zlib
from pathlib import Path

from agent.config import HOOKS, TUNNELS
from agent.interfaces import Choice, InterfaceError
from agent.watch import Watch
from hookline.arguments import port_number, seconds_in
from hookline.child import Child, ChildError
from hookline.jvm import JavaError
from hookline.kafka import KafkaError
from hookline.live import Live
from hookline.settings import DEFAULT_DATA
from hookline.storage import KAFKA_PORT, Place, Storage, StorageError, sole_user

HTTP_PORT = 8123
_STOP_SECONDS = 15.0
_STORE_SECONDS = 30.0


class UpError(Exception):
    """`hookline up` cannot go on; the text is one line for a human."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    parser.add_argument(
        "--interface",
        metavar="NAME",
        action="append",
        default=[],
        help="interface to observe, or a pattern such as 'veth*', whenever one appears; repeatable"
        " (default: all, without lo)",
    )
    parser.add_argument(
        "--exclude-interface",
        metavar="NAME",
        action="append",
        default=[],
        help="interface not to observe, or a pattern; repeatable",
    )
    parser.add_argument(
        "--netns",
        metavar="NETNS",
        action="append",
        default=[],
        help="observe the interfaces of this network namespace too: a name of `ip netns`, a"
        " process id or a path; repeatable",
    )
    parser.add_argument(
        "--for",
        dest="seconds",
        type=seconds_in,
        metavar="TIME",
        help="stop after this time, for example 30s, 5m, 1h (default: run until Ctrl-C)",
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=DEFAULT_DATA,
        metavar="DIR",
        help=f"where the history is kept (default: {DEFAULT_DATA})",
    )
    parser.add_argument(
        "--hook", choices=HOOKS, help="where to count what comes in (default: auto)"
    )
    parser.add_argument(
        "--sample", type=int, metavar="N", help="report the headers of one packet in N; 0 for none"
    )
    parser.add_argument(
        "--tunnels", choices=TUNNELS, help="which packet of a tunnel rows tell of (default: inner)"
    )
    for name, what in (("dns", "DNS messages"), ("tls", "TLS ClientHellos")):
        parser.add_argument(
            f"--{name}", choices=("yes", "no"), help=f"rows for {what} on the wire (default: no)"
        )
    parser.add_argument("--node", help="name of this machine in every row (default: its host name)")
    parser.add_argument(
        "--http-port",
        type=port_number,
        default=HTTP_PORT,
        metavar="PORT",
        help=f"where ClickHouse clients connect, on 127.0.0.1 (default: {HTTP_PORT})",
    )
    parser.add_argument(
        "--kafka-port",
        type=port_number,
        default=0,
        metavar="PORT",
        help=f"where Kafka listens, on 127.0.0.1 (default: {KAFKA_PORT}, or a free one)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run until Ctrl-C, SIGTERM or the end of --for; the exit code."""
    if os.geteuid() != 0:
        return _fail("loading eBPF programs needs root; run it with sudo", code=1)
    try:
        # The agent says the same, but only once everything else has started.
        _check_interfaces(arguments)
    except InterfaceError as error:
        return _fail(str(error), code=2)
    place = Place(arguments.data.resolve())
    try:
        with sole_user(place):
            return asyncio.run(_Up(place, arguments).run())
    except ChildError as error:
        return _fail(str(error), code=error.code)
    except (UpError, StorageError, KafkaError, JavaError) as error:
        return _fail(str(error), code=1)


def _check_interfaces(arguments: argparse.Namespace) -> None:
    choice = Choice(tuple(arguments.interface), tuple(arguments.exclude_interface))
    Watch(tuple(arguments.netns), choice).close()


def _fail(reason: str, *, code: int) -> int:
    sys.stderr.write(f"hookline up: {reason}\n")
    return code


class _Up:
    def __init__(self, place: Place, arguments: argparse.Namespace) -> None:
        self._place = place
        self._arguments = arguments
        self._live = Live(f"http://127.0.0.1:{arguments.http_port}")
        self._storage = Storage(
            place,
            http_port=arguments.http_port,
            kafka_port=arguments.kafka_port,
            tell=self._live.tell,
        )
        self._agent = Child("agent", place.log("agent"), self._live.tell)
        # The pins of two of us must not meet, nor those of an agent that runs as a service.
        self._agent_name = f"up-{zlib.crc32(os.fsencode(place.data)):08x}"
        self._stop = asyncio.Event()

    async def run(self) -> int:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, self._stop.set)
        try:
            await self._start()
            await self._watch()
        finally:
            code = await self._stop_all()
        self._live.tell(f"stopped; ask with: hookline flows --since 1h --data {self._place.data}")
        return code

    async def _start(self) -> None:
        started = time.monotonic()
        await self._storage.start()
        await self._agent.start(self._agent_arguments())
        # Once this is there, everything works; nobody ever reads half of it.
        written = self._place.running.with_suffix(".new")
        written.write_text(json.dumps(self._endpoints()) + "\n")
        written.replace(self._place.running)
        self._live.tell(
            f"up after {time.monotonic() - started:.1f} s: kafka {self._storage.kafka.bootstrap},"
            f" clickhouse {self._storage.url}, history {self._place.data}"
        )

    def _endpoints(self) -> dict[str, int | str]:
        return {
            "pid": os.getpid(),
            "http": self._storage.url,
            "kafka": self._storage.kafka.bootstrap,
        }

    def _agent_options(self) -> list[str]:
        """Those that say which agent it is, and where its rows go."""
        arguments = [
            f"--kafka={self._storage.kafka.bootstrap}",
            f"--name={self._agent_name}",
            f"--spool={self._place.spool}",
        ]
        if self._arguments.node is not None:
            arguments.append(f"--node={self._arguments.node}")
        return arguments

    def _agent_arguments(self) -> list[str]:
        # Nothing of us outlives us.
        arguments = [*self._agent_options(), "--on-stop=detach"]
        for option in ("interface", "exclude_interface", "netns"):
            flag = option.replace("_", "-")
            arguments += [f"--{flag}={value}" for value in getattr(self._arguments, option)]
        for option in ("hook", "sample", "tunnels", "dns", "tls"):
            if (value := getattr(self._arguments, option)) is not None:
                arguments.append(f"--{option}={value}")
        return arguments

    async def _watch(self) -> None:
        """Show what flows until it is time to stop.

        Raises:
            UpError, ChildError: one of the parts ended.
        """
        stop = asyncio.create_task(self._stop.wait())
        kafka = asyncio.create_task(self._storage.kafka.wait())
        services = [
            asyncio.create_task(child.ended()) for child in (self._storage.consumer, self._agent)
        ]
        shown = asyncio.create_task(self._live.run())
        try:
            done, _ = await asyncio.wait(
                {stop, kafka, *services},
                timeout=self._arguments.seconds,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            shown.cancel()
            await asyncio.gather(shown, return_exceptions=True)
            for task in (stop, kafka, *services):
                task.cancel()
        if kafka in done:
            raise UpError(kafka.result())
        for service in services:
            if service in done:
                raise service.result()

    async def _stop_all(self) -> int:
        """Stop in the direction of the data, so that each part gets what came before."""
        codes = [await self._agent.stop(_STOP_SECONDS)]
        if codes[0] < 0:
            await self._detach_for_agent()
        elif codes[0] > 0:
            self._live.tell(f"agent: {await self._agent.ended()}")
        codes.append(await self._storage.stop(_STORE_SECONDS))
        self._place.running.unlink(missing_ok=True)
        return int(any(codes))

    async def _detach_for_agent(self) -> None:
        """Tell what an agent that was killed had counted, and remove its programs."""
        arguments = [*self._agent_options(), "--detach"]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "agent", *arguments, stdout=asyncio.subprocess.DEVNULL
        )
        if await process.wait():
            self._live.tell("agent: killed; its programs are still attached")
