# SPDX-License-Identifier: Apache-2.0
"""The options that say a rule, or where rules are, as several actions take them."""

import argparse
import os
import pwd
import time
from dataclasses import replace
from pathlib import Path

from hookline.arguments import number_from, seconds_in
from schemas.rules.intervals import Network
from schemas.rules.limit import PERS, Limit, LimitError
from schemas.rules.rule import ACTIONS, DEFAULT_PRIORITY, MAX_PRIORITY, Rule, RuleError
from schemas.rules.rulesfile import networks_in, rules_in, time_ns_in

MAX_LIST_BYTES = 1 << 24


def add_agent(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--agent", metavar="NAME", help="which one, if several agents run on this machine"
    )


def add_rule(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what a rule means and does."""
    what = parser.add_argument_group("the rule")
    what.add_argument(
        "--action",
        choices=ACTIONS,
        help="drop; limit, which needs --limit; pass, which ends the search (default: drop)",
    )
    what.add_argument(
        "--limit",
        type=_limit_in,
        metavar="RATE",
        help="refuse what is above this, as 100/s, 10MB/s, or '2k/s burst 500'",
    )
    what.add_argument(
        "--per", choices=PERS, help="one limit for the rule, or one for every source address"
    )
    for side, whose in (("src", "source"), ("dst", "destination")):
        what.add_argument(
            f"--{side}-list",
            metavar="FILE",
            help=f"only where the {whose} is in one of these networks, one a line",
        )


def add_standing(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how a rule stands among others, and for how long."""
    how = parser.add_argument_group("how it stands")
    how.add_argument(
        "--priority",
        type=number_from(0, MAX_PRIORITY),
        default=DEFAULT_PRIORITY,
        metavar="N",
        help="the higher is asked first, then by name (default: %(default)s)",
    )
    end = how.add_mutually_exclusive_group()
    end.add_argument(
        "--for", dest="seconds", type=seconds_in, metavar="TIME", help="ends after 30s, 10m, 2h, 7d"
    )
    end.add_argument(
        "--until", type=_time_in, metavar="WHEN", help="ends then, as 2027-01-31T18:00:00Z"
    )
    how.add_argument("--owner", metavar="NAME", help="who wants it (default: who runs this)")
    how.add_argument("--reason", default="", metavar="TEXT", help="why")


def _limit_in(text: str) -> Limit:
    try:
        return Limit.parse(text)
    except LimitError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _time_in(text: str) -> int:
    try:
        return time_ns_in(text)
    except RuleError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def rule_from(args: argparse.Namespace, *, name: str, match: str) -> Rule:
    """The rule that `add_rule`'s options say.

    Raises:
        RuleError: they make no sense.
    """
    limit = args.limit
    if args.per is not None:
        if limit is None:
            raise RuleError("--per needs --limit; add --limit 100/s")
        limit = replace(limit, per=args.per)
    return Rule(
        name=name,
        match=match,
        action=args.action or ("limit" if limit else "drop"),
        limit=limit,
        src=_list(args.src_list),
        dst=_list(args.dst_list),
    )


def standing_rule_from(args: argparse.Namespace, *, name: str, match: str) -> Rule:
    """The same with what `add_standing`'s options say."""
    until_ns = args.until or 0
    if args.seconds:
        until_ns = time.time_ns() + args.seconds * 10**9
    elif 0 < until_ns <= time.time_ns():
        raise RuleError("--until is over already; write a time that comes, or --for 10m")
    return replace(
        rule_from(args, name=name, match=match),
        priority=args.priority,
        until_ns=until_ns,
        owner=args.owner if args.owner is not None else caller(),
        reason=args.reason,
    )


def caller() -> str:
    """Who runs this, also behind sudo."""
    for variable in ("SUDO_USER", "USER"):
        if name := os.environ.get(variable):
            return name
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _list(path: str | None) -> tuple[Network, ...]:
    return networks_in(text_of(Path(path)), path) if path else ()


def rules_of_file(path: Path) -> tuple[Rule, ...]:
    """The rules in rules.yaml, whose lists lie beside it.

    Raises:
        RuleError: it cannot be used; the text names it.
    """
    try:
        return rules_in(text_of(path), lambda name: text_of(path.parent / name))
    except RuleError as error:
        said = str(error)
        raise RuleError(said if said.startswith("cannot read") else f"{path}: {said}") from None


def text_of(path: Path) -> str:
    """A file's text.

    Raises:
        RuleError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_LIST_BYTES + 1)
        if len(content) > MAX_LIST_BYTES:
            raise RuleError(f"{path} is longer than {MAX_LIST_BYTES >> 20} MiB; split it")
        return content.decode()
    except OSError as error:
        raise RuleError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise RuleError(f"{path} is no text") from None
