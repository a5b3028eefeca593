# SPDX-License-Identifier: Apache-2.0
"""Print results: as a table for people, or as JSON lines, CSV or Arrow for programs."""

import argparse
import sys
from collections.abc import Collection, Iterable, Sequence
from typing import BinaryIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

# What each --format asks ClickHouse for; a table is drawn here.
CLICKHOUSE_FORMATS = {"json": "JSONEachRow", "csv": "CSVWithNames", "arrow": "ArrowStream"}
FORMATS = ("table", *CLICKHOUSE_FORMATS)
_UNBROKEN_COLUMNS = 21  # an IPv4 address and a port
_WIDER_THAN_ANY_ROW = 1 << 20


class OutputError(Exception):
    """The result cannot be printed here; the text is one line for a human."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --format."""
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="table",
        help="table; json, one object a line; csv with a header; arrow, an IPC stream"
        " (default: %(default)s)",
    )


def check_terminal(form: str) -> None:
    """Refuse to send bytes to a terminal; raises `OutputError`."""
    if form == "arrow" and sys.stdout.isatty():
        raise OutputError("arrow is binary: send it to a file or a program, as in > flows.arrows")


def write_pieces(pieces: Iterable[bytes], out: BinaryIO) -> None:
    """Copy a result to *out*."""
    out.writelines(pieces)
    out.flush()


def print_table(
    names: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: Collection[int] = (),
    unbroken: Collection[int] = (),
) -> None:
    """Draw a table; the columns numbered *right* hold numbers.

    Values are printed whole: on a terminal they are folded into their column, the *unbroken* ones
    last; elsewhere the table is as wide as it must be.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, name in enumerate(names):
        longest = max((len(row[index]) for row in rows), default=0)
        table.add_column(
            Text(printable(name)),
            justify="right" if index in right else "left",
            overflow="fold",
            min_width=min(longest, _UNBROKEN_COLUMNS) if index in unbroken else None,
        )
    for row in rows:
        table.add_row(*(Text(printable(value)) for value in row))
    width = None if sys.stdout.isatty() else _WIDER_THAN_ANY_ROW
    Console(file=sys.stdout, width=width, highlight=False).print(table)


def printable(text: str) -> str:
    """The text with what would steer a terminal spelled out: names come from other machines."""
    return "".join(char if char.isprintable() else _spelled_out(char) for char in text)


def _spelled_out(char: str) -> str:
    if "\udc80" <= char <= "\udcff":  # a byte that is not text, as Python carries it
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode()
