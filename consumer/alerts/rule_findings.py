# SPDX-License-Identifier: Apache-2.0
"""Make sightings of what rules in SQL find, and of what is wrong with a rule.

What rows hold comes from the network: it is cut, and what cannot be printed is escaped.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from ipaddress import IPv6Address
from typing import Any

from consumer.alerts.alert import Sighting
from consumer.alerts.evidence import shown
from consumer.alerts.rule_file import VALUE, Rule
from service.options import ConfigError

# The detector of what is wrong with rules.
RULE_FAILS = "rule_fails"
_MAX_TEXT_CHARACTERS = 200
_MAX_SUMMARY_CHARACTERS = 500
_NUMERIC = re.compile(r"(?:Nullable\()?(?:U?Int|Float|BFloat|Decimal)\d*[^()]*(?:\([\d, ]+\))?\)?")


def check_columns(rule: Rule, types: Mapping[str, str]) -> None:
    """Raises: ConfigError where the query of *rule* lacks a column, or its value is no number."""
    if missing := sorted(rule.columns - set(types)):
        raise ConfigError(
            f"{rule.where}: its query has no column {missing[0]}; it has {', '.join(types)}"
        )
    if not _NUMERIC.fullmatch(types[VALUE]):
        raise ConfigError(f"{rule.where}: column {VALUE} is {types[VALUE]}, which is no number")


def sighting_of(rule: Rule, row: Mapping[str, Any], until_ns: int, statement: str) -> Sighting:
    """What a row of the answer to *statement*, with rows before *until_ns*, shows."""
    texts = {name: _text(row[name]) for name in rule.columns}
    return Sighting(
        detector=rule.name,
        labels={name: texts[name] for name in rule.labels},
        severity=rule.severity,
        summary=rule.sentence(texts)[:_MAX_SUMMARY_CHARACTERS],
        evidence=statement,
        value=float(row[VALUE]),
        threshold=rule.threshold,
        seen_ns=until_ns,
        began_ns=until_ns,
    )


def complaint(
    rule: Rule,
    about: str,
    summary: str,
    *,
    evidence: str,
    value: float,
    threshold: float,
    times_ns: tuple[int, int],
) -> Sighting:
    """What is wrong with a rule; *about* tells complaints apart, *times_ns* are first and last."""
    began_ns, seen_ns = times_ns
    return Sighting(
        detector=RULE_FAILS,
        labels={"rule": rule.name, "about": about},
        severity="warning",
        summary=summary[:_MAX_SUMMARY_CHARACTERS],
        evidence=evidence,
        value=float(value),
        threshold=float(threshold),
        seen_ns=seen_ns,
        began_ns=began_ns,
    )


def _text(value: Any) -> str:
    """A value of a result as it stands in labels and sentences, in one line."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, IPv6Address):
        return str(value.ipv4_mapped or value)
    if isinstance(value, bytes):
        value = value.rstrip(b"\0").decode(errors="backslashreplace")
    if isinstance(value, datetime):
        value = value.isoformat(sep=" ")
    return shown(str(value))[:_MAX_TEXT_CHARACTERS]
