# SPDX-License-Identifier: Apache-2.0
"""`hookline audit`: whether the books of every packet balance, from the interface to the table."""

import argparse
import asyncio
import json
import os
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime

from hookline import cluster, history, output
from hookline.arguments import seconds_in, since_in
from hookline.audit.books import Amount, Books, Place, Stations
from hookline.audit.judgement import (
    completeness,
    differences,
    is_balanced,
    missing_batches,
    unbooked_refusals,
)
from hookline.audit.published import add_published
from hookline.audit.stored import stored_books
from hookline.topics import Topics
from service.broker import Broker, BrokerError, BrokerUnavailable
from service.logs import quiet_kafka_client
from service.options import ConfigError

TABLE = "audit"
_CLIENT_ID = "hookline-audit"
_MOST_RULES = 20
# What is made now is stored some seconds later: an interval, a batch's age, an insert.
_SETTLE_SECONDS = 10
EPILOG = """\
examples:
  hookline audit
  hookline audit --since 1h --node web-1
  hookline audit --since all --url http://clickhouse-1 --kafka kafka-1:9092

The difference is what one station has and the next has not, and nothing explains.  Exit codes:
0 the books balance, 1 they do not, or could not be read, 2 bad usage or configuration.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `hookline audit`."""
    parser.epilog = EPILOG
    parser.add_argument(
        "--since",
        type=since_in,
        default="1d",
        metavar="TIME",
        help="how far back, as 30s, 5m, 2h, 7d, or all (default: %(default)s)",
    )
    parser.add_argument("--node", default="", metavar="NAME", help="of this node alone")
    parser.add_argument(
        "--settle",
        type=seconds_in,
        default=f"{_SETTLE_SECONDS}s",
        metavar="TIME",
        help="leave out so much of the end, which is not stored yet (default: %(default)s)",
    )
    parser.add_argument(
        "--no-kafka", action="store_true", help="do not read what Kafka holds, which may be much"
    )
    parser.add_argument(
        "--format", choices=("table", "json"), default="table", help="(default: %(default)s)"
    )
    history.add_arguments(parser)
    cluster.add_kafka_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print the books; 0 if they balance."""
    quiet_kafka_client(quiet=True)
    try:
        books = _books(args)
    except (history.PlaceError, ConfigError) as error:
        return _fail(str(error), code=2)
    except (history.HistoryError, BrokerError, BrokerUnavailable) as error:
        return _fail(str(error), code=1)
    except OSError as error:
        return _fail(f"{error.filename or ''}: {error.strerror or error}".lstrip(": "), code=1)
    if not books.stations:
        return _fail("there is no ledger of that period: no agent has reported", code=1)
    if args.format == "json":
        _write(books)
    else:
        _print(books)
    return int(not is_balanced(books))


def _books(args: argparse.Namespace) -> Books:
    now = time.time()
    from_s = now - args.since if args.since else 0
    bounds = {"from_ns": int(from_s * 1e9), "until_ns": int((now - args.settle) * 1e9)}
    with history.open_history(data=args.data, url=args.url) as opened:
        books = stored_books(opened, **bounds, node=args.node)
    broker = cluster.broker_beside(args, os.environ, table=TABLE, client_id=_CLIENT_ID)
    if broker and books.stations and not args.no_kafka:
        asyncio.run(_add_kafka(books, broker))
    return books


async def _add_kafka(books: Books, broker: Broker) -> None:
    try:
        async with Topics(broker) as topics:
            await add_published(books, topics)
    except BrokerUnavailable as error:
        raise BrokerUnavailable(
            f"kafka at {broker.addresses}: {error}; --no-kafka does without"
        ) from None


def _print(books: Books) -> None:
    print(f"{_utc(books.from_ns)} to {_utc(books.until_ns)}")
    for what in ("packets", "bytes"):
        print()
        output.print_table(_HEADER, _rows(books, what), right=range(2, len(_HEADER)))
    print()
    _print_batches(books)
    for line in _verdict(books):
        print(line)


_HEADER = (
    *("interface", "direction", "interface's own", "kernel", "rows", "kafka", "clickhouse"),
    *("lost", "difference"),
)


def _rows(books: Books, what: str) -> list[list[str]]:
    several = len({place.node for place in books.stations}) > 1
    by_place: dict[Place, int] = {}
    for one in differences(books):
        by_place[one.place] = by_place.get(one.place, 0) + abs(getattr(one.amount, what))
    return [
        [
            f"{place.node} {place.interface}" if several else place.interface,
            place.direction,
            *(_number(amount, what) for amount in _amounts(at)),
            f"{by_place.get(place, 0):,}",
        ]
        for place, at in sorted(books.stations.items())
    ]


def _amounts(at: Stations) -> list[Amount | None]:
    return [at.interface, at.kernel, at.rows, at.kafka, at.clickhouse, at.lost]


def _number(amount: Amount | None, what: str) -> str:
    return "-" if amount is None else f"{getattr(amount, what):,}"


def _print_batches(books: Books) -> None:
    names = ("kind", "runs", "batches made", "kafka", "clickhouse", "spooled", "lost", "missing")
    missing = {one.key: one.batches for one in missing_batches(books)}
    rows = []
    for kind in sorted({key.kind for key in books.batches}):
        its = {key: one for key, one in books.batches.items() if key.kind == kind}
        counts = [len(its), sum(len(one.span) for one in its.values())]
        kafka = [one.kafka for one in its.values()]
        rows.append(
            [
                kind,
                *(f"{count:,}" for count in counts),
                "-" if None in kafka else f"{sum(filter(None, kafka)):,}",
                *(f"{sum(getattr(one, name) for one in its.values()):,}" for name in _COUNTED),
                f"{sum(missing.get(key, 0) for key in its):,}",
            ]
        )
    output.print_table(names, rows, right=range(1, len(names)))


_COUNTED = ("stored", "spooled", "lost")


def _verdict(books: Books) -> list[str]:
    lines = [
        f"{one.place.node} {one.place.interface} {one.place.direction}: between {one.between}"
        f" {one.amount.packets:,} packets and {one.amount.bytes:,} bytes are not accounted for"
        for one in differences(books)
    ]
    lines += [
        f"{one.key.node} run {one.key.run[:12]} {one.key.kind}: {one.batches:,} batches and"
        f" {one.rows:,} rows are missing"
        for one in missing_batches(books)
    ]
    lines += [
        f"{node}: {amount.packets:,} packets and {amount.bytes:,} bytes were refused, and no rule"
        " has counted them"
        for node, amount in unbooked_refusals(books).items()
    ]
    lines += _refusals(books)
    lost = sum(at.lost.packets for at in books.stations.values())
    if lost:
        lines.append(f"{lost:,} packets are lost: rows that agents gave up since spools were full")
    overflow = sum(at.overflow.packets for at in books.stations.values())
    if overflow:
        lines.append(f"{overflow:,} packets are in rows without their flow")
    balance = "the books balance" if is_balanced(books) else "the books do not balance"
    return ["", *lines, f"{balance}; complete to {100 * completeness(books):.4g} %"]


def _refusals(books: Books) -> list[str]:
    several = len({place.node for place in books.stations}) > 1
    return [
        f"{node + ' ' if several else ''}rule {rule}: {amount.packets:,} packets and"
        f" {amount.bytes:,} bytes were refused"
        for node, one in sorted(books.refusals.items())
        for rule, amount in list(one.rules.items())[:_MOST_RULES]
    ]


def _write(books: Books) -> None:
    for place, at in sorted(books.stations.items()):
        print(json.dumps({**place._asdict(), **asdict(at)}))
    for key, batches in sorted(books.batches.items()):
        print(json.dumps({**key._asdict(), **asdict(batches)}))
    for node, one in sorted(books.refusals.items()):
        print(json.dumps({"node": node, **asdict(one)}))
    for difference in differences(books):
        print(
            json.dumps(
                {"difference": difference.between, **difference.place._asdict()}
                | asdict(difference.amount)
            )
        )


def _utc(time_ns: int) -> str:
    return f"{datetime.fromtimestamp(time_ns // 10**9, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _fail(reason: str, *, code: int) -> int:
    sys.stderr.write(f"hookline audit: {reason}\n")
    return code
