# SPDX-License-Identifier: Apache-2.0
"""What every subject of measurement has in common as a program: its flags and its output.

A subject is a module that prints its tables as one JSON object and nothing else on its standard
output.  Each runs in a process of its own, so that none inherits another's memory or caches.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass

# What everybody may run: each subject within its budget.  Those that settle, or that are of single
# events, are published from a long run.
SIZES = {
    "quick": "few rounds: to see that it runs",
    "usual": "",
    "long": "as many rounds, or as long, as what is published has where it matters",
}


@dataclass(frozen=True, slots=True)
class Scale:
    """How much to measure."""

    size: str = "usual"
    peers: tuple[str, ...] = ()  # programs of others, for those subjects that take some

    @property
    def is_quick(self) -> bool:
        return self.size == "quick"

    @property
    def is_long(self) -> bool:
        return self.size == "long"

    def pick(self, usual: int, quick: int, long: int | None = None) -> int:
        """The number for this size; a long run is a usual one where nothing else is said."""
        return {"quick": quick, "usual": usual, "long": usual if long is None else long}[self.size]


def add_sizes(parser: argparse.ArgumentParser) -> None:
    """The flags --quick and --long; neither means the usual size."""
    chosen = parser.add_mutually_exclusive_group()
    for size, meaning in SIZES.items():
        if meaning:
            chosen.add_argument(
                f"--{size}", dest="size", action="store_const", const=size, help=meaning
            )
    parser.set_defaults(size="usual")


def main(measure: Callable[[Scale], list[dict]], about: str, *, takes_peers: bool = False) -> None:
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_sizes(parser)
    if takes_peers:
        add_peers(parser)
    arguments = parser.parse_args()
    scale = Scale(arguments.size, tuple(getattr(arguments, "peer", ())))
    print(json.dumps({"tables": measure(scale)}))


def add_peers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--peer",
        action="append",
        default=[],
        metavar="NAME=FILE:PROGRAM",
        help="a program of another project to stand beside ours, from its object file; repeatable",
    )
