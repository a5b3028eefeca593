# SPDX-License-Identifier: Apache-2.0
"""Dead letters, and the notes about them: what one topic holds of records that could not be used.

    {"v": 1, "reason": "column bytes has type <f8, not <u8", "topic": "hookline.flow.v1",
     "partition": 0, "offset": 1234, "timestamp_ms": …, "key": bin, "payload": bin,
     "payload_bytes": 5678}
    {"v": 1, "note": "replayed", "letters": [17, 18, 21]}

Both are msgpack maps, and docs/reference/record-format.md specifies them.  A letter is never
changed: what became of it is a note behind it, in the same partition.  What comes off the topic
is untrusted: everything is checked before it is used.
"""

from dataclasses import dataclass
from typing import Any

import msgpack

TOPIC = "hookline.dead-letter"
VERSION = 1
MAX_REASON_CHARACTERS = 500
MAX_TOPIC_CHARACTERS = 249  # as Kafka has it
MAX_KEY_BYTES = 1024
# A broker takes 1 MiB unless told otherwise; this leaves room for the rest of the map.
MAX_PAYLOAD_BYTES = 900_000
REPLAYED = "replayed"

_MAX_INT32 = (1 << 31) - 1
_MAX_INT64 = (1 << 63) - 1


class LetterError(ValueError):
    """A value that is neither a letter nor a note; the text says why."""


@dataclass(frozen=True, slots=True)
class Letter:
    """A rejected record: why, where it is, and what it held.

    *payload* is its beginning where *payload_bytes* is more than it holds.
    """

    reason: str
    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    payload: bytes | None
    payload_bytes: int

    @property
    def is_cut(self) -> bool:
        """Whether the record held more than the letter does, as far as the letter can know."""
        is_key_cut = len(self.key or b"") >= MAX_KEY_BYTES
        return self.payload_bytes > len(self.payload or b"") or is_key_cut


@dataclass(frozen=True, slots=True)
class Note:
    """What became of letters: *what* is `replayed`, or a word of a later version.

    *letters* are their offsets in the partition of the note.
    """

    what: str
    letters: tuple[int, ...]


def encode(letter: Letter) -> bytes:
    return msgpack.packb(  # type: ignore[no-any-return]
        {
            "v": VERSION,
            "reason": letter.reason,
            "topic": letter.topic,
            "partition": letter.partition,
            "offset": letter.offset,
            "timestamp_ms": letter.timestamp_ms,
            "key": letter.key,
            "payload": letter.payload,
            "payload_bytes": letter.payload_bytes,
        }
    )


def encode_note(note: Note) -> bytes:
    return msgpack.packb(  # type: ignore[no-any-return]
        {"v": VERSION, "note": note.what, "letters": list(note.letters)}
    )


def decode(value: bytes | None) -> Letter | Note:
    """The letter or note in a record's value.

    Raises:
        LetterError: it is neither.
    """
    content = _unpack(value)
    if (version := content.get("v")) != VERSION:
        raise LetterError(f"version is {str(version)[:40]}, not {VERSION}")
    if "note" in content:
        return _note(content)
    payload = _bytes(content, "payload", _MAX_INT32)
    return Letter(
        reason=_text(content, "reason", None)[:MAX_REASON_CHARACTERS],
        topic=_text(content, "topic", MAX_TOPIC_CHARACTERS),
        partition=_whole_number(content, "partition", 0, _MAX_INT32),
        offset=_whole_number(content, "offset", 0, _MAX_INT64),
        timestamp_ms=_whole_number(content, "timestamp_ms", -_MAX_INT64, _MAX_INT64),
        key=_bytes(content, "key", MAX_KEY_BYTES),
        payload=payload,
        payload_bytes=_whole_number(content, "payload_bytes", len(payload or b""), _MAX_INT64),
    )


def node_of(key: bytes | None) -> str:
    """The node that the key of a record names, empty where it has none."""
    return (key or b"")[:MAX_KEY_BYTES].decode(errors="backslashreplace")


def _unpack(value: bytes | None) -> dict[str, Any]:
    if value is None:
        raise LetterError("it has no value")
    try:
        content = msgpack.unpackb(value)
    except (ValueError, msgpack.UnpackException) as error:
        raise LetterError(f"it is no msgpack: {str(error) or type(error).__name__}") from None
    if not isinstance(content, dict):
        raise LetterError(f"it is a {type(content).__name__}, not a map")
    return content


def _note(content: dict[str, Any]) -> Note:
    letters = content.get("letters", [])
    if not isinstance(letters, list) or not all(type(one) is int and one >= 0 for one in letters):
        raise LetterError("letters is no list of offsets")
    return Note(_text(content, "note", None)[:MAX_REASON_CHARACTERS], tuple(letters))


def _text(content: dict[str, Any], key: str, most: int | None) -> str:
    value = content.get(key)
    if not isinstance(value, str) or not value or (most is not None and len(value) > most):
        limits = "" if most is None else f" of 1 to {most} characters"
        raise LetterError(f"{key} is no text{limits}")
    return value


def _bytes(content: dict[str, Any], key: str, most: int) -> bytes | None:
    value = content.get(key)
    if value is not None and (not isinstance(value, bytes) or len(value) > most):
        raise LetterError(f"{key} is neither nil nor at most {most} bytes")
    return value


def _whole_number(content: dict[str, Any], key: str, least: int, most: int) -> int:
    value = content.get(key)
    if type(value) is not int or not least <= value <= most:
        raise LetterError(f"{key} is {str(value)[:40]}, not a whole number from {least} to {most}")
    return value
