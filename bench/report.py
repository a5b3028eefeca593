# SPDX-License-Identifier: Apache-2.0
"""Write results into the page that explains them, as tables between its markers.

A line `<!-- bench: NAME -->` begins the tables of a subject and `<!-- end -->` ends them;
`machine` stands for what the machine is.  The figures of a subject come before its tables.
Everything else on the page is written by hand.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.plots import draw_all

PAGE = Path(__file__).parents[1] / "docs" / "explanation" / "performance.md"
_PART = re.compile(r"(<!-- bench: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def write_report(results: Mapping[str, Any]) -> None:
    figures = draw_all(results)

    def renewed(part: re.Match[str]) -> str:
        name = part[2]
        if name == "machine":
            return part[1] + _machine(results["machine"]) + part[3]
        subject = results["subjects"].get(name)
        if not subject:
            return part[0]
        return part[1] + _subject(subject, figures.get(name, [])) + part[3]

    PAGE.write_text(_PART.sub(renewed, PAGE.read_text()))


def _machine(about: Mapping[str, Any]) -> str:
    kind = "virtual machine" if about["is_virtual"] else "machine"
    return (
        f"\n{about['processor']}, {about['cpus']} CPUs, {about['memory_gb']} GB, {kind};"
        f" Linux {about['kernel']}, Python {about['python']}.\n\n"
    )


def _subject(subject: Mapping[str, Any], figures: list[tuple[Path, str]]) -> str:
    tables = subject["tables"] if "tables" in subject else [_of_consumer(subject)]
    head = f"\n`{subject['command']}`, {subject['began']}, {subject['seconds']} s"
    if "load_before" in subject:
        head += f", load {subject['load_before']:g} before"
    shown = "".join(f"![{about}](../pictures/{path.name})\n\n" for path, about in figures)
    return head + "\n\n" + shown + "".join(map(_table, tables))


def _table(content: Mapping[str, Any]) -> str:
    columns = content["columns"]
    lines = [
        f"**{content['title']}**{_rounds(content)}\n",
        "| " + " | ".join(columns) + " |",
        "|---|" + "--:|" * (len(columns) - 1),
        *("| " + " | ".join(map(_text, row)) + " |" for row in content["rows"]),
    ]
    if note := content.get("note"):
        lines.append(f"\n{note}")
    return "\n".join(lines) + "\n\n"


def _rounds(content: Mapping[str, Any]) -> str:
    """Of how many rounds the medians of a table are."""
    if not (rounds := content.get("rounds")):
        return ""
    least, most = rounds
    return f", medians of {most} rounds" if least == most else f", of {least} to {most} rounds"


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return f"{_text(value['median'])} ({_text(value['low'])} to {_text(value['high'])})"
    return f"{value:,}" if isinstance(value, int | float) else str(value)


def _of_consumer(found: Mapping[str, Any]) -> dict[str, Any]:
    """The consumer's measurement has a form of its own."""
    rows = [
        [
            name,
            found["median_rows_per_s"][name],
            found["median_cpu_us_per_row"][name],
            found["consumer_is_faster_by_median"][name],
        ]
        for name in found["median_rows_per_s"]
    ]
    title = f"{found['rows']:,} rows from Kafka into ClickHouse"
    columns = ["reader", "rows a second", "CPU microseconds a row", "the consumer is faster by"]
    return {"title": title, "columns": columns, "rows": rows}
