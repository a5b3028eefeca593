# SPDX-License-Identifier: Apache-2.0
"""What `hookline flows` and `hookline top` have in common: their question, and how it is put."""

import argparse
import re
from dataclasses import dataclass

from hookline import history, output
from hookline.arguments import limit_in, since_in

_PLACEHOLDER = re.compile(r"\{(\w+):(\w+)\}")


@dataclass(frozen=True, slots=True)
class Asked:
    """A statement and the values bound to it."""

    sql: str
    parameters: dict[str, str | int]

    def readable(self) -> str:
        """The statement with its values written out, to be read, changed and asked again."""
        return _PLACEHOLDER.sub(self._literal, self.sql)

    def _literal(self, found: re.Match[str]) -> str:
        value, kind = self.parameters[found[1]], found[2]
        if isinstance(value, int):
            return str(value)
        quoted = "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
        return f"toIPv6({quoted})" if kind == "IPv6" else quoted


def add_which(options: argparse._ActionsContainer, *, since: str) -> None:
    """Add what chooses rows: a filter, how far back, and how many."""
    options.add_argument(
        "filter",
        nargs="*",
        metavar="FILTER",
        help="an expression much like tcpdump's, such as 'host 10.0.0.7 and tcp port 443'",
    )
    options.add_argument(
        "--since",
        type=since_in,
        default=since,
        metavar="TIME",
        help="how far back, as 30s, 5m, 2h, 7d, or all (default: %(default)s)",
    )
    options.add_argument(
        "--limit",
        type=limit_in,
        default=20,
        metavar="N",
        help="how many, the biggest first (default: %(default)s)",
    )


def add_answer(parser: argparse.ArgumentParser) -> None:
    """Add who is asked, and in which form the answer comes."""
    output.add_arguments(parser)
    parser.add_argument("--sql", action="store_true", help="print the statement, do not run it")
    history.add_arguments(parser)
