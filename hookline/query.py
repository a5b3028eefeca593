# SPDX-License-Identifier: Apache-2.0
"""`hookline query`: ask the history in ClickHouse's SQL."""

import argparse
import re
import sys
import time

from hookline import history, output
from hookline.arguments import since_in
from hookline.audit.judgement import completeness
from hookline.audit.stored import stored_books

# More rows than anybody reads; a program takes another format, which has no limit.
MAX_TABLE_ROWS = 10_000
_NUMBER = re.compile(r"(Nullable\()?(U?Int|Float|Decimal|BFloat)")
_OWN_FORMAT = re.compile(r"\bFORMAT\s+\w+\s*$", re.IGNORECASE)
EPILOG = """\
examples:
  hookline query "SELECT count() FROM flows"
  hookline query "SELECT dst_port, sum(bytes) FROM flows GROUP BY dst_port ORDER BY 2 DESC LIMIT 5"
  hookline query --format csv "SELECT * FROM flows WHERE time > now() - INTERVAL 1 HOUR" > flows.csv
  hookline query --completeness 1h "SELECT sum(bytes) FROM flows WHERE time > now() - 3600"
  echo "SHOW TABLES" | hookline query -
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `hookline query`."""
    parser.epilog = EPILOG
    parser.add_argument("sql", metavar="SQL", help="one statement; - reads it from standard input")
    parser.add_argument(
        "--completeness",
        type=since_in,
        metavar="TIME",
        help="say afterwards how much of what was seen in that time, as 30s, 5m, 2h, 7d or all, the"
        " answer can know of",
    )
    output.add_arguments(parser)
    history.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print the answer; 1 if there is none, 2 if the question cannot be asked."""
    sql = sys.stdin.read() if args.sql == "-" else args.sql
    sql = sql.strip().rstrip(";").rstrip()
    if not sql:
        print("hookline query: there is no statement: write one, as in --help", file=sys.stderr)
        return 2
    try:
        output.check_terminal(args.format)
        _answer(sql, args)
    except (history.PlaceError, output.OutputError) as error:
        print(f"hookline query: {error}", file=sys.stderr)
        return 2
    except history.HistoryError as error:
        print(f"hookline query: {error}", file=sys.stderr)
        return 1
    return 0


def _answer(sql: str, args: argparse.Namespace) -> None:
    names_its_format = bool(_OWN_FORMAT.search(sql))
    is_table = args.format == "table" and not names_its_format
    # One row more than is shown tells that there are more.
    settings = {"limit": str(MAX_TABLE_ROWS + 1)} if is_table else {}
    with history.open_history(data=args.data, url=args.url, settings=settings) as opened:
        if is_table:
            _print(opened.rows(sql))
        else:
            form = None if names_its_format else output.CLICKHOUSE_FORMATS[args.format]
            output.write_pieces(opened.pieces(sql, form), sys.stdout.buffer)
    if args.completeness is not None:
        _say_completeness(args)


def _say_completeness(args: argparse.Namespace) -> None:
    """On standard error, so that the answer stays what it is."""
    now_ns = time.time_ns()
    from_ns = now_ns - args.completeness * 10**9 if args.completeness else 0
    with history.open_history(data=args.data, url=args.url) as opened:
        books = stored_books(opened, from_ns=from_ns, until_ns=now_ns, node="")
    seen = sum(at.kernel.packets for at in books.stations.values())
    nodes = len({place.node for place in books.stations})
    print(
        f"complete to {100 * completeness(books):.4g} % of {seen:,} packets that"
        f" {len(books.stations)} hooks of {nodes} nodes saw; hookline audit tells more",
        file=sys.stderr,
    )


def _print(result: history.Rows) -> None:
    numbers = [index for index, kind in enumerate(result.types) if _NUMBER.match(kind)]
    addresses = [index for index, kind in enumerate(result.types) if kind == "IPv6"]
    rows = result.rows[:MAX_TABLE_ROWS]
    for row in rows:
        for index in addresses:
            # A table is for people; --format csv and json keep the mapping.
            row[index] = row[index].removeprefix("::ffff:")
    output.print_table(result.names, rows, right=numbers)
    if len(result.rows) > MAX_TABLE_ROWS:
        print(
            f"hookline query: only the first {MAX_TABLE_ROWS} rows are shown;"
            " --format json or csv prints all",
            file=sys.stderr,
        )
