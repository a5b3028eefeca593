# SPDX-License-Identifier: Apache-2.0
"""`hookline drop add`: add a rule, which is observed until it is told otherwise."""

import argparse
from dataclasses import replace

from hookline.drop import arguments
from hookline.drop.orders import change, installed
from schemas.rules.boxes import boxes_of
from schemas.rules.rule import RuleError
from schemas.rules.rulesfile import described

EPILOG = """\
examples:
  hookline drop add no-telnet 'tcp dst port 23'
  hookline drop add scanners ip --src-list scanners.txt --for 1d --now
  hookline drop add calm 'udp dst port 53' --limit 100/s --per source
  hookline drop add office 'src net 192.0.2.0/24' --action pass --priority 1000 --now
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `add`."""
    parser.add_argument("name", metavar="NAME", help="of a-z, 0-9, '.', '_' and '-'")
    parser.add_argument(
        "match",
        nargs="+",
        metavar="MATCH",
        help="which packets, as a filter says it; '' is every IP packet",
    )
    arguments.add_rule(parser)
    arguments.add_standing(parser)
    parser.add_argument("--now", action="store_true", help="enforce it at once")
    parser.add_argument(
        "--replace", action="store_true", help="put it in the place of the rule of that name"
    )
    parser.add_argument(
        "--despite-allowed",
        action="store_true",
        help="add it though it means packets of the allow list, which pass anyway",
    )
    arguments.add_agent(parser)


def run(args: argparse.Namespace) -> int:
    """Add it."""
    rule = arguments.standing_rule_from(args, name=args.name, match=" ".join(args.match))
    rule = replace(rule, is_observed=not args.now)
    if not boxes_of(rule):
        raise RuleError(f"rule {rule.name}: no address of its lists is in its match; widen one")
    there = installed(args.agent)
    if there.has(rule.name) and not args.replace:
        raise RuleError(
            f"there is a rule {rule.name} already; choose another name, or --replace it"
        )
    change(args.agent, put=[rule], despite_allowed=args.despite_allowed, revision=there.revision)
    print(described(rule))
    if rule.is_observed:
        print(
            "it is observed: it counts what it would do and changes nothing;"
            f" hookline drop enforce {rule.name}"
        )
    return 0
