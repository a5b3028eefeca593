# SPDX-License-Identifier: Apache-2.0
"""`hookline dead-letter show`: everything of one letter, and its payload as a file."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from consumer.record import Partition
from hookline.dead_letter import details
from hookline.dead_letter.entries import Choice, Entry, number_in, read
from hookline.dead_letter.original import Gone, beginning, original, refusal
from hookline.dead_letter.spans import NoLetter, called, letter_spans, naming
from hookline.dead_letter.survey import survey
from hookline.topics import Topics
from schemas.dead_letter import TOPIC, Letter, Note

EPILOG = """\
examples:
  hookline dead-letter show 17
  hookline dead-letter show 17 --payload record.msgpack
"""
_ABOUT_ROWS = "clickhouse refuses its rows"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `show`."""
    parser.add_argument("number", type=number_in, metavar="NUMBER", help="as `list` shows it")
    parser.add_argument("--payload", type=Path, metavar="FILE", help="write the payload there")


async def run(topics: Topics, args: argparse.Namespace) -> int:
    """Print it.

    Raises:
        NoLetter: there is none of that number.
        OSError: the file cannot be written.
    """
    spans = await letter_spans(topics)
    [(partition, offset)] = called([args.number], spans)
    record = await topics.record_at((TOPIC, partition), offset)
    if record is None:
        raise NoLetter(f"there is no letter {args.number} any more")
    found = read(record)
    if isinstance(found, Note):
        raise NoLetter(f"there is no letter {args.number}: it is a note that some were replayed")
    rest = {(TOPIC, partition): range(offset, spans[TOPIC, partition].stop)}
    entry = await _with_replay(topics, found, rest)
    number = str(naming(spans)(entry))
    if entry.letter is None:
        payload = record.payload or b""
        details.print_place(entry, number)
    else:
        payload = await _print_letter(topics, entry, entry.letter, number)
    details.print_bytes(payload)
    if args.payload is not None:
        args.payload.write_bytes(payload)
        _warn_of_less(entry, payload)
    return 0


async def _with_replay(topics: Topics, entry: Entry, rest: dict[Partition, range]) -> Entry:
    """The letter with what notes say of it, which are behind it."""
    choice = Choice(offsets={(entry.partition, entry.offset)})
    found = (await survey(topics, rest, choice, keep=1)).newest()
    return replace(entry, replayed_ms=found[0].replayed_ms) if found else entry


async def _print_letter(topics: Topics, entry: Entry, letter: Letter, number: str) -> bytes:
    """Print what a letter says, and what would become of its record today; its payload.

    The payload is as much of it as there is.
    """
    try:
        record, gone = await original(topics, letter), ""
    except Gone as error:
        record, gone = beginning(letter), str(error)
    payload = record.payload or b""
    details.print_place(entry, number)
    details.print_size(letter, len(payload))
    if gone:
        details.print_verdict(f"cannot be replayed: {gone}")
    elif refused := refusal(record):
        details.print_verdict(f"still refused: {refused}")
    elif letter.reason.startswith(_ABOUT_ROWS):
        details.print_verdict("would be taken now by the decoder; clickhouse has the last word")
    else:
        details.print_verdict("would be taken now")
    details.print_anatomy(payload)
    return payload


def _warn_of_less(entry: Entry, payload: bytes) -> None:
    if len(payload) < entry.payload_bytes:
        print(
            f"hookline dead-letter: only {len(payload):,} of {entry.payload_bytes:,} bytes are left",
            file=sys.stderr,
        )
