# SPDX-License-Identifier: Apache-2.0
"""`hookline replay`: load the packets of capture files like live ones, under a node of their own.

The kernel programs of the agent count them, with the times of the capture, and the rows take the
usual way: Kafka, consumer, ClickHouse.  They go to the `hookline up` that runs on the data
directory; where none does, Kafka and the consumer run for as long as it takes.
"""

import argparse
import asyncio
import dataclasses
import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from agent.config import Config
from agent.plan import LoadError
from agent.replay.files import CaptureError
from agent.replay.run import Books, replay
from agent.replay.timeline import Loaded, load_captures, stem
from hookline import history
from hookline.arguments import seconds_in
from hookline.backlog import until_stored
from hookline.child import ChildError
from hookline.jvm import JavaError
from hookline.kafka import KafkaError, free_port
from hookline.settings import DEFAULT_DATA
from hookline.storage import Place, Storage, StorageError, sole_user
from hookline.words import with_unit
from service.broker import BrokerOptions
from service.logs import configure
from service.options import ConfigError, add_flags, build, is_secret

_STORE_SECONDS = 30.0
_POLL_SECONDS = 10.0
# What an agent may be told of how to count; the rest is about interfaces.
_COUNTING = ("sample", "sample_first", "dns_port", "tunnels", "vxlan_port", "flow_slots")
_BROKER = tuple(field.name for field in dataclasses.fields(BrokerOptions) if not is_secret(field))
EPILOG = """\
examples:
  hookline replay capture.pcap
  hookline replay --node office monday.pcapng.gz tuesday.pcapng.gz
  hookline replay --kafka kafka-1:9092 capture.pcap

Passwords for Kafka come from the environment or from their files.
"""


class ReplayError(Exception):
    """The replay cannot go on; the text is one line for a human."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `hookline replay`."""
    parser.epilog = EPILOG
    parser.add_argument(
        "files",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="pcap or pcapng, also compressed by gzip, bzip2 or xz; - is standard input",
    )
    parser.add_argument(
        "--node", metavar="NAME", help="whose rows these will be (default: the first file's name)"
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=DEFAULT_DATA,
        metavar="DIR",
        help="directory of `hookline up` (default: %(default)s)",
    )
    parser.add_argument(
        "--interval",
        type=seconds_in,
        default="1s",
        metavar="TIME",
        help="capture time that one row of a flow covers (default: %(default)s)",
    )
    parser.add_argument(
        "--again",
        action="store_true",
        help="load even if the node has rows; what is in both counts twice",
    )
    for name, what in (("dns", "DNS messages"), ("tls", "TLS ClientHellos")):
        parser.add_argument(
            f"--{name}",
            choices=("yes", "no"),
            default="yes",
            help=f"report {what} (default: yes)",
        )
    add_flags(parser, Config, {*_COUNTING, *_BROKER})


def run(arguments: argparse.Namespace) -> int:
    """Replay; the exit code."""
    if os.geteuid() != 0:
        return _fail("loading eBPF programs needs root; run it with sudo", code=1)
    configure("warning")
    try:
        config = _config(arguments)
    except ConfigError as error:
        return _fail(str(error), code=2)
    try:
        return _run(arguments, config)
    except (
        *(CaptureError, LoadError, ReplayError, StorageError, KafkaError, JavaError),
        *(history.HistoryError, ChildError),
    ) as error:
        return _fail(str(error), code=1)
    except OSError as error:
        return _fail(f"{error.strerror or error}: {error.filename or ''}".rstrip(": "), code=1)


def _fail(reason: str, *, code: int) -> int:
    sys.stderr.write(f"hookline replay: {reason}\n")
    return code


def _config(arguments: argparse.Namespace) -> Config:
    given = {name: getattr(arguments, name) for name in (*_COUNTING, *_BROKER)}
    given["node"] = arguments.node or stem(arguments.files[0])
    # Whatever the environment says: an agent looks for names at a cost, and a capture has no
    # processes.
    given |= {"dns": arguments.dns, "tls": arguments.tls, "sockets": "no", "owners": "no"}
    if arguments.kafka is None:
        # The cluster that the environment may tell of is not the one that we start.
        given |= {"kafka": "127.0.0.1:9092", "kafka_security": "plaintext"}
    return build(Config, table="agent", flags=given, environ=os.environ, file=None)


