# SPDX-License-Identifier: Apache-2.0
"""The record that a letter is about, whole, and whether the decoder would take it today.

A letter holds the beginning of a large record only; the rest is where the record was, for as long
as Kafka keeps it there.
"""

from consumer.record import Record, Rejected, judge
from hookline.topics import Topics
from schemas.catalogue import RECORDS
from schemas.dead_letter import Letter

# A letter may name any topic, and who writes letters need not be allowed to write there.
OURS = frozenset(record.topic for record in RECORDS)


class Gone(Exception):  # noqa: N818  # it says what the record is
    """The record is not there as a whole any more; the text says why, in one line."""


async def original(topics: Topics, letter: Letter) -> Record:
    """The record as it was rejected.

    Raises:
        Gone: the letter holds its beginning, and Kafka the rest no more.
        BrokerError: Kafka does not answer.
    """
    if not letter.is_cut:
        return beginning(letter)
    held = f"the letter holds {len(letter.payload or b''):,} of {letter.payload_bytes:,} bytes"
    if letter.topic not in OURS:
        raise Gone(f"{held}, and topic {letter.topic} is none of Hookline's")
    found = await topics.record_at((letter.topic, letter.partition), letter.offset)
    if found is None:
        raise Gone(f"{held}, and kafka has deleted the record")
    if not _is_same(found, letter):
        raise Gone(f"{held}, and another record is in its place now")
    return found


def refusal(record: Record) -> str:
    """Why the decoder refuses the record, empty where it takes it."""
    verdict = judge(record)
    return verdict.reason if isinstance(verdict, Rejected) else ""


def beginning(letter: Letter) -> Record:
    """The record as far as the letter holds it."""
    return Record(
        letter.topic,
        letter.partition,
        letter.offset,
        letter.timestamp_ms,
        letter.key,
        letter.payload,
    )


def _is_same(record: Record, letter: Letter) -> bool:
    payload, key = record.payload or b"", record.key or b""
    return (
        record.timestamp_ms == letter.timestamp_ms
        and len(payload) == letter.payload_bytes
        and payload.startswith(letter.payload or b"")
        and key.startswith(letter.key or b"")
    )
