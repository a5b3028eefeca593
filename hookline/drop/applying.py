# SPDX-License-Identifier: Apache-2.0
"""`hookline drop apply`: make the agent's rules those of a file, once somebody has seen the plan."""

import argparse
import sys
import time
from pathlib import Path

from hookline import output
from hookline.drop import arguments
from hookline.drop.orders import FILE, Installed, change, installed
from schemas.rules.rule import Rule, RuleError
from schemas.rules.rulesfile import Difference, difference, time_of

EPILOG = """\
examples:
  hookline drop apply rules.yaml --dry-run
  hookline drop apply rules.yaml --yes

Rules that came from a file and are not in it any more are removed; others stay.  Exit codes: 0 the
rules are those of the file, 1 they are not (--dry-run, or the answer was no), 2 bad usage or file.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `apply`."""
    parser.add_argument("file", type=Path, metavar="FILE", help="rules.yaml")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and change nothing")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument(
        "--despite-allowed",
        action="store_true",
        help="though rules mean packets of the allow list, which pass anyway",
    )
    arguments.add_agent(parser)


def run(args: argparse.Namespace) -> int:
    """Print the plan, ask, and change what differs."""
    wanted = _lasting(arguments.rules_of_file(args.file))
    there = installed(args.agent)
    _refuse_foreign(wanted, there, args.file)
    plan = difference([one.rule for one in there.rules if one.origin == FILE], wanted)
    if not plan:
        print("nothing to change")
        return 0
    for line in plan.lines():
        print(output.printable(line))
    if args.dry_run or not _is_agreed(args):
        return 1
    change(
        args.agent,
        put=[*plan.added, *(one.wanted for one in plan.changed)],
        remove=[rule.name for rule in plan.removed],
        despite_allowed=args.despite_allowed,
        origin=FILE,
        revision=there.revision,
    )
    _tell(plan)
    return 0


def _lasting(rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
    """Those whose time has not ended, which the agent takes out by itself."""
    now_ns = time.time_ns()
    for rule in rules:
        if rule.is_over(now_ns):
            print(f"{rule.name} is left out: it ended {time_of(rule.until_ns)}", file=sys.stderr)
    return tuple(rule for rule in rules if not rule.is_over(now_ns))


def _refuse_foreign(wanted: tuple[Rule, ...], there: Installed, path: Path) -> None:
    """A file does not take over what somebody else has put there under the same name."""
    names = {rule.name for rule in wanted}
    for standing in there.rules:
        if standing.rule.name in names and standing.origin != FILE:
            raise RuleError(
                f"{path}: there is a rule {standing.rule.name} already, and it is {standing.origin};"
                " rename yours or remove that"
            )


def _is_agreed(args: argparse.Namespace) -> bool:
    if args.yes:
        return True
    if not sys.stdin.isatty():
        raise RuleError(
            "nobody is there to be asked; give --yes, or --dry-run to see the plan alone"
        )
    sys.stderr.write("apply this? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def _tell(plan: Difference) -> None:
    observed = [rule.name for rule in plan.added if rule.is_observed]
    print("done")
    if observed:
        print(f"observed, so they change nothing: {', '.join(observed)}; enforced: true makes them")
