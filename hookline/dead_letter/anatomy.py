# SPDX-License-Identifier: Apache-2.0
"""Read a record that the decoder refuses, as far as it can be read, and say what is wrong.

The decoder stops at the first fault, and rightly.  A person wants to see the rest too: who wrote
it, when, and which columns are as they should be.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgpack

from schemas import wire
from schemas.catalogue import RECORD_OF_KIND

HEADER = ("v", "kind", "node", "boot_id", "run", "seq", "n")
MAX_COLUMNS = 256
_MAX_KEYS = 64


@dataclass(slots=True)
class Column:
    """One column as it is written; *fault* is empty where the decoder takes it or passes over."""

    name: str
    type: str = ""
    content_bytes: int = 0
    more: str = ""
    fault: str = ""
    is_unknown: bool = False


@dataclass(slots=True)
class Anatomy:
    """What could be read; *end* says why no more could, empty where all was."""

    header: dict[str, object] = field(default_factory=dict)
    columns: list[Column] = field(default_factory=list)
    more_columns: int = 0
    missing: tuple[str, ...] = ()
    end: str = ""


def anatomy_of(payload: bytes) -> Anatomy:
    """The parts of a payload; nothing that it may hold is an error."""
    found, encoded = Anatomy(), dict[str, object]()
    try:
        _read(payload, found, encoded)
    except (ValueError, msgpack.UnpackException) as error:
        where = f" after column {next(reversed(encoded))}" if encoded else ""
        why = "it ends" if isinstance(error, msgpack.OutOfData) else f"no msgpack: {error}"
        found.end = f"cannot be read further{where}: {why}"
    _judge(found, encoded)
    return found


def _read(payload: bytes, found: Anatomy, encoded: dict[str, object]) -> None:
    unpacker = msgpack.Unpacker(max_buffer_size=max(len(payload), 1))
    unpacker.feed(payload)
    for _ in range(min(unpacker.read_map_header(), _MAX_KEYS)):
        key = unpacker.unpack()
        if key == "cols":
            _read_columns(unpacker, found, encoded)
            continue
        value = unpacker.unpack()
        if key in HEADER:
            found.header[key] = value


def _read_columns(unpacker: Any, found: Anatomy, encoded: dict[str, object]) -> None:
    for number in range(unpacker.read_map_header()):
        if number >= MAX_COLUMNS:
            unpacker.skip()
            unpacker.skip()
            found.more_columns += 1
            continue
        name = str(unpacker.unpack())
        encoded[name] = unpacker.unpack()


def _judge(found: Anatomy, encoded: Mapping[str, object]) -> None:
    record = RECORD_OF_KIND.get(str(found.header.get("kind")))
    fields = {one.name: one for one in record.fields} if record else {}
    rows = found.header.get("n")
    for name, content in encoded.items():
        column = _described(name, content)
        if record and name not in fields:
            column.is_unknown = True
        elif record and type(rows) is int and 0 <= rows <= wire.MAX_ROWS:
            column.fault = _fault(fields[name], content, rows)
        found.columns.append(column)
    found.missing = () if found.end else tuple(name for name in fields if name not in encoded)


def _described(name: str, content: object) -> Column:
    if not isinstance(content, list) or len(content) < 2:
        return Column(name, fault="is not [type, bytes]")
    size = len(content[1]) if isinstance(content[1], bytes) else 0
    column = Column(name, str(content[0]), size)
    if len(content) > 2 and isinstance(content[2], list):
        column.more = f"{len(content[2])} categories"
    elif len(content) > 2 and isinstance(content[2], bytes):
        column.more = f"{len(content[2])} bytes of text"
    return column


def _fault(one: Any, content: object, rows: int) -> str:
    try:
        wire.decode_column(one, content, rows)
    except wire.WireError as error:
        return str(error).removeprefix(f"column {one.name} ")
    return ""
