# SPDX-License-Identifier: Apache-2.0
"""What a history of many rows answers, and how fast; what its rows take on disk and at the insert.

    python -m bench.queries [--rows 100000000] [--keep DIR] [--quick]

The rows are made by `bench.history` in a database of its own, which --keep leaves for the next run:
that makes only what is declared otherwise now.  Rows and rollups are asked by turns, in the engine's process: what a server adds is not in it.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from bench import history, rounds
from bench.month import Month
from bench.questions import QUESTIONS, Question
from bench.rollup_cost import insert_table
from schemas.clickhouse import DATABASE
from schemas.flow import FLOW
from schemas.rollup import ROLLUPS

RUNS = 11
INSERT_ROUNDS = 5
SLOW_S = 2.0  # a question that takes longer is asked less often
SLOW_RUNS = 3

Asked = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.queries", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rows", type=int, default=5_000_000, help="of flows")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="the database, made or used again")
    parser.add_argument("--quick", action="store_true", help="few rows: to see that it runs")
    arguments = parser.parse_args()
    rows = 300_000 if arguments.quick else arguments.rows
    with tempfile.TemporaryDirectory(prefix="hookline-bench-") as scratch:
        directory = arguments.keep or Path(scratch)
        print(json.dumps({"tables": measure(directory, rows, 3 if arguments.quick else RUNS)}))


def measure(directory: Path, rows: int, runs: int) -> list[dict]:
    month = Month(directory, rows)
    client = month.open()
    for table, took_s in month.made.items():
        print(f"made {table} in {took_s:.0f} s", file=sys.stderr)
    client.command(f"USE {DATABASE}")
    tables = [
        questions_table(client, rows, runs),
        *storage_tables(client),
        insert_table(client, rounds_of=min(runs, INSERT_ROUNDS)),
    ]
    client.close()
    return tables


def subjects(client: Any) -> dict[str, str]:
    """What the questions are about: moments of the history, and addresses that are in it."""

    def one(query: str) -> list[str]:
        return [str(value) for value in client.query(query).result_rows[0]]

    moments = one(
        "SELECT toString(toStartOfDay(max(time))), toString(toStartOfDay(max(time)) - toIntervalDay(6)),"
        " toString(toDateTime(max(time)) - 300) FROM flows"
    )
    (busy,) = one(
        "SELECT address FROM addresses_1d WHERE side = 'src' AND direction = 'egress' GROUP BY address"
        " ORDER BY sum(flows) DESC LIMIT 1"
    )
    (rare,) = one(
        "SELECT address FROM addresses_1d WHERE side = 'src' GROUP BY address HAVING sum(flows) = 5"
        " ORDER BY cityHash64(address) LIMIT 1"
    )
    src, dst, src_port, dst_port = one(
        "SELECT src_addr, dst_addr, src_port, dst_port FROM flows"
        f" WHERE src_addr = toIPv6('{busy}') AND protocol = 6"
        " GROUP BY ALL ORDER BY count() DESC LIMIT 1"
    )
    (name,) = one(
        "SELECT server_name FROM tls WHERE server_name != '' GROUP BY server_name"
        " ORDER BY count() DESC, server_name LIMIT 1 OFFSET 50"
    )
    names = ("day", "week", "minutes", "busy", "rare", "src", "dst", "src_port", "dst_port", "name")
    values = (*moments, busy, rare, src, dst, src_port, dst_port, name)
    return dict(zip(names, values, strict=True))


def questions_table(client: Any, rows: int, runs: int) -> dict:
    about = subjects(client)
    lines = []
    for question in QUESTIONS:
        forms = {"rows": question.rows, "rollup": question.rollup}
        found = ask(client, {name: sql.format(**about) for name, sql in forms.items() if sql}, runs)
        check_same(question, found)
        lines.append([question.about, *shown(found.get("rows")), *shown(found.get("rollup"))])
    names = ("first, ms", "p50, ms", "p90, ms", "million rows read", "MB read")
    columns = ["question", *(f"{of}: {name}" for of in ("rows", "rollup") for name in names)]
    return rounds.table(
        f"{rows:,} rows of {history.days_of(rows)} days",
        columns,
        lines,
        "MB are those of the columns read, uncompressed.  *First* is the first time that this process"
        " asks, with the files in the system's cache.",
    )


def ask(client: Any, forms: dict[str, str], runs: int) -> dict[str, Asked]:
    """Ask in each form by turns."""
    found: dict[str, Asked] = {name: {"ms": []} for name in forms}
    for number in range(runs):
        for name in list(forms)[:: 1 if number % 2 else -1]:
            one = found[name]
            if number >= SLOW_RUNS and median(one["ms"]) > SLOW_S * 1000:
                continue
            began = time.monotonic()
            answer = client.query(forms[name])
            one["ms"].append((time.monotonic() - began) * 1000)
            one["answer"] = answer.result_rows
    for name, one in found.items():
        read = json.loads(client.raw_query(forms[name], fmt="JSON"))["statistics"]
        one |= {"rows": read["rows_read"], "bytes": read["bytes_read"]}
    return found


def check_same(question: Question, found: dict[str, Asked]) -> None:
    answers = [one["answer"] for one in found.values()]
    if any(answer != answers[0] for answer in answers):
        sys.exit(f"bench: {question.about}: the rollup's answer is not that of the rows")


def shown(one: Asked | None) -> list[object]:
    if one is None:
        return ["-"] * 5
    warm = one["ms"][1:]
    p90 = quantiles(warm, n=10, method="inclusive")[8]
    times = [round(value, 1) for value in (one["ms"][0], median(warm), p90)]
    return [*times, round(one["rows"] / 1e6, 2), round(one["bytes"] / 1e6, 1)]


def storage_tables(client: Any) -> list[dict]:
    """Bytes a row on disk: of each table, and of each column of the rows."""
    others = (record.table for record in history.SHARE if record is not FLOW)
    tables = [FLOW.table, *(rollup.table for rollup in ROLLUPS), *others]
    of_table: dict[str, tuple[int, float, int]] = {
        name: (rows, on_disk / rows, parts)
        for name, rows, on_disk, parts in client.query(
            "SELECT table, sum(rows), sum(bytes_on_disk), count() FROM system.parts"
            f" WHERE database = '{DATABASE}' AND active GROUP BY table"
        ).result_rows
    }
    flows, _, _ = of_table[FLOW.table]
    lines: list[list[object]] = [
        [f"`{name}`", rows, round(a_row, 1), round(rows * a_row / flows, 2), parts]
        for name in tables
        for rows, a_row, parts in [of_table[name]]
    ]
    by_column = client.query(
        "SELECT column, sum(column_data_compressed_bytes) / sum(rows) AS a_row,"
        " sum(column_data_uncompressed_bytes) / sum(rows) FROM system.parts_columns"
        f" WHERE database = '{DATABASE}' AND table = 'flows' AND active"
        " GROUP BY column ORDER BY a_row DESC"
    ).result_rows
    told = [[f"`{name}`", round(a, 2), round(b, 1)] for name, a, b in by_column if a >= 0.01]
    columns = ["table", "rows", "bytes a row", "bytes a flow row", "parts"]
    return [
        rounds.table("On disk, with marks and indexes", columns, lines),
        rounds.table(
            "`flows` on disk by column",
            ["column", "bytes a row", "uncompressed"],
            told,
            "Columns below 0.01 bytes are left out.",
        ),
    ]


if __name__ == "__main__":
    main()
