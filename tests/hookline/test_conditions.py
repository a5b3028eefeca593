# SPDX-License-Identifier: Apache-2.0
"""The SQL of a filter chooses the rows that the filter means."""

import random

import pytest

from hookline.conditions import Conditions
from hookline.flows import Asked
from schemas.filter.grammar import parse
from tests.consumer.engine import Engine
from tests.schemas.filters import ROW_TERMS, Row, a_filter, a_row, holds

pytestmark = pytest.mark.services
_COLUMNS = tuple(a_row(random.Random(0), 0))


def _literal(value: object) -> str:
    text = str(value).replace("\\", "\\\\").replace("'", "\\'")
    return text if isinstance(value, int) else f"'{text}'"


def _insert(engine: Engine, rows: list[Row]) -> None:
    # With a time: what is as old as the epoch would be cleaned away.
    values = (f"(now64(9), {', '.join(_literal(row[name]) for name in _COLUMNS)})" for row in rows)
    names = ", ".join(["time", *_COLUMNS])
    engine.execute(f"INSERT INTO hookline.flows ({names}) VALUES {', '.join(values)}")


def test_the_engine_finds_the_rows_that_a_row_by_row_reading_finds(tmp_path):
    draw = random.Random(20261123)
    rows = [a_row(draw, number) for number in range(400)]
    filters = [a_filter(draw, ROW_TERMS) for _ in range(250)]

    with Engine(tmp_path / "clickhouse") as engine:
        engine.migrate()
        _insert(engine, rows)
        found = {text: _chosen(engine, text) for text in filters}

    for text, numbers in found.items():
        tree = parse(text)
        assert numbers == [row["packets"] for row in rows if holds(tree, row)], text
    # Filters that choose all or nothing would prove little.
    assert sum(0 < len(numbers) < len(rows) for numbers in found.values()) > 100


def _chosen(engine: Engine, text: str) -> list[int]:
    conditions = Conditions("flows")
    where = conditions.of(parse(text))
    sql = f"SELECT packets FROM hookline.flows AS flows WHERE {where} ORDER BY packets"
    return [int(number) for (number,) in engine.rows(Asked(sql, conditions.values).readable())]
