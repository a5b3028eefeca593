# SPDX-License-Identifier: Apache-2.0
"""The figures of docs/explanation/performance.md, drawn from results.

Each is a function that reads tables by their subject and the beginning of their title, and draws
one picture.  One that finds no such table says which; the others are drawn.
"""

import sys
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench.draw import Named, bars, has_value, lines, pairs, picture

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"

Table = Mapping[str, Any]
Results = Mapping[str, Any]
Figure = Callable[[Results, Path], str]


class MissingError(Exception):
    """What a figure shows was not measured."""


def draw_all(results: Results) -> dict[str, list[tuple[Path, str]]]:
    """By subject, the pictures that could be drawn, and what each shows in words."""
    if find_spec("matplotlib") is None:
        print("bench: no figures without matplotlib; make dev installs it", file=sys.stderr)
        return {}
    drawn: dict[str, list[tuple[Path, str]]] = {}
    for figure in FIGURES:
        name = figure.__name__
        path = PICTURES / f"{name.replace('_', '-')}.svg"
        try:
            about = figure(results, path)
        except MissingError as missing:
            print(f"bench: no figure {path.name}: {missing}", file=sys.stderr)
        else:
            drawn.setdefault(name.partition("_")[0], []).append((path, about))
    return drawn


def table_of(results: Results, subject: str, *titles: str) -> Table:
    """The subject's table whose title begins with one of *titles*, the first before the next."""
    found = results["subjects"].get(subject, {}).get("tables", [])
    for title in titles:
        for one in found:
            if one["title"].startswith(title):
                return one
    raise MissingError(f"{subject} has no table {titles[0]!r}; measure it first")


def column(table: Table, name: str) -> list[Named]:
    """Labels with the values of a column, by its name or its beginning."""
    at = _place(table, name)
    return [(str(row[0]), row[at]) for row in table["rows"] if has_value(row[at])]


def rows_of(table: Table, columns: Iterable[str], *, but: tuple[str, ...] = ()) -> dict[str, list]:
    """Rows by their labels, of some columns; *but* are beginnings of labels to leave out."""
    places = [_place(table, name) for name in columns]
    return {
        str(row[0]): [row[at] for at in places]
        for row in table["rows"]
        if not str(row[0]).startswith(but)
    }


def _place(table: Table, name: str) -> int:
    for at, one in enumerate(table["columns"]):
        if at and one.startswith(name):
            return at
    raise MissingError(f"the table {table['title']!r} has no column {name!r}; measure it again")


def kernel_packet(results: Results, path: Path) -> str:
    table = table_of(results, "kernel", "Full flow accounting, a", "An existing flow")
    is_full = table["title"].startswith("Full")
    found = column(table, "net of an empty" if is_full else "TCP 1500 B")
    found = [one for one in found if "target" not in one[0] and "all of it" not in one[0]]
    about = "What a packet of a known flow costs in the kernel, net of an empty program."
    with picture(path, "A packet of a known flow", about, bars=len(found)) as axes:
        bars(axes, found, "ns a packet, net of an empty program; less is better")
    return about


def kernel_flows(results: Results, path: Path) -> str:
    table = table_of(results, "kernel", "Full flow accounting by the number", "Working sets")
    ticks = table["columns"][1:]
    about = "What a packet costs in the kernel by how many flows there are, and of a new flow."
    with picture(path, "By the number of flows", about) as axes:
        series = rows_of(table, ticks, but=("target",))
        lines(axes, _broken(ticks), series, ("", "ns a packet"), is_log=True)
    return about


def rules_prefixes(results: Results, path: Path) -> str:
    table = table_of(results, "rules", "Sources all over")
    ticks = [one for one in table["columns"] if one.startswith("XDP, ")]
    series = rows_of(table, ticks, but=("of that", "what it adds", "all of it"))
    about = "What a packet costs at XDP by the number of prefixes that are dropped."
    with picture(path, "Sources all over a list of prefixes, XDP", about) as axes:
        counts = [one.removeprefix("XDP, ") for one in ticks]
        lines(axes, counts, series, ("prefixes", "ns a packet"), is_log=True)
    return about


