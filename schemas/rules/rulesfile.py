# SPDX-License-Identifier: Apache-2.0
"""rules.yaml: the rules that somebody wants, and how they differ from those that there are.

    rules:
      - name: no-telnet
        match: tcp dst port 23
        enforced: true
      - name: scanners
        match: ip
        src_file: scanners.txt
        limit: 100/s per source
        until: 2027-01-01T00:00:00Z

Fields are those of a rule's message; `until` says `until_ns` as people do, and `src_file` and
`dst_file` name lists of networks, one a line with comments behind #.
"""

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime
from typing import Any

import yaml

from schemas.rules.intervals import Network
from schemas.rules.rule import MAX_NETWORKS, Rule, RuleError, network_in, shown

MAX_RULES = 10_000
_SHOWN_VALUE = 60


class _Loader(yaml.SafeLoader):
    """As safe as YAML is read, and without keys that stand twice: one would be lost in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002  # the library's signature
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue  # which is refused behind this
            if key.value in seen:
                place = f"line {key.start_mark.line + 1}"
                raise RuleError(f"{place}: {key.value!r} stands there twice; remove one")
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def rules_in(text: str, read_list: Callable[[str], str]) -> tuple[Rule, ...]:
    """The rules of a file; *read_list* returns the text of the list at a path that it names.

    Raises:
        RuleError: the file cannot be used.
    """
    try:
        content = yaml.load(text, _Loader)  # noqa: S506  # the loader above is a safe one
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}: " if mark else ""
        raise RuleError(f"{where}this is no YAML: {error.problem}") from None
    except (yaml.YAMLError, ValueError) as error:
        if isinstance(error, RuleError):
            raise
        raise RuleError(f"this is no YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise RuleError("this is no YAML that can be read: it is nested too deeply") from None
    if not isinstance(content, dict) or set(content) != {"rules"}:
        raise RuleError("a file of rules holds one key; write rules: and a list")
    listed = content["rules"]
    if listed is None:
        return ()
    if not isinstance(listed, list):
        raise RuleError("rules: holds no list; write each rule behind '- '")
    if len(listed) > MAX_RULES:
        raise RuleError(f"{len(listed)} rules are too many; write at most {MAX_RULES}")
    rules = tuple(_rule_in(one, number, read_list) for number, one in enumerate(listed, 1))
    by_name: set[str] = set()
    for rule in rules:
        if rule.name in by_name:
            raise RuleError(f"rule {rule.name} stands there twice; rename or remove one")
        by_name.add(rule.name)
    return rules


def _rule_in(entry: object, number: int, read_list: Callable[[str], str]) -> Rule:
    if not isinstance(entry, dict):
        raise RuleError(f"rule number {number} is {shown(entry)}; write name: and match:")
    message = dict(entry)
    name = message.get("name")
    whose = f"rule {name}" if isinstance(name, str) else f"rule number {number}"
    if "until" in message:
        if "until_ns" in message:
            raise RuleError(f"{whose}: until and until_ns both stand there; remove one")
        message["until_ns"] = _until_ns(message.pop("until"), whose)
    for side in ("src", "dst"):
        key = f"{side}_file"
        if key not in message:
            continue
        path = message.pop(key)
        if not isinstance(path, str):
            raise RuleError(f"{whose}: {key} is {shown(path)}; write the path of a list")
        if side in message:
            raise RuleError(f"{whose}: {side} and {key} both stand there; remove one")
        message[side] = [str(network) for network in networks_in(read_list(path), path)]
    try:
        return Rule.from_message(message)
    except RuleError as error:
        said = str(error)
        raise RuleError(said.replace("a rule", f"rule number {number}", 1)) from None


def _until_ns(value: object, whose: str) -> int:
    if isinstance(value, str):
        return time_ns_in(value)
    if isinstance(value, datetime):  # which YAML makes of what looks like one
        return _ns_of(value)
    if isinstance(value, date):
        return _ns_of(datetime(value.year, value.month, value.day, tzinfo=UTC))
    raise RuleError(f"{whose}: until is {shown(value)}; write 2027-01-31T18:00:00Z")


def time_ns_in(text: str) -> int:
    """The wall time that *text* says in ISO 8601; UTC where it names no zone.

    Raises:
        RuleError: it says none.
    """
    try:
        return _ns_of(datetime.fromisoformat(text))
    except (ValueError, OverflowError):
        raise RuleError(f"{text!r} is no time; write 2027-01-31T18:00:00Z") from None


def _ns_of(when: datetime) -> int:
    aware = when if when.tzinfo else when.replace(tzinfo=UTC)
    ns = round(aware.timestamp() * 10**6) * 1000
    if ns <= 0:
        raise RuleError(f"{when} is no time that comes; write 2027-01-31T18:00:00Z")
    return ns


def networks_in(text: str, path: str) -> tuple[Network, ...]:
    """The networks of a list: one a line, # and what follows left out.

    Raises:
        RuleError: a line is no network, there are too many, or none.
    """
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        word = line.partition("#")[0].strip()
        if not word:
            continue
        try:
            found.append(network_in(word))
        except RuleError as error:
            raise RuleError(f"{path}, line {number}: {error}") from None
        if len(found) > MAX_NETWORKS:
            raise RuleError(f"{path} holds more than {MAX_NETWORKS} networks; split it")
    if not found:
        # An empty list would be no condition at all, and the rule would mean every address.
        raise RuleError(f"{path} holds no network; add one, or leave the list out")
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Change:
    """A rule that is there and shall be otherwise, and in which fields."""

    now: Rule
    wanted: Rule

    @property
    def fields(self) -> tuple[str, ...]:
        names = (field.name for field in fields(Rule))
        return tuple(
            name for name in names if getattr(self.now, name) != getattr(self.wanted, name)
        )


@dataclass(frozen=True, slots=True)
class Difference:
    """What makes the rules that there are into those that are wanted."""

    added: tuple[Rule, ...]
    changed: tuple[Change, ...]
    removed: tuple[Rule, ...]

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.removed)

    def lines(self) -> list[str]:
        """The difference as a plan to be read: +, ~ and - before each rule."""
        found = [f"+ {described(rule)}" for rule in self.added]
        for change in self.changed:
            found.append(f"~ {change.wanted.name}")
            found += [
                f"    {_label(name)}: {_shown(change.now, name)} -> {_shown(change.wanted, name)}"
                for name in change.fields
            ]
        found += [f"- {described(rule)}" for rule in self.removed]
        counts = (len(self.added), len(self.changed), len(self.removed))
        return [*found, "{} to add, {} to change, {} to remove".format(*counts)]


def difference(now: Iterable[Rule], wanted: Iterable[Rule]) -> Difference:
    """What to add, change and remove, each in the order of names."""
    before = {rule.name: rule for rule in now}
    after = {rule.name: rule for rule in wanted}
    return Difference(
        tuple(after[name] for name in sorted(after.keys() - before.keys())),
        tuple(
            Change(before[name], after[name])
            for name in sorted(after.keys() & before.keys())
            if before[name] != after[name]
        ),
        tuple(before[name] for name in sorted(before.keys() - after.keys())),
    )


def described(rule: Rule) -> str:
    """A rule in one line."""
    state = "observed" if rule.is_observed else "enforced"
    parts = [
        f"{rule.name} ({state}, priority {rule.priority}):",
        rule.action if rule.limit is None else f"{rule.action} {rule.limit}:",
        meaning_in_words(rule),
    ]
    if rule.until_ns:
        parts.append(f"until {time_of(rule.until_ns)}")
    return " ".join(parts)


def meaning_in_words(rule: Rule) -> str:
    """Which packets a rule means: its match, and how long its lists are."""
    parts = [rule.match] if rule.match else []
    parts += [
        f"{side} in {len(networks):,} networks"
        for side, networks in (("src", rule.src), ("dst", rule.dst))
        if networks
    ]
    return " and ".join(parts) or "any packet"


def time_of(ns: int) -> str:
    """A wall time as `until` takes it."""
    return f"{datetime.fromtimestamp(ns // 10**9, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _label(name: str) -> str:
    return {"is_observed": "enforced", "until_ns": "until"}.get(name, name)


def _shown(rule: Rule, name: str) -> str:
    value = getattr(rule, name)
    if name == "is_observed":
        return "no" if value else "yes"
    if name == "until_ns":
        return time_of(value) if value else "no end"
    if name in ("src", "dst"):
        return f"{len(value)} networks" if value else "any address"
    text = str(value) if value not in ("", None) else "none"
    return text if len(text) <= _SHOWN_VALUE else f"{text[: _SHOWN_VALUE - 3]}..."
