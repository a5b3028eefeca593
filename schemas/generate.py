# SPDX-License-Identifier: Apache-2.0
"""Write every file that is derived from the schema, or check that none is stale.

python -m schemas.generate [--check]
"""

import argparse
import sys
from pathlib import Path

from schemas.c_header import c_header
from schemas.catalogue import BITS, CONSTANTS, ENUMS, LAYOUTS, RECORDS, SUCCESSION
from schemas.clickhouse import schema_sql
from schemas.filter.reference import filter_page
from schemas.filter.terms import TERMS
from schemas.reference import reference_page
from schemas.rollup import ROLLUPS
from schemas.rollup_sql import backfill_sql, rollup_sql

ROOT = Path(__file__).resolve().parent.parent


def derived_files() -> dict[str, str]:
    """The text of each derived file by its path in the repository."""
    return {
        "bpf/events.h": c_header(LAYOUTS, ENUMS, BITS, CONSTANTS),
        "consumer/tables.sql": schema_sql(RECORDS) + rollup_sql(ROLLUPS),
        "deploy/clickhouse/backfill.sql": backfill_sql(ROLLUPS),
        "docs/reference/events.md": reference_page(RECORDS, ROLLUPS, (*LAYOUTS, *SUCCESSION), BITS),
        "docs/reference/filters.md": filter_page(TERMS),
    }


def stale_files(root: Path) -> list[str]:
    """The derived files below *root* that are missing or differ from the declarations."""
    return [
        name
        for name, text in derived_files().items()
        if not (root / name).is_file() or (root / name).read_text() != text
    ]


def write_files(root: Path) -> None:
    for name, text in derived_files().items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def main(argv: list[str] | None = None, root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(prog="python -m schemas.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail when stale")
    if not parser.parse_args(argv).check:
        write_files(root)
        return 0
    stale = stale_files(root)
    for name in stale:
        sys.stderr.write(f"{name} is stale; run: make generate\n")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