def rules_addresses(results: Results, path: Path) -> str:
    table = table_of(results, "rules", "One source of a list of single")
    ticks = table["columns"][1:]
    series = rows_of(table, ticks, but=("of that", "what it adds", "all of it"))
    about = "What a packet costs at XDP by the number of single addresses, beside xdp-filter."
    with picture(path, "One source of a list of single addresses, XDP", about) as axes:
        lines(axes, ticks, series, ("addresses", "ns a packet"))
    return about


def rules_link(results: Results, path: Path) -> str:
    table = table_of(results, "rules", "A live link")
    ticks = table["columns"][1:]
    series = {
        name.removesuffix(", beyond that"): values
        for name, values in rows_of(table, ticks).items()
        if name.endswith("beyond that")
    }
    about = (
        "CPU time of a dropped packet on a live link by prefixes: hookline, netfilter, xdp-filter."
    )
    with picture(path, "Dropping on a live link, beyond a program that drops all", about) as axes:
        lines(axes, ticks, series, ("", "ns of CPU a packet"), is_log=True)
    return about


def ring_readers(results: Results, path: Path) -> str:
    table = table_of(results, "ring", "Events of 64 bytes")
    found = [one for one in column(table, "bursts of 1,000") if "times" not in one[0]]
    about = "CPU time to read one event of 64 bytes from a ring buffer, in bursts of 1,000."
    with picture(path, "Reading a ring buffer, bursts of 1,000", about, bars=len(found)) as axes:
        bars(axes, found, "CPU ns an event of 64 bytes, logarithmic; less is better", is_log=True)
    return about


def detect_times(results: Results, path: Path) -> str:
    table = table_of(results, "detect", "Seconds from an attack's first packet, agents that report")
    alert, dropped = (_place(table, name) for name in ("alert, median", "dropped everywhere"))
    found = [
        (f"{row[0]}: {what}", {"median": row[at], "low": row[at], "high": row[at + 1]})
        for row in table["rows"]
        for what, at in (("alert", alert), ("dropped", dropped))
        if "slow" not in row[0]
    ]
    about = "Seconds from an attack's first packet to its alert, and to the last node's first drop."
    interval = table["title"].rpartition("every ")[2]
    title = f"Alerts and drops, agents that report every {interval}"
    with picture(path, title, about, bars=len(found)) as axes:
        unit = "s from the first packet, median, the line up to the worst; less is better"
        bars(axes, found, unit, ours=lambda label: label.endswith("dropped"))
    return about


def consumer_rows(results: Results, path: Path) -> str:
    subject = results["subjects"].get("consumer", {})
    if "median_rows_per_s" in subject:  # as it was measured before it had tables
        found: list[Named] = list(subject["median_rows_per_s"].items())
    else:
        if not subject.get("tables"):
            raise MissingError("consumer was not measured")
        found = column(subject["tables"][0], "rows a second")
    about = "Rows a second from Kafka into ClickHouse: the consumer and ClickHouse's Kafka engine."
    with picture(path, "From Kafka into ClickHouse", about, bars=len(found)) as axes:
        bars(axes, found, "rows a second; more is better", most_first=True)
    return about


def claim_latency(results: Results, path: Path) -> str:
    table = table_of(results, "claim", "p99 by requests a second")
    ticks = table["columns"][1:]
    series = {k: v for k, v in rows_of(table, ticks).items() if "times" not in k}
    about = "The slowest of a hundred answers by requests a second: nothing, hookline and a proxy."
    with picture(path, "Latency by load", about) as axes:
        loads = [one.removesuffix(" a second") for one in ticks]
        lines(axes, loads, series, ("requests a second", "p99, ms"), is_log=True)
    return about


