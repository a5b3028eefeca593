# SPDX-License-Identifier: Apache-2.0
"""A Kafka record as it moves through the consumer: its bytes, where they came from, its rows."""

from dataclasses import dataclass

from schemas import wire

Partition = tuple[str, int]  # topic, number


@dataclass(frozen=True, slots=True)
class Record:
    """One record as Kafka stores it; *payload* is None where a producer sent no value.

    With a *fault* it stands for a whole record batch, which begins with *payload*.
    """

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    payload: bytes | None
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A record that could be decoded, and the rows in it."""

    record: Record
    rows: wire.Batch


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record that cannot become rows, and why."""

    record: Record
    reason: str


def judge(record: Record) -> Accepted | Rejected:
    """Decode a record, or say why it cannot be."""
    if record.fault:
        return Rejected(record, record.fault)
    if record.payload is None:
        return Rejected(record, "record has no value")
    try:
        rows = wire.decode(record.payload)
    except wire.WireError as error:
        return Rejected(record, str(error))
    if rows.record.topic != record.topic:
        return Rejected(record, f"kind {rows.kind!r} belongs into topic {rows.record.topic}")
    return Accepted(record, rows)
