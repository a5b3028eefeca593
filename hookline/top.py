# SPDX-License-Identifier: Apache-2.0
"""`hookline top`: what there is most of, over minutes or a year."""

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from ipaddress import IPv6Address

from hookline import history, output, words
from hookline.asked import Asked, add_answer, add_which
from hookline.sums import Summed, Wanted, summed
from schemas.filter.grammar import parse
from schemas.filter.words import FilterError

# What --by asks for: the columns that tell apart.
BY = {
    "source": ("src_addr",),
    "destination": ("dst_addr",),
    "edge": ("src_addr", "dst_addr"),
    "service": ("src_addr", "dst_addr", "server", "protocol", "service_port"),
    "port": ("protocol", "service_port"),
    "protocol": ("ethertype", "protocol"),
    "node": ("node",),
    "interface": ("node", "interface", "direction"),
    "process": ("command",),
    "unit": ("unit",),
}
# Of a service it is the side that serves, whichever way its packets went.
_MADE = {
    "service": (
        "if(part.server = 'src', part.src_addr, part.dst_addr) AS address",
        "part.protocol AS protocol",
        "part.service_port AS service_port",
    )
}
_ONLY = {"service": "\nWHERE part.server != 'none'"}
EPILOG = """\
examples:
  hookline top                                  the addresses that sent most in the last hour
  hookline top --by service --since 7d egress
  hookline top --by edge --since 30d 'dst net 10.0.0.0/8'
  hookline top --by process --since all --format csv
  hookline top --by port --since 90d 'node web-*'

A packet that is forwarded is received and sent: `ingress` or `egress` counts it once a node.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `hookline top`."""
    parser.epilog = EPILOG
    add_which(parser, since="1h")
    parser.add_argument(
        "--by", choices=BY, default="source", help="what is summed up (default: %(default)s)"
    )
    parser.add_argument(
        "--rows", action="store_true", help="ask the rows themselves, and no rollup"
    )
    add_answer(parser)


def run(args: argparse.Namespace) -> int:
    """Print the sums; 1 if the history cannot be asked, 2 if the question makes no sense."""
    try:
        output.check_terminal(args.format)
        wanted = Wanted(BY[args.by], parse(" ".join(args.filter)), args.since)
        with history.open_history(data=args.data, url=args.url) as opened:
            _answer(opened, wanted, args)
    except (FilterError, history.PlaceError, output.OutputError) as error:
        print(f"hookline top: {error}", file=sys.stderr)
        return 2
    except history.HistoryError as error:
        print(f"hookline top: {error}", file=sys.stderr)
        return 1
    return 0


def _answer(opened: history.History, wanted: Wanted, args: argparse.Namespace) -> None:
    source = summed(opened, wanted, only_rows=args.rows)
    asked = asked_of(source, args.by, args.limit)
    if args.sql:
        print(asked.readable())
        return
    if args.format != "table":
        pieces = opened.pieces(asked.sql, output.CLICKHOUSE_FORMATS[args.format], asked.parameters)
        output.write_pieces(pieces, sys.stdout.buffer)
        return
    result = opened.rows(asked.sql, asked.parameters)
    if not result.rows:
        print("nothing matches; --since looks further back", file=sys.stderr)
        return
    _print(result)
    print(f"summed up from {_origin(source)}", file=sys.stderr)


def asked_of(source: Summed, by: str, limit: int) -> Asked:
    """The statement that adds up what *source* has; every value is bound."""
    made = _MADE.get(by) or tuple(f"part.{one} AS {one}" for one in BY[by])
    names = [one.rpartition(" AS ")[2] for one in made]
    sums = [f"sum(part.{one}) AS {one}" for one in ("flows", "packets", "bytes")]
    sql = (
        f"SELECT {', '.join([*made, *sums])}\nFROM (\n{source.sql}\n) AS part{_ONLY.get(by, '')}\n"
        f"GROUP BY {', '.join(names)}\nORDER BY bytes DESC, packets DESC, {', '.join(names)}\n"
        "LIMIT {limit:UInt32}"
    )
    return Asked(sql, {**source.values, "limit": limit})


def _origin(source: Summed) -> str:
    if source.rollup is None:
        return "flows"
    if not source.cut_s:
        return source.origin
    cut = datetime.fromtimestamp(source.cut_s, UTC)
    return f"{source.origin} from {cut:%Y-%m-%d %H:%M} UTC on, and from flows before"


def _print(result: history.Rows) -> None:
    shown = [name for name in result.names if name != "ethertype"]
    rows = [_row(dict(zip(result.names, row, strict=True)), shown) for row in result.rows]
    right = [at for at, name in enumerate(shown) if name in _AMOUNTS]
    output.print_table(shown, rows, right=right)


_AMOUNTS = ("flows", "packets", "bytes")


def _row(values: dict[str, str], shown: Sequence[str]) -> list[str]:
    said = dict(values)
    for name in ("src_addr", "dst_addr", "address"):
        if name in said:
            address = IPv6Address(said[name])
            said[name] = str(address.ipv4_mapped or address)
    if "protocol" in said:
        # Without an ethertype beside it, what is not IP is only known not to be.
        said["protocol"] = words.protocol_name(
            int(said["protocol"]), int(said.get("ethertype", "0"))
        )
    for name in _AMOUNTS:
        said[name] = words.with_unit(int(said[name]), "")
    return [said[name] or "-" for name in shown]
