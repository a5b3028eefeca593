# SPDX-License-Identifier: Apache-2.0
"""`hookline dead-letter`: list what the consumer could not use, see why, and send it again."""

import argparse
import asyncio
import os
import sys
from types import ModuleType

from hookline import cluster
from hookline.arguments import since_in
from hookline.dead_letter import listing, replay, show
from hookline.dead_letter.spans import Ambiguous, NoLetter
from hookline.topics import Topics
from service.broker import BrokerError, BrokerUnavailable
from service.logs import quiet_kafka_client
from service.options import ConfigError

# Their table in the file of options.
TABLE = "dead-letter"
_CLIENT_ID = "hookline-dead-letter"
EPILOG = """\
examples:
  hookline dead-letter list --since 1d
  hookline dead-letter show 17
  hookline dead-letter replay --all --reason 'column bytes' --dry-run
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the actions of `hookline dead-letter` with their options."""
    parser.epilog = EPILOG
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    for name, module, help_line in (
        ("list", listing, "the newest letters, and how many there are of each reason"),
        ("show", show, "everything of one letter"),
        ("replay", replay, "send letters again to the topics that their records came from"),
    ):
        action = actions.add_parser(
            name,
            help=help_line,
            description=f"{help_line[0].upper()}{help_line[1:]}.",
            epilog=module.EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(action)
        if module is not show:
            _add_filters(action)
        cluster.add_arguments(action)
        action.set_defaults(action=module)


def _add_filters(parser: argparse.ArgumentParser) -> None:
    which = parser.add_argument_group("which letters")
    which.add_argument(
        "--since",
        type=since_in,
        default="all",
        metavar="TIME",
        help="how far back, as 30s, 5m, 2h, 7d, or all (default: %(default)s)",
    )
    which.add_argument("--topic", metavar="NAME", help="of records from this topic")
    which.add_argument("--node", metavar="NAME", help="of records with this key")
    which.add_argument("--reason", metavar="TEXT", help="whose reason contains this")


def run(args: argparse.Namespace) -> int:
    """Do it; 1 if it fails, 2 if it makes no sense."""
    quiet_kafka_client(quiet=True)
    try:
        return asyncio.run(_run(args, args.action))
    except (ConfigError, Ambiguous) as error:
        return _fail(str(error), code=2)
    except (BrokerError, BrokerUnavailable, NoLetter) as error:
        return _fail(str(error), code=1)
    except BrokenPipeError:
        raise  # whoever reads what we print has seen enough, which is no failure to be told
    except OSError as error:
        named = f"{error.filename}: " if error.filename else ""
        return _fail(f"{named}{error.strerror or error}", code=1)


async def _run(args: argparse.Namespace, action: ModuleType) -> int:
    if action is replay:
        replay.check(args)
    broker = cluster.chosen_broker(args, os.environ, table=TABLE, client_id=_CLIENT_ID)
    try:
        async with Topics(broker) as topics:
            return int(await action.run(topics, args))
    except BrokerUnavailable as error:
        raise BrokerUnavailable(f"kafka at {broker.addresses}: {error}") from None


def _fail(reason: str, *, code: int) -> int:
    sys.stderr.write(f"hookline dead-letter: {reason}\n")
    return code
