# SPDX-License-Identifier: Apache-2.0
"""`hookline drop send` and `withdraw`: rules for many nodes, signed, by way of Kafka."""

import argparse
import asyncio
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from consumer.rule_orders import RuleOrders
from hookline import cluster
from hookline.arguments import seconds_in
from hookline.drop import arguments
from schemas.rules.boxes import boxes_of
from schemas.rules.rule import RuleError
from schemas.rules.rulesfile import described
from schemas.rules.signed import put, read_key, withdraw
from service.logs import quiet_kafka_client

_TABLE = "drop"
_CLIENT_ID = "hookline-drop"
_MONTH_SECONDS = 30 * 86400


class _Send:
    """`send`."""

    EPILOG = """\
examples:
  hookline drop send scanners ip --src-list scanners.txt --key rules.pem --for 1d --reason scans
  hookline drop send no-telnet 'tcp dst port 23' --nodes 'web-*' --key rules.pem --for 1h \\
      --reason 'worm of today' --now

Agents that trust the key put it in force in about a second, and tell of it in the table rules.
"""

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """Add the options of `send`."""
        parser.add_argument("name", metavar="NAME", help="of a-z, 0-9, '.', '_' and '-'")
        parser.add_argument(
            "match",
            nargs="+",
            metavar="MATCH",
            help="which packets, as a filter says it; '' is every IP packet",
        )
        arguments.add_rule(parser)
        arguments.add_standing(parser)
        parser.add_argument("--now", action="store_true", help="enforce it at once")
        parser.add_argument(
            "--nodes",
            action="append",
            metavar="GLOB",
            help="nodes that it is for; repeatable (default: all)",
        )
        parser.add_argument(
            "--despite-allowed",
            action="store_true",
            help="also where it means packets of a node's allow list, which pass anyway",
        )
        _add_key(parser)

    @staticmethod
    def run(args: argparse.Namespace) -> int:
        """Sign it and send it."""
        rule = arguments.standing_rule_from(args, name=args.name, match=" ".join(args.match))
        rule = replace(rule, is_observed=not args.now)
        if not boxes_of(rule):
            raise RuleError(f"rule {rule.name}: no address of its lists is in its match; widen one")
        value = put(
            rule,
            read_key(args.key),
            nodes=args.nodes or ("*",),
            despite_allowed=args.despite_allowed,
        )
        _send(args, {rule.name: value})
        print(described(rule))
        print("it is sent; what became of it on each node is in the table rules")
        return 0


class _Withdraw:
    """`withdraw`."""

    EPILOG = """\
examples:
  hookline drop withdraw scanners --key rules.pem
"""

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """Add the options of `withdraw`."""
        parser.add_argument("names", nargs="+", metavar="NAME", help="the name of a rule")
        parser.add_argument(
            "--for",
            dest="seconds",
            type=seconds_in,
            default=_MONTH_SECONDS,
            metavar="TIME",
            help="how long nobody can bring it back by sending it again; at least until its own"
            " end (default: 30d)",
        )
        _add_key(parser)

    @staticmethod
    def run(args: argparse.Namespace) -> int:
        """Sign that they are no more, and send that."""
        key = read_key(args.key)
        until_ns = time.time_ns() + args.seconds * 10**9
        names = list(dict.fromkeys(args.names))
        _send(args, {name: withdraw(name, key, until_ns=until_ns) for name in names})
        print(f"withdrawn: {', '.join(names)}")
        return 0


SEND, WITHDRAW = _Send(), _Withdraw()


def _add_key(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--key",
        type=Path,
        required=True,
        metavar="FILE",
        help="a private key that agents trust; hookline drop keygen makes one",
    )
    cluster.add_arguments(parser)


def _send(args: argparse.Namespace, values: Mapping[str, bytes]) -> None:
    broker = cluster.chosen_broker(args, os.environ, table=_TABLE, client_id=_CLIENT_ID)
    quiet_kafka_client(quiet=True)

    async def sending() -> None:
        async with RuleOrders(broker) as orders:
            await orders.send(values)

    asyncio.run(sending())
