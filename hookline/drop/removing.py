# SPDX-License-Identifier: Apache-2.0
"""`hookline drop remove`: remove rules by their names."""

import argparse

from hookline.drop import arguments
from hookline.drop.orders import change, installed

EPILOG = """\
examples:
  hookline drop remove no-telnet
  hookline drop remove scanners calm
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `remove`."""
    parser.add_argument("names", nargs="+", metavar="NAME", help="the name of a rule")
    arguments.add_agent(parser)


def run(args: argparse.Namespace) -> int:
    """Remove all of them, or none if one is not there."""
    there = installed(args.agent)
    names = [there.named(name).rule.name for name in dict.fromkeys(args.names)]
    change(args.agent, remove=names, revision=there.revision)
    print(f"removed {', '.join(names)}")
    return 0
