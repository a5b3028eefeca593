# SPDX-License-Identifier: Apache-2.0
"""A rule that cannot work is refused when the file is read, by its line and name."""

from pathlib import Path

import pytest

from consumer.alerts.rule_file import Rule, rules_in
from service.options import ConfigError

RULE = """\
- name: many_rows
  query: |
    SELECT node, count() AS value FROM flows  -- {since}
    WHERE time >= {since} AND time < {until} GROUP BY node;
  every: 30s
  over: 5m
  above: 100
  labels: [node]
  severity: warning
  summary: "{node} has {value} rows"
"""


def read(folder: Path, text: str) -> list[Rule]:
    path = folder / "rules.yaml"
    path.write_text(text)
    return rules_in(path)


def test_times_are_filled_in_wherever_they_stand_and_a_comment_ends_no_query(tmp_path):
    [rule] = read(tmp_path, RULE)

    assert rule.statement_at(1_700_000_000_000_000_001) == (
        "SELECT * FROM (\n"
        "SELECT node, count() AS value FROM flows"
        "  -- toDateTime64('2023-11-14 22:08:20.000000001', 9, 'UTC')\n"
        "WHERE time >= toDateTime64('2023-11-14 22:08:20.000000001', 9, 'UTC')"
        " AND time < toDateTime64('2023-11-14 22:13:20.000000001', 9, 'UTC') GROUP BY node\n"
        ") WHERE value > 100.0 ORDER BY value DESC LIMIT 101"
    )


def test_a_floor_asks_for_what_is_below_it(tmp_path):
    [rule] = read(tmp_path, RULE.replace("above: 100", "below: 0.5"))

    assert rule.statement_at(0).endswith(") WHERE value < 0.5 ORDER BY value ASC LIMIT 101")


@pytest.mark.parametrize(
    ("wrong", "right", "reason"),
    [
        ("name: Many", "name: many_rows", "name is 'Many'; write lower-case letters"),
        ("every: 30", "every: 30s", "every is 30; write a time with its unit, as in 30s"),
        ("every: 0s", "every: 30s", "every is 0s; it must be from 1 s to 1 d"),
        ("over: 32d", "over: 5m", "over is 32d; it must be from 1 s to 31 d"),
        ("every: 1:30", "every: 30s", "every is 90; write a time with its unit"),
        ("for: long\n  over: 5m", "over: 5m", "for is 'long'; write a time with its unit"),
        ("above: yes", "above: 100", "above is True; write a number"),
        ("above: .inf", "above: 100", "above is inf; write a number"),
        ("below: 1\n  above: 100", "above: 100", "write either above or below"),
        ("over: 1m\n  over: 5m", "over: 5m", "over is given twice"),
        ("severity: bad", "severity: warning", "severity is 'bad'; choose one of info, warning"),
        ("labels: node", "labels: [node]", "labels is 'node'; write a list of columns"),
        ("labels: [value]", "labels: [node]", "name each column once, and not value"),
        ("labels: [a b]", "labels: [node]", "write a list of columns"),
        ("colour: red\n  over: 5m", "over: 5m", "unknown key 'colour'"),
        ("< {untill}", "< {until}", "query has {untill}; only {since} and {until} are filled in"),
        ("", " AND time < {until}", "query does not say {until}"),
        ("", '  summary: "{node} has {value} rows"\n', "summary is missing"),
        ('summary: "a\\nb"', 'summary: "{node} has {value} rows"', "summary has several lines"),
    ],
)
def test_what_is_wrong_is_named_with_its_line_and_rule(tmp_path, wrong, right, reason):
    text = f"# first\n{RULE.replace('many_rows', 'other')}{RULE.replace(right, wrong)}"
    name = "Many" if "Many" in wrong else "many_rows"

    with pytest.raises(ConfigError) as refused:
        read(tmp_path, text)

    assert str(refused.value).startswith(f"{tmp_path}/rules.yaml:12, rule {name}: ")
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "rules.yaml is no list of rules"),
        ("rules: []", "rules.yaml is no list of rules"),
        ("- 1", "rules.yaml:1 is no rule"),
        ("- name: [", "rules.yaml:1 is no YAML"),
        ("- !!python/object/apply:os.system [id]", "is no YAML: could not determine a constructor"),
        (RULE + RULE, "rules.yaml:11, rule many_rows: the name is taken"),
        ("[" * 1000, "is no YAML"),
        ("a: \x00", "is no YAML"),
    ],
)
def test_a_file_that_is_none_is_refused_in_one_line(tmp_path, text, reason):
    with pytest.raises(ConfigError) as refused:
        read(tmp_path, text)

    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_name_of_a_detector_is_taken(tmp_path):
    (tmp_path / "rules.yaml").write_text(RULE)

    with pytest.raises(ConfigError, match="rule many_rows: the name is taken"):
        rules_in(tmp_path / "rules.yaml", {"many_rows"})


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(ConfigError, match="cannot read rules .*/none: No such file"):
        rules_in(tmp_path / "none")
