# SPDX-License-Identifier: Apache-2.0
"""Where the letters lie in Kafka, and which of them a number calls."""

import sys
from collections.abc import Callable, Iterable, Mapping

from consumer.record import Partition
from hookline.dead_letter.entries import Entry, Number
from hookline.topics import Topics
from schemas.dead_letter import TOPIC

# What is kept of each then takes 32 MB.
MAX_OFFSETS = 1 << 24

Spans = Mapping[Partition, range]


class NoLetter(Exception):  # noqa: N818  # it says what there is at that number
    """There is no such letter; the text says so in one line."""


class Ambiguous(Exception):  # noqa: N818  # likewise
    """A number without a partition, where there are several; the text says how to write it."""


async def letter_spans(topics: Topics, *, since_ms: int = 0) -> Spans:
    """The offsets of the topic, from the time *since_ms* on; none where it does not exist."""
    return await topics.spans(await topics.partitions([TOPIC]), since_ms=since_ms)


def newest(spans: Spans) -> Spans:
    """As many of these offsets, the newest, as may be read at once; says where it is not all."""
    most = MAX_OFFSETS // max(len(spans), 1)
    if all(len(span) <= most for span in spans.values()):
        return spans
    sys.stderr.write(f"hookline dead-letter: only the newest {MAX_OFFSETS:,} offsets are read\n")
    return {partition: span[-most:] for partition, span in spans.items()}


def naming(spans: Spans) -> Callable[[Entry], Number]:
    """What calls a letter: its offset, and its partition where there are several."""
    if len(spans) == 1:
        return lambda entry: Number(None, entry.offset)
    return lambda entry: Number(entry.partition, entry.offset)


def called(numbers: Iterable[Number], spans: Spans) -> set[tuple[int, int]]:
    """Partition and offset of each number.

    Raises:
        Ambiguous: a number may call several letters.
        NoLetter: a number calls none.
    """
    return {_called(number, spans) for number in numbers}


def _called(number: Number, spans: Spans) -> tuple[int, int]:
    if not spans:
        raise NoLetter(f"there is no letter {number}: there are no dead letters")
    partition = number.partition
    if partition is None and len(spans) > 1:
        raise Ambiguous(
            f"{number} may be in each of {len(spans)} partitions: write PARTITION/NUMBER,"
            f" as in 0/{number}"
        )
    if partition is None:
        [(_, partition)] = spans
    span = spans.get((TOPIC, partition), range(0))
    if number.offset not in span:
        there = f"holds {span.start} to {span.stop - 1}" if span else "holds none there"
        raise NoLetter(f"there is no letter {number}: {TOPIC} {there}")
    return partition, number.offset
