# SPDX-License-Identifier: Apache-2.0
"""Write results into the pages that explain them, as tables between their markers.

A line `<!-- bench: NAME -->` begins the tables of a subject and `<!-- end -->` ends them;
`machine` stands for what the machine is.  The figures of a subject come before its tables.
Everything else on the pages is written by hand.
"""

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.capacity import tables
from bench.figures import MissingError
from bench.plots import draw_all

_PAGES = Path(__file__).parents[1] / "docs" / "explanation"
PAGE = _PAGES / "performance.md"
COMPUTED = _PAGES / "scale.md"
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
    _write_computed(results)


def _write_computed(results: Mapping[str, Any]) -> None:
    """What is computed from results of several subjects; left as it is where one is missing."""
    try:
        found = tables(results)
    except MissingError as error:
        print(f"bench: {COMPUTED.name} is not renewed: {error}", file=sys.stderr)
        return

    def renewed(part: re.Match[str]) -> str:
        return part[1] + "\n" + "".join(map(_table, found[part[2]])) + part[3]

    COMPUTED.write_text(_PART.sub(renewed, COMPUTED.read_text()))


def _machine(about: Mapping[str, Any]) -> str:
    kind = "virtual machine" if about["is_virtual"] else "machine"
    return (
        f"\n{about['processor']}, {about['cpus']} CPUs, {about['memory_gb']} GB, {kind};"
        f" Linux {about['kernel']}, Python {about['python']}.\n\n"
    )


def _subject(subject: Mapping[str, Any], figures: list[tuple[Path, str]]) -> str:
    head = f"\n`{subject['command']}`, {subject['began']}, {subject['seconds']} s"
    if "load_before" in subject:
        head += f", load {subject['load_before']:g} before"
    shown = "".join(f"![{about}](../pictures/{path.name})\n\n" for path, about in figures)
    return head + "\n\n" + shown + "".join(map(_table, subject["tables"]))


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
