# SPDX-License-Identifier: Apache-2.0
"""Send rejected records again to the topics that they came from, and note in the topic which.

Some are sent, all of them are acknowledged, then a note names them.  After a crash between the two
they are sent once more, which a consumer knows by the names of the records; the other way round
they would be lost.  A transaction would need no such order, but its markers take offsets, and the
consumer counts an offset without a record as a record lost.
"""

from collections.abc import AsyncIterator, Awaitable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from consumer.record import Record
from hookline.dead_letter.entries import Entry, read
from hookline.dead_letter.original import OURS, Gone, original, refusal
from hookline.topics import Topics, acknowledged
from schemas.dead_letter import REPLAYED, TOPIC, Note, encode_note
from service.broker import BrokerError

_MAX_SENT = 200
_MAX_SENT_BYTES = 16 << 20
# Reading what is in between costs less than beginning anew.
_MAX_GAP = 1000


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a letter: refused with a reason, or sent to a topic.

    *place* is partition and offset there; None where it was only tried.
    """

    entry: Entry
    refused: str = ""
    place: tuple[int, int] | None = None


@dataclass(slots=True)
class _Sent:
    """Records that are on their way, and their letters."""

    entries: list[Entry] = field(default_factory=list)
    waiting: list[Awaitable[Any]] = field(default_factory=list)
    payload_bytes: int = 0

    @property
    def is_full(self) -> bool:
        return len(self.entries) >= _MAX_SENT or self.payload_bytes >= _MAX_SENT_BYTES


async def resend(
    topics: Topics, offsets: Mapping[int, NDArray[Any]], *, is_forced: bool, is_trial: bool
) -> AsyncIterator[list[Outcome]]:
    """Send the letters at *offsets*, by partition, again; what became of them, some at a time.

    Raises:
        BrokerError: Kafka does not answer; what was told before is done.
    """
    sent = _Sent()
    for partition, wanted in offsets.items():
        for some in _runs(wanted):
            chosen = frozenset(some.tolist())
            span = range(int(some[0]), int(some[-1]) + 1)
            async for records in topics.records({(TOPIC, partition): span}):
                for record in records:
                    entry = read(record)
                    if isinstance(entry, Note) or record.offset not in chosen:
                        continue
                    ready, refused = await _ready(topics, entry, is_forced=is_forced)
                    if ready is None or is_trial:
                        yield [Outcome(entry.without_payload(), refused)]
                        continue
                    await _send(topics, sent, entry, ready)
                    if sent.is_full:
                        yield await _settled(topics, sent)
                        sent = _Sent()
    if sent.entries:
        yield await _settled(topics, sent)


async def _ready(topics: Topics, entry: Entry, *, is_forced: bool) -> tuple[Record | None, str]:
    """The record to send, or why it is not sent."""
    letter = entry.letter
    if letter is None:
        return None, entry.reason
    if letter.topic not in OURS:
        return None, f"topic {letter.topic} is none of Hookline's"
    try:
        record = await original(topics, letter)
    except Gone as gone:
        return None, str(gone)
    if record.payload is None:
        return None, "record has no value"
    refused = "" if is_forced else refusal(record)
    return (None, refused) if refused else (record, "")


async def _send(topics: Topics, sent: _Sent, entry: Entry, record: Record) -> None:
    payload = record.payload or b""
    sent.waiting.append(await topics.send(record.topic, payload, key=record.key))
    sent.entries.append(entry.without_payload())
    sent.payload_bytes += len(payload)


async def _settled(topics: Topics, sent: _Sent) -> list[Outcome]:
    places = await acknowledged(sent.waiting)
    try:
        await acknowledged([await _noted(topics, sent, one) for one in _partitions(sent)])
    except BrokerError as error:
        raise BrokerError(
            f"{len(sent.entries)} letters were replayed, but kafka takes no note of it: {error}"
        ) from None
    return [Outcome(entry, place=place) for entry, place in zip(sent.entries, places, strict=True)]


async def _noted(topics: Topics, sent: _Sent, partition: int) -> Awaitable[Any]:
    letters = tuple(one.offset for one in sent.entries if one.partition == partition)
    note = encode_note(Note(REPLAYED, letters))
    return await topics.send(TOPIC, note, key=None, partition=partition)


def _partitions(sent: _Sent) -> list[int]:
    return sorted({entry.partition for entry in sent.entries})


def _runs(offsets: NDArray[Any]) -> list[NDArray[Any]]:
    """Offsets in pieces that are worth reading from end to end."""
    if not len(offsets):
        return []
    return np.split(offsets, np.flatnonzero(np.diff(offsets) > _MAX_GAP) + 1)
