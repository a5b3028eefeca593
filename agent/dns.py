# SPDX-License-Identifier: Apache-2.0
"""Read DNS messages (RFC 1035): all of them at a time, label by label.

A message is anybody's choice of bytes.  Whatever is in it, nothing is read outside what was
captured of it, and the loop ends: a name has at most 255 bytes, and each pointer must lead
further back than all before it, as BIND has it too.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.pieces import Bytes, Indexes, Pieces
from schemas.wire import Text

HEADER_BYTES = 12
_MAX_NAME_BYTES = 255
_POINTER = 0xC0
_RESPONSE = 0x8000
_TRUNCATED = 0x0200


@dataclass(frozen=True, slots=True)
class Messages:
    """Captured messages, anywhere in *content*; each has at least HEADER_BYTES."""

    content: Bytes
    starts: Indexes
    lengths: Indexes

    def u16(self, at: int | Indexes, rows: Indexes | slice = slice(None)) -> NDArray[np.uint16]:
        """The number in network order that is *at* bytes into each message."""
        place = self.starts[rows] + at
        high = self.content[place].astype(np.uint16) << 8
        number: NDArray[np.uint16] = high | self.content[place + 1]
        return number


@dataclass(frozen=True, slots=True)
class _Questions:
    names: Text
    types: NDArray[np.uint16]
    classes: NDArray[np.uint16]
    is_malformed: NDArray[np.bool_]


def read_messages(messages: Messages) -> dict[str, Any]:
    """The columns of `dns` records that are in the messages themselves."""
    flags = messages.u16(2)
    questions = _read_questions(messages)
    return {
        "id": messages.u16(0),
        "flags": flags,
        "is_response": (flags & _RESPONSE) != 0,
        "opcode": flags >> 11 & 0xF,
        "is_truncated": (flags & _TRUNCATED) != 0,
        "response_code": flags & 0xF,
        "answers": messages.u16(6),
        "authorities": messages.u16(8),
        "additionals": messages.u16(10),
        "query_name": questions.names,
        "query_type": questions.types,
        "query_class": questions.classes,
        "is_malformed": questions.is_malformed,
    }


def _read_questions(messages: Messages) -> _Questions:
    count = len(messages.starts)
    names = Pieces()
    behind = _walk_names(messages, names)
    types, classes = np.zeros((2, count), np.uint16)
    rows = np.flatnonzero((behind > 0) & (behind + 4 <= messages.lengths))
    types[rows] = messages.u16(behind[rows], rows)
    classes[rows] = messages.u16(behind[rows] + 2, rows)
    is_malformed = messages.u16(4) > 0
    is_malformed[rows] = False
    return _Questions(names.text(messages.content, count, "."), types, classes, is_malformed)


def _walk_names(messages: Messages, names: Pieces) -> Indexes:
    """Collect the labels of every first question; where its type is, 0 where none is to be read."""
    count = len(messages.starts)
    at = np.full(count, HEADER_BYTES)
    behind = np.zeros(count, np.int64)
    name_bytes = np.zeros(count, np.int64)
    is_whole = np.zeros(count, np.bool_)
    furthest_back = np.full(count, HEADER_BYTES)
    rows = np.flatnonzero(messages.u16(4) > 0)
    while len(rows := rows[at[rows] < messages.lengths[rows]]):
        here = at[rows]
        place = messages.starts[rows] + here
        length = messages.content[place].astype(np.int64)
        room = messages.lengths[rows] - here - 1
        # The end of the name; the root's is its only piece.
        is_end = length == 0
        ended = rows[is_end]
        behind[ended] = np.where(behind[ended], behind[ended], at[ended] + 1)
        is_whole[ended] = True
        is_root = is_end & (name_bytes[rows] == 0)
        names.add(rows[is_root], place[is_root] + 1, length[is_root])
        # A label: the end needs a byte as well.
        is_label = (length > 0) & (length < 64) & (length <= room)
        is_label &= name_bytes[rows] + length + 2 <= _MAX_NAME_BYTES
        labels = rows[is_label]
        names.add(labels, place[is_label] + 1, length[is_label])
        name_bytes[labels] += length[is_label] + 1
        at[labels] += length[is_label] + 1
        # A pointer, whose target is in its last 14 bits.
        pointers = np.flatnonzero((length >= _POINTER) & (room >= 1))
        target = (length[pointers] & 0x3F) << 8 | messages.content[place[pointers] + 1]
        is_back = target < furthest_back[rows[pointers]]
        jumping, target = rows[pointers[is_back]], target[is_back]
        behind[jumping] = np.where(behind[jumping], behind[jumping], at[jumping] + 2)
        at[jumping] = furthest_back[jumping] = target
        rows = np.concatenate([labels, jumping])
    return np.where(is_whole, behind, 0)
