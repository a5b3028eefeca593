# SPDX-License-Identifier: Apache-2.0
"""`hookline drop allowed`: what passes whatever rules say, and why."""

import argparse

from hookline import output
from hookline.drop import arguments
from hookline.drop.orders import installed

EPILOG = """\
examples:
  hookline drop allowed
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `allowed`."""
    arguments.add_agent(parser)


def run(args: argparse.Namespace) -> int:
    """Print one reason a line."""
    for reason in installed(args.agent).reasons:
        print(output.printable(reason))
    return 0
