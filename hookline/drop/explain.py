# SPDX-License-Identifier: Apache-2.0
"""`hookline drop explain`: what the rules do with one packet, and why."""

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

from hookline import output
from hookline.arguments import number_from
from hookline.drop import arguments
from hookline.drop.frames import Found, frame_in, frame_of_file, is_tunnel, packet_of
from hookline.drop.orders import installed
from hookline.drop.packets import packet_in, told
from schemas.fields import DIRECTIONS
from schemas.rules.allow import Allowed, reasons_for
from schemas.rules.decide import Packet, decide, in_order, is_meant
from schemas.rules.rule import Rule, RuleError
from schemas.rules.rulesfile import described

EPILOG = """\
examples:
  hookline drop explain 'tcp 10.0.0.1:1234 > 10.0.0.2:80 flags syn on eth0 ingress'
  hookline drop explain 'icmp 10.0.0.1 > 10.0.0.2 type 8' --file rules.yaml
  hookline drop explain --pcap odd.pcapng --number 17
  tcpdump -c 1 -xx -i eth0 | hookline drop explain --hex -
"""
_DOES = {"drop": "refuses it", "limit": "refuses it above {limit}", "pass": "lets it pass"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `explain`."""
    parser.add_argument(
        "packet",
        nargs="*",
        metavar="PACKET",
        help="protocol, source > destination; then flags, type, code, vlan, dscp, on INTERFACE,"
        " ingress or egress, as far as they matter",
    )
    parser.add_argument(
        "--hex", metavar="DIGITS", help="the bytes of a frame from its first on; - reads a dump"
    )
    parser.add_argument(
        "--pcap", type=Path, metavar="FILE", help="a packet of a pcap or pcapng file"
    )
    parser.add_argument(
        "--number",
        type=number_from(1, 1 << 40),
        default=1,
        metavar="N",
        help="which packet of --pcap (default: the first)",
    )
    parser.add_argument(
        "--interface", default="", metavar="NAME", help="where a frame is, if no file says so"
    )
    parser.add_argument(
        "--direction",
        choices=tuple(DIRECTIONS),
        help="of a frame, if no file says so (default: ingress)",
    )
    parser.add_argument(
        "--file",
        type=Path,
        metavar="FILE",
        help="ask the rules of this rules.yaml, not the agent's",
    )
    arguments.add_agent(parser)


def run(args: argparse.Namespace) -> int:
    """Print what becomes of the packet."""
    packet = _packet(args)
    allowed: Allowed | None = None
    if args.file is not None:
        rules = list(arguments.rules_of_file(args.file))
    else:
        there = installed(args.agent)
        rules, allowed = [standing.rule for standing in there.rules], there.allowed
    for line in explained(rules, packet, allowed, time.time_ns()):
        print(output.printable(line))
    if not args.packet and is_tunnel(packet):
        print("agents ask rules of the packet in this tunnel, unless --tunnels says otherwise")
    return 0


def _packet(args: argparse.Namespace) -> Packet:
    if sum((bool(args.packet), args.hex is not None, args.pcap is not None)) != 1:
        raise RuleError("write one of PACKET, --hex DIGITS and --pcap FILE")
    if args.packet:
        return packet_in(" ".join(args.packet))
    if args.pcap is not None:
        found = frame_of_file(args.pcap, args.number)
    else:
        found = Found(frame_in(sys.stdin.read() if args.hex == "-" else args.hex))
    return packet_of(
        replace(
            found,
            interface=args.interface or found.interface,
            direction=args.direction or found.direction,
        )
    )


def explained(rules: list[Rule], packet: Packet, allowed: Allowed | None, now_ns: int) -> list[str]:
    """What becomes of *packet*, in lines; *allowed* is None where nobody told it."""
    decision = decide(rules, packet, now_ns)
    lines = [told(packet)]
    passes = reasons_for(allowed, packet) if allowed is not None else []
    deciding, observed = decision.deciding, decision.observed
    if passes:
        lines.append(f"passes: the allow list has {', '.join(passes)}, and wins over every rule")
    elif deciding is None:
        lines.append("passes: no enforced rule means it")
    else:
        lines.append(f"decides: {described(deciding)}; {_does(deciding)}")
    if passes and deciding is not None:
        lines.append(f"would decide: {described(deciding)}; {_does(deciding)}")
    if observed is not None:
        lines.append(f"observed: {described(observed)}; enforced, it {_does(observed)}")
    told_already = {rule.name for rule in (deciding, observed) if rule is not None}
    for rule in in_order(rules):
        if rule.name in told_already or not is_meant(rule, packet):
            continue
        why = "its time has ended" if rule.is_over(now_ns) else "comes too late"
        lines.append(f"means it too: {described(rule)}; {why}")
    if not packet.interface and any("interface" in rule.match for rule in rules):
        lines.append("no interface is given, so rules that ask for one do not mean it; add on eth0")
    if allowed is None:
        lines.append("the allow list of the node is not asked; it wins over every rule")
    return lines


def _does(rule: Rule) -> str:
    return _DOES[rule.action].format(limit=rule.limit)
