# SPDX-License-Identifier: Apache-2.0
"""Read a file of rules in SQL, strictly, and make of each what ClickHouse is asked.

A rule's query stands in the file with `{since}` and `{until}` where its times belong.  They are
filled in as text, so what is asked is what the alert shows as its evidence, to the letter.
"""

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from consumer.alerts.alert import SEVERITIES
from service.options import ConfigError

# So many rows of one run become alerts; one more is asked for, to know that there are more.
MAX_ROWS = 100
VALUE = "value"
MAX_FILE_BYTES = 1 << 20

_NS = 1_000_000_000
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,59}")
_COLUMN = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_PLACE = re.compile(r"\{([A-Za-z_]\w*)\}", re.ASCII)
_DURATION = re.compile(r"(\d{1,6})(s|m|h|d)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_TIMES = ("since", "until")
_OPERATORS = {"above": ">", "below": "<"}
_REQUIRED = ("name", "query", "every", "over", "severity", "summary")
_KNOWN = {*_REQUIRED, *_OPERATORS, "labels", "for"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule; *where* names it in messages."""

    where: str
    name: str
    query: str
    every_s: int
    over_s: int
    operator: str  # > or <
    threshold: float
    labels: tuple[str, ...]
    severity: str
    summary: str
    for_s: int

    def rows_at(self, until_ns: int) -> str:
        """The query over the rows before *until_ns*, whatever their values."""
        times = {"until": _literal(until_ns), "since": _literal(until_ns - self.over_s * _NS)}
        return _PLACE.sub(lambda place: times[place[1]], self.query)

    def statement_at(self, until_ns: int) -> str:
        """What ClickHouse is asked: the rows beyond the threshold, the furthest first."""
        order = "DESC" if self.operator == ">" else "ASC"
        # Its own line: a comment may end the query.
        return (
            f"SELECT * FROM (\n{self.rows_at(until_ns)}\n)"
            f" WHERE {VALUE} {self.operator} {self.threshold!r}"
            f" ORDER BY {VALUE} {order} LIMIT {MAX_ROWS + 1}"
        )

    @property
    def columns(self) -> set[str]:
        """The columns that a result must have."""
        return {VALUE, *self.labels, *_PLACE.findall(self.summary)}

    def sentence(self, row: Mapping[str, str]) -> str:
        """The summary of a row."""
        return _PLACE.sub(lambda place: row[place[1]], self.summary)


def _literal(time_ns: int) -> str:
    seconds, rest_ns = divmod(time_ns, _NS)
    at = datetime.fromtimestamp(seconds, UTC)
    return f"toDateTime64('{at:%Y-%m-%d %H:%M:%S}.{rest_ns:09}', 9, 'UTC')"


def rules_in(path: Path, taken: Collection[str] = ()) -> list[Rule]:
    """The rules of the file *path*, none of which may have a name of *taken*.

    Raises:
        ConfigError: the file or a rule cannot be used; the text names the line and the rule.
    """
    text = _text(path)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{path}:{line} is no YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(node, yaml.SequenceNode) or not content:
        raise ConfigError(f"{path} is no list of rules; begin each with - name:")
    rules: list[Rule] = []
    names = set(taken)
    for entry, item in zip(content, node.value, strict=True):
        rule = _rule(f"{path}:{item.start_mark.line + 1}", entry, item)
        if rule.name in names:
            raise ConfigError(f"{rule.where}: the name is taken, and alerts would mix")
        names.add(rule.name)
        rules.append(rule)
    return rules


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot read rules {path}: {error.strerror}") from None
    if len(content) > MAX_FILE_BYTES:
        raise ConfigError(f"rules {path} is larger than {MAX_FILE_BYTES} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise ConfigError(f"rules {path} is no text in UTF-8") from None


def _rule(where: str, entry: Any, node: yaml.Node) -> Rule:
    if not isinstance(entry, dict) or not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{where} is no rule; write - name: and its other keys below")
    name = entry.get("name")
    if isinstance(name, str) and name:
        where = f"{where}, rule {name if name.isprintable() else repr(name)}"
    try:
        _check_keys(entry, [key.value for key, _ in node.value])
        return _made(where, entry)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _check_keys(entry: Mapping[Any, Any], written: list[str]) -> None:
    if unknown := [key for key in entry if key not in _KNOWN]:
        raise ConfigError(f"unknown key {unknown[0]!r}; choose among {', '.join(sorted(_KNOWN))}")
    # The parser takes the last of several without a word.
    if twice := [key for key in _KNOWN if written.count(key) > 1]:
        raise ConfigError(f"{min(twice)} is given twice")
    if missing := [key for key in _REQUIRED if key not in entry]:
        raise ConfigError(f"{missing[0]} is missing")


def _made(where: str, entry: Mapping[str, Any]) -> Rule:
    texts = {key: _string(entry, key) for key in ("name", "query", "severity", "summary")}
    if not _NAME.fullmatch(texts["name"]):
        raise ConfigError(
            f"name is {texts['name']!r}; write lower-case letters, digits, _ and -, 60 at most"
        )
    if texts["severity"] not in SEVERITIES:
        raise ConfigError(
            f"severity is {texts['severity']!r}; choose one of {', '.join(SEVERITIES)}"
        )
    if not texts["summary"].strip().isprintable():
        raise ConfigError("summary has several lines; write one")
    operator, threshold = _threshold(entry)
    return Rule(
        where=where,
        name=texts["name"],
        query=_query(texts["query"]),
        every_s=_duration(entry, "every", least=1, most=86_400),
        over_s=_duration(entry, "over", least=1, most=31 * 86_400),
        operator=operator,
        threshold=threshold,
        labels=_labels(entry),
        severity=texts["severity"],
        summary=texts["summary"].strip(),
        for_s=_duration(entry, "for", least=0, most=31 * 86_400) if "for" in entry else 0,
    )


def _string(entry: Mapping[str, Any], key: str) -> str:
    value = entry[key]
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{key} is {value!r}; write a text")
    return value


def _query(text: str) -> str:
    query = text.strip().rstrip(";").rstrip()
    places = set(_PLACE.findall(query))
    if unknown := sorted(places - set(_TIMES)):
        raise ConfigError(f"query has {{{unknown[0]}}}; only {{since}} and {{until}} are filled in")
    if missing := [time for time in _TIMES if time not in places]:
        raise ConfigError(
            f"query does not say {{{missing[0]}}}; compare time with it, or each run reads all rows"
        )
    return query


def _threshold(entry: Mapping[str, Any]) -> tuple[str, float]:
    given = [key for key in _OPERATORS if key in entry]
    if len(given) != 1:
        raise ConfigError("a threshold is needed: write either above or below")
    value = entry[given[0]]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value):
        raise ConfigError(f"{given[0]} is {value!r}; write a number, as in 0.05")
    return _OPERATORS[given[0]], float(value)


def _duration(entry: Mapping[str, Any], key: str, *, least: int, most: int) -> int:
    value = entry[key]
    found = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if not found:
        raise ConfigError(
            f"{key} is {value!r}; write a time with its unit, as in 30s, 5m, 1h or 1d"
        )
    seconds = int(found[1]) * _SECONDS[found[2]]
    if not least <= seconds <= most:
        raise ConfigError(f"{key} is {value}; it must be from {least} s to {most // 86_400} d")
    return seconds


def _labels(entry: Mapping[str, Any]) -> tuple[str, ...]:
    value = entry.get("labels", [])
    is_list = isinstance(value, list) and all(isinstance(one, str) for one in value)
    if not is_list or not all(_COLUMN.fullmatch(one) for one in value):
        raise ConfigError(f"labels is {value!r}; write a list of columns, as in [node, interface]")
    if VALUE in value or len(set(value)) < len(value):
        raise ConfigError(f"labels is {value!r}; name each column once, and not {VALUE}")
    return tuple(value)
