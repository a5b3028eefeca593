# SPDX-License-Identifier: Apache-2.0
"""`hookline dead-letter replay`: send letters again, those that are named or all that match."""

import argparse
from collections.abc import AsyncIterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hookline.dead_letter import table
from hookline.dead_letter.entries import Choice, number_in
from hookline.dead_letter.listing import since
from hookline.dead_letter.resend import Outcome, resend
from hookline.dead_letter.spans import NoLetter, Spans, called, letter_spans, naming, newest
from hookline.dead_letter.survey import Survey, survey
from hookline.dead_letter.tally import Tally
from hookline.output import printable
from hookline.progress import Progress
from hookline.topics import Topics
from schemas.dead_letter import TOPIC
from service.options import ConfigError

EPILOG = """\
examples:
  hookline dead-letter replay 17 18
  hookline dead-letter replay --all --topic hookline.flow.v1 --dry-run

The decoder of this version checks each record first; what it refuses is not sent, and said.
A consumer that has stored a record already does not store it again.
"""

Offsets = Mapping[int, NDArray[Any]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `replay`, without those that choose letters."""
    parser.add_argument(
        "numbers", nargs="*", type=number_in, metavar="NUMBER", help="as `list` shows them"
    )
    parser.add_argument(
        "--all", action="store_true", help="every letter that matches and was not replayed yet"
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
    parser.add_argument(
        "--force",
        action="store_true",
        help="send what the decoder refuses too, and what was replayed already",
    )


def check(args: argparse.Namespace) -> None:
    """Raises: ConfigError where numbers, --all and filters do not go together."""
    is_filtered = _choice(args) != Choice() or args.since
    if bool(args.numbers) == args.all or (args.numbers and is_filtered):
        raise ConfigError("name letters by their numbers, or give --all, which filters may narrow")


async def run(topics: Topics, args: argparse.Namespace) -> int:
    """Send them; 1 where one of them was refused.

    Raises:
        NoLetter: a number calls no letter; then nothing is sent.
        BrokerError: Kafka stopped answering.
    """
    return await (_replay_all if args.all else _replay_numbers)(topics, args)


async def _replay_numbers(topics: Topics, args: argparse.Namespace) -> int:
    spans = await letter_spans(topics)
    found = await _named(topics, spans, args)
    outcomes = []
    if not args.force:
        outcomes += [
            Outcome(entry, f"it was replayed {table.utc_time(entry.replayed_ms)}; see --force")
            for entry in found.newest()
            if entry.replayed_ms is not None
        ]
    try:
        async for some in _resent(topics, _wanted(found, args), args):
            outcomes += some
    finally:
        # Also where Kafka goes away in the middle: what was sent until then is done.
        for outcome in sorted(outcomes, key=lambda one: (one.entry.partition, one.entry.offset)):
            print(f"{naming(spans)(outcome.entry)} {_told(outcome)}")
    return int(any(outcome.refused for outcome in outcomes))


async def _named(topics: Topics, spans: Spans, args: argparse.Namespace) -> Survey:
    """The letters of these numbers; raises: NoLetter where one of them is none."""
    wanted = called(args.numbers, spans)
    # Of several in a partition the last one stays, which is the lowest.
    firsts = dict(sorted(wanted, reverse=True))
    behind = {
        (TOPIC, partition): range(first, spans[TOPIC, partition].stop)
        for partition, first in firsts.items()
    }
    found = await survey(topics, behind, Choice(offsets=wanted), keep=len(wanted))
    missing = wanted - {(entry.partition, entry.offset) for entry in found.newest()}
    for number in args.numbers:
        if called([number], spans) & missing:
            raise NoLetter(f"there is no letter {number}: a note is there, or nothing any more")
    return found


async def _replay_all(topics: Topics, args: argparse.Namespace) -> int:
    spans = newest(await letter_spans(topics, since_ms=since(args)))
    found = await survey(topics, spans, _choice(args), keep=0)
    if not found.tally.letters():
        print("no dead letters match")
        return 0
    offsets = _wanted(found, args)
    sent, refused = 0, Tally()
    try:
        with Progress("replaying dead letters", sum(map(len, offsets.values()))) as progress:
            async for outcomes in _resent(topics, offsets, args):
                for outcome in outcomes:
                    if outcome.refused:
                        refused.add(outcome.entry, outcome.refused)
                    else:
                        sent += 1
                progress.add(len(outcomes))
    finally:
        _print_books(found, sent, refused, args)
    return int(bool(refused.letters()))


def _wanted(found: Survey, args: argparse.Namespace) -> Offsets:
    offsets = found.unreplayed()
    if not args.force:
        return offsets
    replayed = found.replayed()
    return {one: np.union1d(offsets[one], replayed[one]) for one in offsets}


def _resent(
    topics: Topics, offsets: Offsets, args: argparse.Namespace
) -> AsyncIterator[list[Outcome]]:
    return resend(topics, offsets, is_forced=args.force, is_trial=args.dry_run)


def _choice(args: argparse.Namespace) -> Choice:
    return Choice(topic=args.topic, node=args.node, reason=args.reason)


def _told(outcome: Outcome) -> str:
    if outcome.refused:
        return f"refused: {printable(outcome.refused)}"
    if outcome.place is None:
        return f"would be sent to {printable(outcome.entry.topic)}"
    return f"replayed: {table.place(outcome.entry.topic, *outcome.place)}"


def _print_books(found: Survey, sent: int, refused: Tally, args: argparse.Namespace) -> None:
    print(f"{'would replay' if args.dry_run else 'replayed'} {_letters(sent)}")
    if before := sum(map(len, found.replayed().values())) * (not args.force):
        print(f"passed over {_letters(before)} that had been replayed before")
    if refused.letters():
        print(f"refused {_letters(refused.letters())}:")
        table.print_groups(refused.groups())


def _letters(count: int) -> str:
    return f"{count:,} letter" if count == 1 else f"{count:,} letters"
