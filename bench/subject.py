# SPDX-License-Identifier: Apache-2.0
"""What every subject of measurement has in common as a program: its flags and its output.

A subject is a module that prints its tables as one JSON object and nothing else on its standard
output.  Each runs in a process of its own, so that none inherits another's memory or caches.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scale:
    """How much to measure."""

    is_quick: bool
    minutes: float  # for what lasts: the soak
    peers: tuple[str, ...] = ()  # programs of others, for those subjects that take some

    def pick(self, usual: int, quick: int) -> int:
        return quick if self.is_quick else usual


def main(measure: Callable[[Scale], list[dict]], about: str, *, takes_peers: bool = False) -> None:
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few rounds: to see that it runs")
    parser.add_argument("--minutes", type=float, default=1.0, help="length of the soak")
    if takes_peers:
        add_peers(parser)
    arguments = parser.parse_args()
    scale = Scale(arguments.quick, arguments.minutes, tuple(getattr(arguments, "peer", ())))
    print(json.dumps({"tables": measure(scale)}))


def add_peers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--peer",
        action="append",
        default=[],
        metavar="NAME=FILE:PROGRAM",
        help="a program of another project to stand beside ours, from its object file; repeatable",
    )
