# SPDX-License-Identifier: Apache-2.0
"""`hookline drop list` and `hookline drop show`: the rules of an agent."""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass

from hookline import output, words
from hookline.drop import arguments
from hookline.drop.orders import Standing, installed
from schemas.rules.allow import conflicts
from schemas.rules.boxes import boxes_of
from schemas.rules.decide import in_order
from schemas.rules.rulesfile import meaning_in_words, time_of

_HEADER = (
    *("priority", "name", "state", "action", "match", "until", "packets", "bytes", "refused"),
    "from",
)
_NUMBERS = (0, 6, 7, 8)


@dataclass(frozen=True, slots=True)
class _Action:
    """One of the two actions."""

    EPILOG: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def _add_list(parser: argparse.ArgumentParser) -> None:
    _add_format(parser)
    arguments.add_agent(parser)


def _add_show(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the name of a rule")
    _add_format(parser)
    arguments.add_agent(parser)


def _add_format(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--format",
        choices=("table", "json"),
        default="table",
        help="table; json, one object a line (default: %(default)s)",
    )


def _list(args: argparse.Namespace) -> int:
    there = installed(args.agent)
    by_name = {standing.rule.name: standing for standing in there.rules}
    ordered = [by_name[rule.name] for rule in in_order(one.rule for one in there.rules)]
    if args.format == "json":
        for standing in ordered:
            print(json.dumps(standing.to_record()))
    elif ordered:
        output.print_table(_HEADER, [_row(standing) for standing in ordered], right=_NUMBERS)
    else:
        print("no rules; hookline drop add adds one", file=sys.stderr)
    return 0


def _row(standing: Standing) -> list[str]:
    rule = standing.rule
    return [
        str(rule.priority),
        rule.name,
        standing.state,
        f"{rule.action} {rule.limit}" if rule.limit else rule.action,
        meaning_in_words(rule),
        time_of(rule.until_ns) if rule.until_ns else "-",
        words.with_unit(standing.hit_packets, ""),
        words.with_unit(standing.hit_bytes, ""),
        words.with_unit(standing.over_packets, ""),
        standing.origin,
    ]


def _show(args: argparse.Namespace) -> int:
    there = installed(args.agent)
    standing = there.named(args.name)
    if args.format == "json":
        print(json.dumps(standing.to_record()))
        return 0
    rule = standing.rule
    verb = "would refuse" if rule.is_observed else "refused"
    told = {
        "name": rule.name,
        "state": standing.state,
        "match": rule.match or "any packet",
        **{
            side: f"in {len(networks):,} networks: {', '.join(map(str, networks[:3]))}"
            + (", ..." if len(networks) > 3 else "")
            for side, networks in (("src", rule.src), ("dst", rule.dst))
            if networks
        },
        "action": f"{rule.action} {rule.limit}" if rule.limit else rule.action,
        "priority": str(rule.priority),
        "until": time_of(rule.until_ns) if rule.until_ns else "no end",
        "owner": rule.owner or "-",
        "reason": rule.reason or "-",
        "from": standing.origin,
        "counts since": time_of(standing.since_ns) if standing.since_ns else "-",
        "matched": f"{standing.hit_packets:,} packets, {standing.hit_bytes:,} bytes",
        verb: f"{standing.over_packets:,} packets, {standing.over_bytes:,} bytes",
        "boxes": str(len(boxes_of(rule))),
    }
    if there.allowed is not None and (reasons := conflicts(rule, there.allowed)):
        told["passes anyway"] = ", ".join(reasons)
    width = max(map(len, told))
    for key, value in told.items():
        print(f"{key:{width}}  {output.printable(value)}")
    return 0


LIST = _Action(
    "examples:\n  hookline drop list\n  hookline drop list --format json\n", _add_list, _list
)
SHOW = _Action("examples:\n  hookline drop show no-telnet\n", _add_show, _show)
