# SPDX-License-Identifier: Apache-2.0
"""One letter as it stands in the topic, and which of them somebody asks for."""

import argparse
import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from consumer.record import Record
from schemas.dead_letter import Letter, LetterError, Note, decode, node_of

_NUMBER = re.compile(r"(?:(\d{1,10})/)?(\d{1,19})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Number:
    """What calls a letter: its offset, and its partition where there are several."""

    partition: int | None
    offset: int

    def __str__(self) -> str:
        return str(self.offset) if self.partition is None else f"{self.partition}/{self.offset}"


@dataclass(frozen=True, slots=True)
class Entry:
    """A letter and its place; *letter* is None where it could not be read, and *fault* why."""

    partition: int
    offset: int
    time_ms: int
    node: str
    payload_bytes: int
    letter: Letter | None
    fault: str = ""
    replayed_ms: int | None = None

    @property
    def reason(self) -> str:
        return f"unreadable letter: {self.fault}" if self.letter is None else self.letter.reason

    @property
    def topic(self) -> str:
        return "" if self.letter is None else self.letter.topic

    def without_payload(self) -> "Entry":
        """The same, small enough to keep."""
        if self.letter is None:
            return self
        return replace(self, letter=replace(self.letter, payload=None))


@dataclass(frozen=True, slots=True)
class Choice:
    """Which letters: those that fit each of these, where it is given."""

    topic: str | None = None
    node: str | None = None
    reason: str | None = None
    offsets: Collection[tuple[int, int]] | None = None

    def takes(self, entry: Entry) -> bool:
        return (
            (self.topic is None or entry.topic == self.topic)
            and (self.node is None or entry.node == self.node)
            and (self.reason is None or self.reason.casefold() in entry.reason.casefold())
            and (self.offsets is None or (entry.partition, entry.offset) in self.offsets)
        )


def number_in(text: str) -> Number:
    """The number of a letter, as `list` shows it."""
    found = _NUMBER.fullmatch(text)
    if found is None or int(found[2]) >= 1 << 63:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of a letter: write 17, or 2/17")
    return Number(None if found[1] is None else int(found[1]), int(found[2]))


def read(record: Record) -> Entry | Note:
    """What a record of the topic is; nothing that it may hold is an error."""
    if record.fault:
        return _entry(record, None, fault=record.fault)
    try:
        found = decode(record.payload)
    except LetterError as error:
        return _entry(record, None, fault=str(error))
    return found if isinstance(found, Note) else _entry(record, found)


def iso_time(time_ms: int) -> str | None:
    """The time as `2026-01-31T12:00:00.000Z`; None where no calendar has it."""
    try:
        moment = datetime.fromtimestamp(time_ms / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _entry(record: Record, letter: Letter | None, fault: str = "") -> Entry:
    return Entry(
        partition=record.partition,
        offset=record.offset,
        time_ms=record.timestamp_ms,
        node=node_of(record.key if letter is None else letter.key),
        payload_bytes=len(record.payload or b"") if letter is None else letter.payload_bytes,
        letter=letter,
        fault=fault,
    )
