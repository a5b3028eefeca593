# SPDX-License-Identifier: Apache-2.0
"""`hookline flows`: who talked to whom, and how much."""

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Address, ip_network
from typing import TypeVar

from hookline import history, output

Parsed = TypeVar("Parsed")

PROTOCOLS = {
    "icmp": 1,
    "igmp": 2,
    "ipip": 4,
    "tcp": 6,
    "udp": 17,
    "gre": 47,
    "esp": 50,
    "icmpv6": 58,
    "ospf": 89,
    "sctp": 132,
}
PROTOCOLS_WITH_PORTS = {6, 17, 132}
ETHERTYPES = {0x0806: "arp", 0x8863: "pppoe", 0x8864: "pppoe", 0x88CC: "lldp", 0x0004: "802.2"}
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
TCP_FLAGS = "FSRPAUEC"
_PROTOCOL_NAMES = {number: name for name, number in PROTOCOLS.items()}
_UNSPECIFIED = IPv6Address("::")
_NUMBER_COLUMNS = (3, 4, 5, 6)
_ADDRESS_COLUMNS = (0, 1)
_PLACEHOLDER = re.compile(r"\{(\w+):(\w+)\}")
EPILOG = """\
examples:
  hookline flows                                   the biggest of the last 5 minutes
  hookline flows --since 1h --to 10.0.0.0/8 --port 443
  hookline flows --protocol udp --port 53 --interface 'veth*' --format json
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
    groupBitOr(flows.tcp_flags) AS tcp_flags
FROM flows
WHERE {conditions}
GROUP BY node, interface, direction, src_addr, src_port, dst_addr, dst_port, protocol, ethertype
ORDER BY bytes DESC, packets DESC, time, node, interface, direction, src_addr, src_port, dst_addr
LIMIT {limit:UInt32}"""


@dataclass(frozen=True, slots=True)
class Asked:
    """A statement and the values bound to it."""

    sql: str
    parameters: dict[str, str | int]

    def readable(self) -> str:
        """The statement with its values written out, to be read, changed and asked again."""
        return _PLACEHOLDER.sub(self._literal, self.sql)

    def _literal(self, found: re.Match[str]) -> str:
        value, kind = self.parameters[found[1]], found[2]
        if isinstance(value, int):
            return str(value)
        quoted = "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
        return f"toIPv6({quoted})" if kind == "IPv6" else quoted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `hookline flows`."""
    parser.epilog = EPILOG
    which = parser.add_argument_group("which flows")
    which.add_argument(
        "--since",
        type=_checked(seconds_in),
        default="5m",
        metavar="TIME",
        help="how far back, as 30s, 5m, 2h, 7d (default: %(default)s)",
    )
    which.add_argument(
        "--from", dest="source", type=_checked(range_of), metavar="ADDR|CIDR", help="source"
    )
    which.add_argument(
        "--to", dest="destination", type=_checked(range_of), metavar="ADDR|CIDR", help="destination"
    )
    which.add_argument(
        "--port",
        type=_checked(ports_in),
        metavar="N|A-B",
        help="source or destination port",
    )
    which.add_argument(
        "--protocol",
        type=_checked(protocol_number),
        metavar="NAME|N",
        help="tcp, udp, icmp, icmpv6, sctp, ... or its IANA number",
    )
    which.add_argument("--interface", metavar="GLOB", help="with * and ?")
    which.add_argument("--node", metavar="NAME", help="as the agent calls itself")
    which.add_argument(
        "--limit",
        type=_checked(limit_in),
        default=20,
        metavar="N",
        help="how many, the biggest first (default: %(default)s)",
    )
    output.add_arguments(parser)
    parser.add_argument("--sql", action="store_true", help="print the statement, do not run it")
    history.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print the flows; 1 if the history cannot be asked, 2 if the question makes no sense."""
    asked = asked_from(args)
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
    """The statement for these options; every value is bound, none becomes part of the SQL."""
    conditions = ["flows.time >= now64(9) - toIntervalSecond({since:UInt32})"]
    values: dict[str, str | int] = {"since": args.since, "limit": args.limit}
    for column, addresses in (("src_addr", args.source), ("dst_addr", args.destination)):
        if addresses is not None:
            conditions.append(
                f"{column} BETWEEN {{{column}_first:IPv6}} AND {{{column}_last:IPv6}}"
            )
            values[f"{column}_first"], values[f"{column}_last"] = addresses
    if args.port is not None:
        conditions.append(
            "(src_port BETWEEN {port_first:UInt16} AND {port_last:UInt16}"
            " OR dst_port BETWEEN {port_first:UInt16} AND {port_last:UInt16})"
        )
        values["port_first"], values["port_last"] = args.port
    if args.protocol is not None:
        conditions.append("protocol = {protocol:UInt8}")
        values["protocol"] = args.protocol
    if args.interface is not None:
        conditions.append("interface LIKE {interface:String}")
        values["interface"] = like_pattern(args.interface)
    if args.node is not None:
        conditions.append("node = {node:String}")
        values["node"] = args.node
    return Asked(SELECT.replace("{conditions}", "\n    AND ".join(conditions)), values)


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
    """Draw the flows; the node is named where there is more than one."""
    names = ["from", "to", "proto", "packets", "bytes", "bit/s", "for", "flags", "interface"]
    rows = [_row(flow) for flow in flows]
    if len({flow["node"] for flow in flows}) > 1:
        names.append("node")
        rows = [[*row, flow["node"]] for row, flow in zip(rows, flows, strict=True)]
    output.print_table(names, rows, right=_NUMBER_COLUMNS, unbroken=_ADDRESS_COLUMNS)


