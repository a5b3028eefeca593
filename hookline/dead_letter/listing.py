# SPDX-License-Identifier: Apache-2.0
"""`hookline dead-letter list`: the newest letters, and how many there are of each reason."""

import argparse
import sys
import time

from hookline.arguments import number_from
from hookline.dead_letter import table
from hookline.dead_letter.entries import Choice
from hookline.dead_letter.export import entry_record, group_record, write_records
from hookline.dead_letter.spans import Spans, letter_spans, naming, newest
from hookline.dead_letter.survey import Survey, survey
from hookline.dead_letter.tally import MAX_GROUPS
from hookline.topics import Topics

MAX_LETTERS = 100_000
EPILOG = """\
examples:
  hookline dead-letter list --by-reason
  hookline dead-letter list --since 1h --node web-1 --reason 'no msgpack'
  hookline dead-letter list --format json --limit 1000 > letters.jsonl
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `list`, without those that choose letters."""
    parser.add_argument(
        "--limit",
        type=number_from(1, MAX_LETTERS),
        default=20,
        metavar="N",
        help="how many, the newest (default: %(default)s)",
    )
    parser.add_argument(
        "--by-reason", action="store_true", help="only how many there are of each reason"
    )
    parser.add_argument(
        "--format",
        choices=("table", "json", "csv"),
        default="table",
        help="table; json, one object a line; csv with a header (default: %(default)s)",
    )


async def run(topics: Topics, args: argparse.Namespace) -> int:
    """Print them."""
    since_ms = since(args)
    spans = newest(await letter_spans(topics, since_ms=since_ms))
    choice = Choice(topic=args.topic, node=args.node, reason=args.reason)
    found = await survey(topics, spans, choice, keep=0 if args.by_reason else args.limit)
    if not found.tally.letters():
        is_all = choice == Choice() and not since_ms
        said = "no dead letters" if is_all else "no dead letters match"
        print(said, file=sys.stdout if args.format == "table" else sys.stderr)
        return 0
    if args.format != "table":
        _write(found, args)
    else:
        _print(found, spans, args)
    return 0


def since(args: argparse.Namespace) -> int:
    """The time that --since means, in milliseconds since the epoch; 0 for all."""
    return int((time.time() - args.since) * 1000) if args.since else 0


def _write(found: Survey, args: argparse.Namespace) -> None:
    if args.by_reason:
        write_records(args.format, [group_record(group) for group in found.tally.groups()])
    else:
        write_records(args.format, [entry_record(entry) for entry in found.newest()])


def _print(found: Survey, spans: Spans, args: argparse.Namespace) -> None:
    groups = found.tally.groups()
    if args.by_reason:
        table.print_groups(groups, most=MAX_GROUPS + 1)
        return
    entries = found.newest()
    table.print_entries(entries, naming(spans))
    print()
    if len(entries) < found.tally.letters():
        print(f"the newest {len(entries):,} of {found.tally.letters():,}; --limit shows more")
    table.print_groups(groups)