def claim_cpu(results: Results, path: Path) -> str:
    table = table_of(results, "claim", "10,000 requests a second")
    found = [one for one in column(table, "beyond bare") if one[0] != "bare"]
    about = "CPU time that 10,000 requests take beyond what client and server take alone."
    with picture(path, "What observing adds to 10,000 requests", about, bars=len(found)) as axes:
        bars(axes, found, "ms of CPU beyond bare; less is better")
    return about


def queries_rollups(results: Results, path: Path) -> str:
    found = results["subjects"].get("queries", {}).get("tables", [])
    tables = [one for one in found if "rollup: p50, ms" in one["columns"]]
    if not tables:
        raise MissingError("queries has no table of questions; measure it first")
    at, rollup_at = (_place(tables[0], name) for name in ("rows: p50", "rollup: p50"))
    rows = [(row[0], row[at], row[rollup_at]) for row in tables[0]["rows"]]
    about = "Milliseconds until a question is answered, from all rows and from rollups."
    with picture(path, f"Questions to {tables[0]['title']}", about, bars=len(rows)) as axes:
        pairs(axes, rows, ("from rows", "from rollups"), "ms, median, logarithmic; less is better")
    return about


def pipeline_latency(results: Results, path: Path) -> str:
    table = table_of(results, "pipeline", "Milliseconds from a packet")
    middle, late = _place(table, "median"), _place(table, "99 %")
    found = [
        (str(row[0]), {"median": row[middle], "low": row[middle], "high": row[late]})
        for row in table["rows"]
    ]
    about = "Milliseconds from a packet on the wire until a query finds its row."
    with picture(path, "From a packet to its row", about, bars=len(found)) as axes:
        unit = "ms, median, the line up to 99 %; less is better"
        bars(axes, found, unit, ours=lambda _: True)
    return about


def pipeline_cpu(results: Results, path: Path) -> str:
    table = table_of(results, "pipeline", "Flow rows through all of it")
    parts = [one for one in table["columns"] if one.endswith("CPU us a row")]
    most = table["rows"][-1]
    found = [(one.removesuffix(", CPU us a row"), most[_place(table, one)]) for one in parts]
    about = f"CPU time of each part for a flow row, at {most[0]} flows a second."
    with picture(path, f"A flow row, at {most[0]} a second", about, bars=len(found)) as axes:
        bars(axes, found, "CPU microseconds a row", ours=lambda label: label != "broker")
    return about


def scale_nodes(results: Results, path: Path) -> str:
    found = results["subjects"].get("scale", {}).get("tables", [])
    tables = [one for one in found if "stored after, median s" in one["columns"]]
    if not tables:
        raise MissingError("scale has no table of nodes; measure it first")
    table = tables[0]
    names = {"stored after, median s": "median", "99 % s": "99 %"}
    series = {f"hookline, {name}": [] for name in names.values()}
    for row in table["rows"]:
        for title, name in names.items():
            series[f"hookline, {name}"].append(row[_place(table, title)])
    about = "Seconds from a record's sending to its row by the number of nodes."
    with picture(path, f"By nodes, {table['title']}", about) as axes:
        levels = [str(row[0]).replace(", ", ",\n") for row in table["rows"]]
        lines(axes, levels, series, ("", "s until stored"))
    return about


def _broken(ticks: Iterable[str]) -> list[str]:
    """Two lines where a name has two parts."""
    return [one.replace(", ", ",\n") if not one[0].isdigit() else one for one in ticks]


# A figure stands with the tables of the subject that its name begins with.
FIGURES: tuple[Figure, ...] = (
    kernel_packet,
    kernel_flows,
    rules_prefixes,
    rules_addresses,
    rules_link,
    ring_readers,
    detect_times,
    consumer_rows,
    claim_latency,
    claim_cpu,
    queries_rollups,
    pipeline_latency,
    pipeline_cpu,
    scale_nodes,
)