def _row(flow: dict[str, str]) -> list[str]:
    protocol, seconds, n_bytes = int(flow["protocol"]), float(flow["seconds"]), int(flow["bytes"])
    source, destination = IPv6Address(flow["src_addr"]), IPv6Address(flow["dst_addr"])
    is_total = source == destination == _UNSPECIFIED
    return [
        "-" if is_total else endpoint(source, int(flow["src_port"]), protocol),
        "-" if is_total else endpoint(destination, int(flow["dst_port"]), protocol),
        protocol_name(protocol, int(flow["ethertype"])),
        output.with_unit(int(flow["packets"]), ""),
        output.with_unit(n_bytes, ""),
        output.with_unit(n_bytes * 8 / seconds, "") if seconds > 0 else "-",
        duration(seconds),
        flag_letters(int(flow["tcp_flags"])) or "-",
        f"{flow['interface']} {flow['direction']}",
    ]


def endpoint(address: IPv6Address, port: int, protocol: int) -> str:
    """`10.0.0.1:443`, `[2001:db8::1]:443`, or the address alone where ports mean nothing."""
    mapped = address.ipv4_mapped
    if protocol not in PROTOCOLS_WITH_PORTS:
        return str(mapped or address)
    return f"{mapped}:{port}" if mapped else f"[{address}]:{port}"


def protocol_name(protocol: int, ethertype: int) -> str:
    """The protocol's name or number; of what is not IP, the ethertype's."""
    if protocol or ethertype in {0x0800, 0x86DD}:
        return _PROTOCOL_NAMES.get(protocol, str(protocol))
    return ETHERTYPES.get(ethertype, f"0x{ethertype:04x}") if ethertype else "other"


def flag_letters(tcp_flags: int) -> str:
    """The letters of the flags that were seen, as tcpdump's but with A for ACK."""
    return "".join(letter for bit, letter in enumerate(TCP_FLAGS) if tcp_flags >> bit & 1)


def duration(seconds: float) -> str:
    """`5 ms`, `12.3 s`, `4m05s`, `2h03m`, `3d04h`."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02}s"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours}h{minutes:02}m"
    return f"{hours // 24}d{hours % 24:02}h"


def seconds_in(text: str) -> int:
    """The seconds in `30s`, `5m`, `2h`, `7d`; raises `ValueError`."""
    found = re.fullmatch(r"(\d{1,9})([smhdw])", text, re.ASCII)
    seconds = int(found[1]) * SECONDS[found[2]] if found else 0
    if not 0 < seconds < 1 << 32:
        raise ValueError(f"{text!r} is no time: write 30s, 5m, 2h or 7d")
    return seconds


def range_of(text: str) -> tuple[str, str]:
    """The first and the last address of an address or CIDR, mapped; raises `ValueError`."""
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise ValueError(
            f"{text!r} is no address: write 10.0.0.7, 10.0.0.0/8 or 2001:db8::/32"
        ) from None
    mark = "::ffff:" if isinstance(network, IPv4Network) else ""
    return f"{mark}{network[0]}", f"{mark}{network[-1]}"


def ports_in(text: str) -> tuple[int, int]:
    """The first and the last port of `443` or `8000-8100`; raises `ValueError`."""
    found = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", text, re.ASCII)
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
    if not first <= last <= 65535:
        raise ValueError(f"{text!r} is no port: write 443 or 8000-8100, up to 65535")
    return first, last


def protocol_number(text: str) -> int:
    """The IANA number of a protocol; raises `ValueError`."""
    if text.lower() in PROTOCOLS:
        return PROTOCOLS[text.lower()]
    if re.fullmatch(r"\d{1,3}", text, re.ASCII) and int(text) <= 255:
        return int(text)
    raise ValueError(f"{text!r} is no protocol: write {', '.join(PROTOCOLS)} or a number to 255")


def limit_in(text: str) -> int:
    """How many rows; raises `ValueError`."""
    if re.fullmatch(r"\d{1,6}", text, re.ASCII) and int(text) > 0:
        return int(text)
    raise ValueError(f"{text!r} is no number of flows: write 1 to 999999")


def like_pattern(glob: str) -> str:
    """The LIKE pattern of a glob, whose * and ? are the only special characters."""
    escaped = re.sub(r"([\\%_])", r"\\\1", glob)
    return escaped.replace("*", "%").replace("?", "_")


def _checked(parse: Callable[[str], Parsed]) -> Callable[[str], Parsed]:
    """The same for argparse, which keeps only its own exception's text."""

    def parsed(text: str) -> Parsed:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parsed
