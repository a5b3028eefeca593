# SPDX-License-Identifier: Apache-2.0
"""A history that is kept is made once, and again only where it is declared otherwise."""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pytest

from bench import month
from schemas.rollup import ADDRESSES_1D, EDGES_1D, FLOWS_1M

pytestmark = pytest.mark.services

ROWS = 10_000
SUMS = {
    "flows": "count(), sum(packets), sum(bytes)",
    "flows_1m": "sum(flows), sum(packets), sum(bytes)",
    "edges_1d": "sum(flows), sum(packets), sum(bytes)",
    "addresses_1d": "sum(flows) / 2, sum(packets) / 2, sum(bytes) / 2",
}


def opened(directory: Path, rollups: tuple[object, ...]) -> tuple[list[str], set[object], int]:
    """What was made, the sums that tables have, and how many rows are there beside flows."""
    month.ROLLUPS = rollups
    history = month.Month(directory, ROWS)
    client = history.open()
    sums = {
        client.query(f"SELECT {sql} FROM hookline.{table}").result_rows[0]
        for table, sql in SUMS.items()
    }
    [[others]] = client.query(
        "SELECT sum(total_rows) FROM system.tables WHERE name IN ('sockets', 'dns', 'tls', 'drops')"
    ).result_rows
    client.close()
    return list(history.made), sums, others


def test_a_kept_history_is_used_again_and_only_what_is_declared_otherwise_is_made_anew(tmp_path):
    other = replace(FLOWS_1M, order_by="minute, " + FLOWS_1M.order_by.removesuffix(", minute"))
    # An engine takes one directory a process.
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        made, sums, others = process.submit(opened, tmp_path, month.ROLLUPS).result()
        changed, same_sums, _ = process.submit(
            opened, tmp_path, (other, EDGES_1D, ADDRESSES_1D)
        ).result()

    assert set(SUMS) < set(made)
    assert len(sums) == 1
    assert {count for count, *_ in sums} == {ROWS}
    assert others == ROWS * 3 // 20 + ROWS // 50
    assert changed == ["flows_1m"]
    assert same_sums == sums
