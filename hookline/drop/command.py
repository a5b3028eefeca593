# SPDX-License-Identifier: Apache-2.0
"""`hookline drop`: say which packets a node refuses, see what rules do, and try them before."""

import argparse
import sys

from hookline.drop import (
    adding,
    allowed,
    applying,
    explain,
    keygen,
    listing,
    removing,
    sending,
    simulate,
    switching,
)
from hookline.history import HistoryError, PlaceError
from hookline.remote import RemoteError
from schemas.rules.limit import LimitError
from schemas.rules.rule import RuleError
from service.broker import BrokerUnavailable
from service.options import ConfigError

EPILOG = """\
examples:
  hookline drop add no-telnet 'tcp dst port 23' --reason 'nobody uses it'
  hookline drop simulate no-telnet --since 1d
  hookline drop enforce no-telnet
  hookline drop list

A new rule is observed: it counts what it would do and changes nothing until it is enforced.
"""
_ACTIONS = (
    ("add", adding, "add a rule, observed unless --now"),
    ("enforce", switching.ENFORCE, "make an observed rule do what it says"),
    ("observe", switching.OBSERVE, "let an enforced rule count only"),
    ("list", listing.LIST, "the rules of the agent, and what they have come to"),
    ("show", listing.SHOW, "everything of one rule"),
    ("remove", removing, "remove rules"),
    ("apply", applying, "make the agent's rules those of a file"),
    ("simulate", simulate, "what a rule would have refused of what is in the history"),
    ("explain", explain, "what the rules do with one packet, and why"),
    ("allowed", allowed, "what passes whatever rules say"),
    ("keygen", keygen, "make a key with which rules for many nodes are signed"),
    ("send", sending.SEND, "put a rule on every node that trusts a key"),
    ("withdraw", sending.WITHDRAW, "take such rules back"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the actions of `hookline drop` with their options."""
    parser.epilog = EPILOG
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    for name, module, help_line in _ACTIONS:
        action = actions.add_parser(
            name,
            help=help_line,
            description=f"{help_line[0].upper()}{help_line[1:]}.",
            epilog=module.EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(action)
        action.set_defaults(act=module.run)


def run(args: argparse.Namespace) -> int:
    """Do it; 1 if it fails, 2 if it makes no sense."""
    try:
        return int(args.act(args))
    except (RuleError, LimitError, PlaceError) as error:
        return _fail(str(error), code=2)
    except RemoteError as error:
        return _fail(str(error), code=error.code)
    except ConfigError as error:
        return _fail(str(error), code=2)
    except (HistoryError, BrokerUnavailable) as error:
        return _fail(str(error), code=1)


def _fail(reason: str, *, code: int) -> int:
    sys.stderr.write(f"hookline drop: {reason}\n")
    return code
