# SPDX-License-Identifier: Apache-2.0
"""`hookline flows`: who talked to whom, and how much."""

import argparse
import sys
from collections.abc import Sequence
from ipaddress import IPv6Address

from hookline import history, output, words
from hookline.arguments import as_argument
from hookline.asked import Asked, add_answer, add_which
from hookline.conditions import Conditions
from schemas.filter.grammar import parse
from schemas.filter.terms import EITHER, in_container, is_equal, on_ports, owned_by, within
from schemas.filter.tree import EVERYTHING, Filter, Like
from schemas.filter.values import network_in, ports_in, protocol_in
from schemas.filter.words import FilterError

_NUMBER_COLUMNS = (3, 4, 5, 6)
_ADDRESS_COLUMNS = (0, 1)
_NETWORK = as_argument(network_in)
_SHORT_ID = 12  # as docker ps prints it
EPILOG = """\
examples:
  hookline flows                                   the biggest of the last 5 minutes
  hookline flows --since 1h 'dst net 10.0.0.0/8 and tcp port 443'
  hookline flows 'host 192.168.1.7 and not (port 53 or icmp)'
  hookline flows --protocol udp --port 53 --interface 'veth*' --format json
  hookline flows --process nginx --since 1h
  hookline flows 'unit ssh* and not net 10.0.0.0/8'
  hookline flows --since 1d --from 192.168.1.7 --sql
"""
SELECT = """\
SELECT
    node, interface, direction, src_addr, src_port, dst_addr, dst_port, protocol, ethertype,
    sum(flows.packets) AS packets,
    sum(flows.bytes) AS bytes,
    min(flows.time) AS time,
    max(flows.end) AS end,
    dateDiff('microsecond', time, end) / 1e6 AS seconds,
    groupBitOr(flows.tcp_flags) AS tcp_flags,
    argMaxIf(flows.pid, flows.time, flows.pid != 0) AS pid,
    argMaxIf(flows.command, flows.time, flows.pid != 0) AS command,
    argMaxIf(flows.unit, flows.time, flows.cgroup != '') AS unit,
    argMaxIf(flows.container, flows.time, flows.cgroup != '') AS container
FROM flows
WHERE {conditions}
GROUP BY node, interface, direction, src_addr, src_port, dst_addr, dst_port, protocol, ethertype
ORDER BY bytes DESC, packets DESC, time, node, interface, direction, src_addr, src_port, dst_addr
LIMIT {limit:UInt32}"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `hookline flows`."""
    parser.epilog = EPILOG
    which = parser.add_argument_group("which flows", "each flag narrows the filter further")
    add_which(which, since="5m")
    which.add_argument("--from", dest="source", type=_NETWORK, metavar="ADDR|CIDR", help="source")
    which.add_argument(
        "--to", dest="destination", type=_NETWORK, metavar="ADDR|CIDR", help="destination"
    )
    which.add_argument(
        "--port",
        type=as_argument(ports_in),
        metavar="N|A-B",
        help="source or destination port",
    )
    which.add_argument(
        "--protocol",
        type=as_argument(protocol_in),
        metavar="NAME|N",
        help="tcp, udp, icmp, icmpv6, sctp, ... or its IANA number",
    )
    which.add_argument("--interface", metavar="GLOB", help="with * and ?")
    which.add_argument(
        "--process",
        type=as_argument(owned_by),
        metavar="NAME|PID",
        help="whose they are, by command with * and ?, or by number",
    )
    which.add_argument("--unit", metavar="GLOB", help="in which systemd unit")
    which.add_argument("--container", metavar="ID", help="in which container; its id may be short")
    which.add_argument("--node", metavar="NAME", help="as the agent calls itself")
    add_answer(parser)


def run(args: argparse.Namespace) -> int:
    """Print the flows; 1 if the history cannot be asked, 2 if the question makes no sense."""
    try:
        asked = asked_from(args)
    except FilterError as error:
        print(f"hookline flows: {error}", file=sys.stderr)
        return 2
    if args.sql:
        print(asked.readable())
        return 0
    try:
        output.check_terminal(args.format)
        with history.open_history(data=args.data, url=args.url) as opened:
            _answer(opened, asked, args.format)
    except (history.PlaceError, output.OutputError) as error:
        print(f"hookline flows: {error}", file=sys.stderr)
        return 2
    except history.HistoryError as error:
        print(f"hookline flows: {error}", file=sys.stderr)
        return 1
    return 0


