# SPDX-License-Identifier: Apache-2.0
"""FORMAT and SETTINGS come off the end of a statement, and nothing else does."""

import pytest

from consumer.api.fault import Fault
from consumer.api.statement import statement_from, tokens_of


@pytest.mark.parametrize(
    "tail",
    [
        "SETTINGS max_threads = 1, log_comment = 'a, \\'b = 2'\nFORMAT TSV",
        "FORMAT TSV\nSETTINGS max_threads = 1, log_comment = 'a, \\'b = 2'",
        "SETTINGS max_threads = 1\nFORMAT TSV\nSETTINGS log_comment = 'a, \\'b = 2'",
    ],
)
def test_format_and_settings_are_taken_off_in_any_order(tail: str):
    statement = statement_from(f"SELECT 1\nFROM t\n{tail}")

    assert statement.sql == "SELECT 1\nFROM t"
    assert statement.format == "TSV"
    assert statement.settings == {"max_threads": "1", "log_comment": "a, 'b = 2"}


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1",
        "SELECT 'x FORMAT TSV'",
        "SELECT `SETTINGS`, `FORMAT` FROM `a FORMAT b`",
        "SELECT 1 IN (\n    SELECT 2\n    SETTINGS max_threads = 2\n)",
        "SELECT *\nFROM\n(\n    SELECT 1\n    SETTINGS a = 1\n)\nWHERE a = 1",
        "SELECT {a:Enum8('} FORMAT x' = 1)}",
    ],
)
def test_what_stands_inside_stays(sql: str):
    statement = statement_from(sql)

    assert (statement.sql, statement.format, statement.settings) == (sql, None, {})


@pytest.mark.parametrize("sql", ["SELECT 1 -- x", "SELECT 1 /* x", "SELECT $$x$$", "SELECT 'x"])
def test_what_the_formatter_does_not_write_is_refused(sql: str):
    with pytest.raises(Fault):
        statement_from(sql)


def test_quotes_are_taken_off_names_and_strings():
    tokens = tokens_of(r"SELECT `fi\`le`, 'it\'s\n', \"x\"".replace(r"\"", '"'))

    assert [token.value for token in tokens] == ["SELECT", "fi`le", ",", "it's\n", ",", "x"]