def _run(arguments: argparse.Namespace, config: Config) -> int:
    loaded = load_captures(arguments.files)
    for note in loaded.notes:
        sys.stderr.write(f"hookline replay: {note}; what comes before is replayed\n")
    _tell_files(arguments.files, loaded)
    if not len(loaded.timeline):
        return _tell_books(config, loaded, Books(rejected=loaded.rejected))
    started = time.monotonic()
    books = asyncio.run(_replay(arguments, config, loaded))
    seconds = time.monotonic() - started
    code = _tell_books(config, loaded, books)
    print(f"it took {seconds:.1f} s; ask with: {_question(arguments, config)}")
    return code


async def _replay(arguments: argparse.Namespace, config: Config, loaded: Loaded) -> Books:
    interval_ns = arguments.interval * 1_000_000_000
    if arguments.kafka is not None:
        return await replay(loaded, config, interval_ns=interval_ns)
    if (running := history.running_at(arguments.data)) is not None:
        if not running.kafka:
            raise ReplayError("the hookline up that runs is of an older version: restart it")
        _refuse_known_node(arguments, config, running.http)
        config = dataclasses.replace(config, kafka=running.kafka)
        books = await replay(loaded, config, interval_ns=interval_ns)
        while not await until_stored(running.kafka, _POLL_SECONDS):
            if history.running_at(arguments.data) is None:
                raise ReplayError("hookline up ended; it stores the rest when it starts again")
        return books
    place = Place(arguments.data.resolve())
    with sole_user(place):
        storage = Storage(place, http_port=free_port(), kafka_port=free_port(), tell=_tell)
        try:
            await storage.start()
            _refuse_known_node(arguments, config, storage.url)
            config = dataclasses.replace(config, kafka=storage.kafka.bootstrap)
            books = await replay(loaded, config, interval_ns=interval_ns)
            while not await until_stored(storage.kafka.bootstrap, _POLL_SECONDS):
                if not storage.consumer.is_running:
                    raise await storage.consumer.ended()
        finally:
            await storage.stop(_STORE_SECONDS)
    return books


def _refuse_known_node(arguments: argparse.Namespace, config: Config, url: str) -> None:
    """Raises: ReplayError where rows of that name would be mixed with those of another run."""
    if arguments.again:
        return
    with history.open_history(data=arguments.data, url=url) as opened:
        question = "SELECT 1 FROM ledger WHERE node = {node:String} LIMIT 1"
        if opened.rows(question, {"node": config.node}).rows:
            raise ReplayError(
                f"node {config.node} has rows already; choose another --node, or load them beside"
                " with --again"
            )


def _tell_files(paths: Sequence[Path], loaded: Loaded) -> None:
    times = loaded.timeline.time_ns
    names = str(paths[0]) if len(paths) == 1 else f"{len(paths)} files"
    in_bytes = with_unit(int(loaded.timeline.length.sum(dtype="u8")), "B")
    span = ""
    if len(times):
        first, last = (_utc(int(one)) for one in (times[0], times[-1]))
        span = f" from {first} to {last} UTC"
    print(f"{names}: {loaded.packets_read} packets, {in_bytes}{span}", flush=True)


def _utc(time_ns: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(time_ns // 1_000_000_000))


def _tell_books(config: Config, loaded: Loaded, books: Books) -> int:
    """Say what became of every packet; 1 where that is not known."""
    rejected = {reason: count for reason, count in books.rejected.items() if count}
    reasons = ", ".join(f"{count} {reason}" for reason, count in rejected.items())
    print(
        f"node {config.node}: read {loaded.packets_read} packets; {books.flow_packets} in"
        f" {books.flow_rows} flow rows, rejected {sum(rejected.values())}"
        + (f" ({reasons})" if reasons else "")
    )
    missing = loaded.packets_read - books.flow_packets - sum(rejected.values())
    if missing:
        return _fail(f"{missing} packets are in no row: this is a fault of ours", code=1)
    return 0


def _question(arguments: argparse.Namespace, config: Config) -> str:
    words = ["hookline", "flows", "--node", config.node, "--since", "all"]
    if arguments.data != DEFAULT_DATA:
        words += ["--data", str(arguments.data)]
    return shlex.join(words)


def _tell(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
