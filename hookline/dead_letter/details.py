# SPDX-License-Identifier: Apache-2.0
"""Print everything of one letter: its place, its reason, and what can be read of its record."""

import textwrap
from collections.abc import Iterator, Sequence

from hookline.dead_letter.anatomy import HEADER, Anatomy, Column, anatomy_of
from hookline.dead_letter.entries import Entry
from hookline.dead_letter.table import cut, place, print_lines, utc_time, width
from hookline.output import printable
from schemas.dead_letter import Letter

DUMPED_BYTES = 128
_LINE_BYTES = 16
_LABEL_WIDTH = 10
_WIDEST_VALUE = 600
_WIDEST_NAME = 40
_WIDEST_TYPE = 12
# How people call them.
_CALLED = {"v": "version", "n": "rows"}


def print_place(entry: Entry, number: str) -> None:
    """Where the letter and its record are, and why it was rejected."""
    _say("letter", number)
    _say("rejected", _utc(entry.time_ms))
    if (letter := entry.letter) is not None:
        _say("record", place(letter.topic, letter.partition, letter.offset))
        _say("written", _utc(letter.timestamp_ms))
    _say("key", entry.node or "none")
    _say("reason", entry.reason)
    _say("replayed", "no" if entry.replayed_ms is None else _utc(entry.replayed_ms))


def print_size(letter: Letter, found_bytes: int) -> None:
    """How long the payload was, and how much of it is still there."""
    held = len(letter.payload or b"")
    size = f"{letter.payload_bytes:,} bytes"
    if held < letter.payload_bytes:
        rest = "kafka still has all" if found_bytes == letter.payload_bytes else "the rest is gone"
        size += f", {held:,} of them in the letter; {rest}"
    _say("size", size)


def print_verdict(verdict: str) -> None:
    """What would become of the record today."""
    _say("today", verdict)


def print_anatomy(payload: bytes) -> None:
    """The header and the columns of a record, as far as they can be read."""
    anatomy = anatomy_of(payload)
    if not anatomy.header and not anatomy.columns:
        return
    print()
    for key in HEADER:
        if key in anatomy.header:
            _say(_CALLED.get(key, key), str(anatomy.header[key]))
    _print_columns(anatomy)


def print_bytes(payload: bytes) -> None:
    """The beginning of a payload."""
    shown = payload[:DUMPED_BYTES]
    which = "all" if len(shown) == len(payload) else f"the first {len(shown)} of {len(payload):,}"
    print(f"\n{which} bytes" if payload else "\nno bytes")
    for line in _dump(shown):
        print(f"  {line}")


def _print_columns(anatomy: Anatomy) -> None:
    _say("columns", f"{len(anatomy.columns) + anatomy.more_columns:,}")
    _say_names("wrong", [column.name for column in anatomy.columns if column.fault])
    _say_names("unknown", [column.name for column in anatomy.columns if column.is_unknown])
    _say_names("missing", anatomy.missing)
    if anatomy.end:
        _say("end", anatomy.end)
    if anatomy.columns:
        print()
        rows = [_cells(column) for column in anatomy.columns]
        print_lines(("column", "type", "bytes", "remark"), rows, right=(2,))


def _cells(column: Column) -> Sequence[str]:
    unknown = "unknown to this version, which passes over it" if column.is_unknown else ""
    return (
        cut(printable(column.name), _WIDEST_NAME),
        cut(printable(column.type), _WIDEST_TYPE),
        f"{column.content_bytes:,}",
        printable(", ".join(filter(None, (column.more, unknown, column.fault)))),
    )


def _dump(content: bytes) -> Iterator[str]:
    """Lines as `hexdump -C` has them."""
    for at in range(0, len(content), _LINE_BYTES):
        line = content[at : at + _LINE_BYTES]
        halves = (line[:8].hex(" "), line[8:].hex(" "))
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in line)
        yield f"{at:08x}  {halves[0]:<23}  {halves[1]:<23}  |{text}|"


def _utc(time_ms: int) -> str:
    return f"{utc_time(time_ms)} UTC"


def _say_names(label: str, names: Sequence[str]) -> None:
    if names:
        _say(label, ", ".join(names))


def _say(label: str, value: str) -> None:
    """A label and a value, which goes on below itself where the line is too short."""
    text = cut(printable(value), _WIDEST_VALUE)
    lines = textwrap.wrap(text, max(width() - _LABEL_WIDTH, 20)) or [""]
    for index, line in enumerate(lines):
        print(f"{'' if index else label:<{_LABEL_WIDTH}}{line}".rstrip())
