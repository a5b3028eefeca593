# SPDX-License-Identifier: Apache-2.0
"""Letters and their counts for people: as wide as their terminal, and elsewhere whole.

What is printed was written by others, so whatever would steer a terminal is spelled out.
"""

import shutil
import sys
from collections.abc import Callable, Collection, Sequence

from rich.cells import cell_len
from rich.text import Text

from hookline.dead_letter.entries import Entry, Number, iso_time
from hookline.dead_letter.tally import Group
from hookline.output import printable
from hookline.words import with_unit

_GROUPS_SHOWN = 20
_NODES_SHOWN = 3
_WIDEST_NODE = 32
_WIDEST_RECORD = 48
_LEAST_REASON = 40
_UNLIMITED = 1 << 20
_GAP = "  "
# The node last, because its end is what a narrow terminal cuts first.
_HEAD = ("letter", "rejected (UTC)", "record", "size", "node")
_RIGHT = (0, 3)

Name = Callable[[Entry], Number]


def print_entries(entries: Sequence[Entry], name: Name) -> None:
    """A line for each letter, or two where the terminal is too narrow for the reason."""
    rows = [_cells(entry, name) for entry in entries]
    reasons = [printable(entry.reason) for entry in entries]
    replayed = [utc_time(entry.replayed_ms) for entry in entries]
    head: tuple[str, ...] = _HEAD
    if any(replayed) and _room(_HEAD, rows) >= _LEAST_REASON + len(max(replayed)):
        head = (*head, "replayed (UTC)")
        rows = [[*row, at or "-"] for row, at in zip(rows, replayed, strict=True)]
    if _room(head, rows) >= min(_LEAST_REASON, *map(cell_len, reasons)):
        whole = [[*row, reason] for row, reason in zip(rows, reasons, strict=True)]
        print_lines((*head, "reason"), whole, right=_RIGHT)
        return
    below = [
        f"[replayed {at}] {reason}" if at else reason
        for at, reason in zip(replayed, reasons, strict=True)
    ]
    print_lines(_HEAD, rows, right=_RIGHT, below=below)


def print_groups(groups: Sequence[Group], *, most: int = _GROUPS_SHOWN) -> None:
    """How many letters have each reason, and whose they are; the most frequent first."""
    shown = groups[:most]
    digits = max(len(f"{group.letters:,}") for group in shown)
    for group in shown:
        head, tail = (
            f"{group.letters:>{digits},} x {printable(group.reason).rstrip()}",
            _about(group),
        )
        if cell_len(head) + cell_len(tail) + 3 <= width():
            print(f"{head} ({tail})")
        else:
            print(cut(head, width()))
            print(cut(f"{'':>{digits}}   {tail}", width()))
    if more := groups[most:]:
        letters = sum(group.letters for group in more)
        print(f"{letters:,} more have {len(more):,} other reasons; --by-reason shows all")


def print_lines(
    names: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: Collection[int] = (),
    below: Sequence[str] = (),
) -> None:
    """Draw a table whose last column is cut at the edge, as are lines *below* its rows.

    The columns numbered *right* hold numbers.
    """
    widths = [max(map(cell_len, column)) for column in zip(names, *rows, strict=True)]
    is_terminal = sys.stdout.isatty()
    head = cut(_line(names, widths, right), width())
    print(f"\x1b[1m{head}\x1b[0m" if is_terminal else head)
    for index, row in enumerate(rows):
        print(cut(_line(row, widths, right), width()))
        if below:
            print(cut(f"{'':<{widths[0]}}{_GAP}{below[index]}", width()).rstrip())


def place(topic: str, partition: int, offset: int) -> str:
    """Where a record is, as text that is safe to print."""
    return f"{printable(topic)}/{partition}/{offset}"


def utc_time(time_ms: int | None) -> str:
    """The time to the second, empty where there is none, `-` where no calendar has it."""
    if time_ms is None:
        return ""
    return (iso_time(time_ms) or "-")[:19].replace("T", " ")


def cut(text: str, width: int) -> str:
    """The text in so many cells of a terminal."""
    if cell_len(text) <= width:
        return text
    shortened = Text(text)
    shortened.truncate(max(width, 1), overflow="ellipsis")
    return shortened.plain


def width() -> int:
    """How wide a line may be: elsewhere as wide as it must, so that it can be searched."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else _UNLIMITED


def _cells(entry: Entry, name: Name) -> list[str]:
    letter = entry.letter
    record = place(letter.topic, letter.partition, letter.offset) if letter else "-"
    return [
        str(name(entry)),
        utc_time(entry.time_ms),
        cut(record, _WIDEST_RECORD),
        with_unit(entry.payload_bytes, "B"),
        cut(printable(entry.node), _WIDEST_NODE) or "-",
    ]


def _about(group: Group) -> str:
    nodes = sorted(printable(node) or "-" for node in group.nodes)
    shown = [cut(node, _WIDEST_NODE) for node in nodes[:_NODES_SHOWN]]
    if group.has_more_nodes:
        shown.append("and many more")
    elif len(nodes) > _NODES_SHOWN:
        shown.append(f"and {len(nodes) - _NODES_SHOWN} more")
    parts = [f"topic {cut(printable(group.topic), _WIDEST_RECORD)}"] if group.topic else []
    parts.append(f"{'node' if len(nodes) == 1 else 'nodes'} {', '.join(shown)}")
    if group.replayed:
        all_of = "all" if group.replayed == group.letters else f"{group.replayed:,}"
        parts.append(f"{all_of} replayed")
    return ", ".join(parts)


def _room(names: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """How many cells are left of a line for one more column."""
    columns = zip(names, *rows, strict=True)
    return width() - sum(max(map(cell_len, column)) + len(_GAP) for column in columns)


def _line(cells: Sequence[str], widths: Sequence[int], right: Collection[int]) -> str:
    padded = []
    for index, (cell, wide) in enumerate(zip(cells, widths, strict=True)):
        space = " " * (wide - cell_len(cell))
        padded.append(space + cell if index in right else cell + space)
    return _GAP.join(padded).rstrip()
