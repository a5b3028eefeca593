# SPDX-License-Identifier: Apache-2.0
"""`hookline drop simulate`: what a rule would have refused of what is in the history."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hookline import history, output, words
from hookline.arguments import number_from, since_in
from hookline.drop import arguments
from hookline.drop.orders import installed
from hookline.drop.simulation import (
    KINDS,
    Everything,
    Outcome,
    Period,
    everything,
    notes_on,
    outcome,
)
from schemas.filter.grammar import parse
from schemas.filter.words import FilterError
from schemas.rules.allow import Allowed, conflicts
from schemas.rules.decide import in_order
from schemas.rules.rule import Rule, RuleError
from schemas.rules.rulesfile import described, time_of

EPILOG = """\
examples:
  hookline drop simulate no-telnet --since 1d
  hookline drop simulate 'tcp dst port 23' --since 7d
  hookline drop simulate ip --src-list scanners.txt --limit 100/s --per source
  hookline drop simulate --file rules.yaml --format json
"""
_TRIED = "tried"
_TITLES = {
    "process": ("process", "unknown"),
    "unit": ("unit or container", "unknown"),
    "peer": ("peer", ""),
    "port": ("destination port", ""),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `simulate`."""
    parser.add_argument(
        "match",
        nargs="*",
        metavar="NAME|MATCH",
        help="a rule of the agent, or which packets, as a filter says it",
    )
    parser.add_argument("--rule", metavar="NAME", help="a rule of the agent, whatever its name is")
    parser.add_argument("--file", type=Path, metavar="FILE", help="every rule of a rules.yaml")
    parser.add_argument(
        "--since",
        type=since_in,
        default="1h",
        metavar="TIME",
        help="how far back, as 30s, 5m, 2h, 7d, or all (default: %(default)s)",
    )
    parser.add_argument("--node", default="", metavar="NAME", help="of this node alone")
    parser.add_argument(
        "--top",
        type=number_from(1, 1000),
        default=5,
        metavar="N",
        help="how many of each kind (default: %(default)s)",
    )
    parser.add_argument(
        "--format",
        choices=("table", "json"),
        default="table",
        help="table; json, one object a rule (default: %(default)s)",
    )
    arguments.add_rule(parser)
    arguments.add_agent(parser)
    history.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print what would have become of the packets."""
    rules, allowed = _chosen(args)
    period = Period(args.since, args.node)
    with history.open_history(data=args.data, url=args.url) as opened:
        whole = everything(opened, period)
        found = [(rule, outcome(opened, rule, period, has_names=len(rules) == 1)) for rule in rules]
    if args.format == "json":
        for rule, its in found:
            print(json.dumps(_record(rule, its, whole, args)))
        return 0
    if args.file:
        _print_rules(found, whole)
    else:
        _print_rule(*found[0], whole, args.top)
    for note in _notes([rule for rule, _ in found], whole, allowed):
        print(note)
    return 0


def _chosen(args: argparse.Namespace) -> tuple[list[Rule], Allowed | None]:
    """The rules that are asked for, and the allow list if an agent told it."""
    ways = [bool(args.match), args.rule is not None, args.file is not None]
    if sum(ways) != 1:
        raise RuleError("write one of NAME, MATCH, --rule NAME and --file rules.yaml")
    if args.file is not None:
        return in_order(arguments.rules_of_file(args.file)), None
    text = " ".join(args.match)
    name = args.rule or (text if _is_name(args.match) else None)
    if name is None:
        return [arguments.rule_from(args, name=_TRIED, match=text)], None
    there = installed(args.agent)
    return [there.named(name).rule], there.allowed


def _is_name(typed: Sequence[str]) -> bool:
    """Whether what was typed can only be the name of a rule."""
    if len(typed) != 1 or " " in typed[0]:
        return False
    try:
        parse(typed[0])
    except FilterError:
        return typed[0][:1].isalnum() and set(typed[0]) <= set(
            "abcdefghijklmnopqrstuvwxyz0123456789._-"
        )
    return False


def _print_rule(rule: Rule, its: Outcome, whole: Everything, top: int) -> None:
    print(described(rule))
    told = {"flows": f"{its.flows:,}"}
    told["packets"] = f"{its.packets:,}, {_share(its.packets, whole.packets)} of all"
    told["bytes"] = f"{its.bytes:,}, {_share(its.bytes, whole.bytes)} of all"
    if rule.action == "limit":
        told["above the limit"] = (
            f"about {its.refused_packets:,} packets, {its.refused_bytes:,} bytes"
        )
    if its.packets:
        told["first, last"] = f"{time_of(its.first_ns)}, {time_of(its.last_ns)}"
    verb = {
        "drop": "would have refused",
        "limit": "would have limited",
        "pass": "would have passed",
    }
    print(f"{verb[rule.action]}:")
    width = max(map(len, told))
    for key, value in told.items():
        print(f"  {key:{width}}  {value}")
    for kind in KINDS if its.packets else ():
        print()
        _print_names(kind, its, top)
    print()


def _print_names(kind: str, its: Outcome, top: int) -> None:
    title, unknown = _TITLES[kind]
    names = its.names[kind].most_common(top)
    rows = [
        [
            _port(name) if kind == "port" else name or unknown,
            words.with_unit(packets, ""),
            words.with_unit(its.name_bytes[kind][name], ""),
            _share(packets, its.packets),
        ]
        for name, packets in names
    ]
    output.print_table([title, "packets", "bytes", "share"], rows, right=(1, 2, 3))
    if (more := len(its.names[kind]) - len(names)) > 0:
        print(f"and {more:,} more; --top shows them")


def _port(name: str) -> str:
    protocol, _, port = name.partition(" ")
    shown = words.protocol_name(int(protocol), 0) if int(protocol) else protocol
    return shown if port == "0" else f"{shown} {port}"


def _print_rules(found: list[tuple[Rule, Outcome]], whole: Everything) -> None:
    header = ("rule", "action", "flows", "packets", "bytes", "share", "refused")
    rows = [
        [
            rule.name,
            f"{rule.action} {rule.limit}" if rule.limit else rule.action,
            f"{its.flows:,}",
            words.with_unit(its.packets, ""),
            words.with_unit(its.bytes, ""),
            _share(its.packets, whole.packets),
            words.with_unit(its.refused_packets, ""),
        ]
        for rule, its in found
    ]
    output.print_table(header, rows, right=(2, 3, 4, 5, 6))
    print("each rule as if it were alone and enforced, in the order in which they are asked")


def _notes(rules: list[Rule], whole: Everything, allowed: Allowed | None) -> list[str]:
    notes = list(dict.fromkeys(note for rule in rules for note in notes_on(rule)))
    if whole.unjudged_packets:
        notes.append(
            f"{whole.unjudged_packets:,} packets are left out: their rows are totals, which do not say"
            " what a rule asks"
        )
    reasons = [
        reason for rule in rules if allowed is not None for reason in conflicts(rule, allowed)
    ]
    if reasons:
        notes.append(f"more passes than this says: the agent here allows {', '.join(reasons)}")
    elif any(rule.action != "pass" for rule in rules) and allowed is None:
        notes.append(
            "what the allow list of a node lets pass is not in the history; hookline drop allowed"
        )
    return notes


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.3g} %" if whole else "-"


def _record(
    rule: Rule, its: Outcome, whole: Everything, args: argparse.Namespace
) -> dict[str, Any]:
    record: dict[str, Any] = {
        "rule": rule.name,
        "action": rule.action,
        "since_seconds": args.since,
        "node": args.node,
        "flows": its.flows,
        "packets": its.packets,
        "bytes": its.bytes,
        "refused_packets": its.refused_packets,
        "refused_bytes": its.refused_bytes,
        "is_estimate": rule.limit is not None,
        "all_packets": whole.packets,
        "all_bytes": whole.bytes,
        "left_out_packets": whole.unjudged_packets,
        "first": time_of(its.first_ns) if its.packets else None,
        "last": time_of(its.last_ns) if its.packets else None,
    }
    for kind in KINDS:
        record[kind] = [
            {"name": name, "packets": packets, "bytes": its.name_bytes[kind][name]}
            for name, packets in its.names[kind].most_common(args.top)
        ]
    return record