def asked_from(args: argparse.Namespace) -> Asked:
    """The statement for these options; every value is bound, none becomes part of the SQL.

    Raises:
        FilterError: the expression makes no sense.
    """
    conditions = Conditions("flows")
    chosen = [conditions.of(part) for part in _filters(args)]
    values = {"limit": args.limit, **conditions.values}
    if args.since:
        chosen.insert(0, "flows.time >= now64(9) - toIntervalSecond({since:UInt32})")
        values["since"] = args.since
    where = "\n    AND ".join(chosen) or "true"
    return Asked(SELECT.replace("{conditions}", where), values)


def _filters(args: argparse.Namespace) -> list[Filter]:
    """What the expression and each flag ask for."""
    found = [parse(" ".join(args.filter))]
    if args.source is not None:
        found.append(within(args.source, ("src", "", "")))
    if args.destination is not None:
        found.append(within(args.destination, ("dst", "", "")))
    if args.port is not None:
        found.append(on_ports(args.port, EITHER))
    if args.protocol is not None:
        found.append(is_equal("protocol", args.protocol))
    if args.interface is not None:
        found.append(Like("interface", args.interface))
    if args.process is not None:
        found.append(args.process)
    if args.unit is not None:
        found.append(Like("unit", args.unit))
    if args.container is not None:
        found.append(in_container(args.container))
    if args.node is not None:
        found.append(Like("node", args.node))
    return [part for part in found if part != EVERYTHING]


def _answer(opened: history.History, asked: Asked, form: str) -> None:
    if form != "table":
        pieces = opened.pieces(asked.sql, output.CLICKHOUSE_FORMATS[form], asked.parameters)
        output.write_pieces(pieces, sys.stdout.buffer)
        return
    result = opened.rows(asked.sql, asked.parameters)
    if not result.rows:
        print("no flows match; --since looks further back", file=sys.stderr)
        return
    flows = [dict(zip(result.names, row, strict=True)) for row in result.rows]
    print_flows(flows)


def print_flows(flows: Sequence[dict[str, str]]) -> None:
    """Draw the flows; who spoke where that is known, the node where there is more than one."""
    names = ["from", "to", "proto", "packets", "bytes", "bit/s", "for", "flags", "interface"]
    rows = [_row(flow) for flow in flows]
    more = {
        "process": [_process(flow) for flow in flows],
        "unit": [flow["container"][:_SHORT_ID] or flow["unit"] for flow in flows],
        "node": [flow["node"] for flow in flows],
    }
    for name, column in more.items():
        if len(set(column)) > 1 or (name != "node" and any(column)):
            names.append(name)
            rows = [[*row, value or "-"] for row, value in zip(rows, column, strict=True)]
    output.print_table(names, rows, right=_NUMBER_COLUMNS, unbroken=_ADDRESS_COLUMNS)


def _process(flow: dict[str, str]) -> str:
    return f"{flow['command']}/{flow['pid']}" if flow["pid"] != "0" else ""


def _row(flow: dict[str, str]) -> list[str]:
    protocol, seconds, n_bytes = int(flow["protocol"]), float(flow["seconds"]), int(flow["bytes"])
    return [
        *words.endpoints(
            (IPv6Address(flow["src_addr"]), int(flow["src_port"])),
            (IPv6Address(flow["dst_addr"]), int(flow["dst_port"])),
            protocol,
        ),
        words.protocol_name(protocol, int(flow["ethertype"])),
        words.with_unit(int(flow["packets"]), ""),
        words.with_unit(n_bytes, ""),
        words.with_unit(n_bytes * 8 / seconds, "") if seconds > 0 else "-",
        words.duration(seconds),
        words.flag_letters(int(flow["tcp_flags"])) or "-",
        f"{flow['interface']} {flow['direction']}",
    ]
