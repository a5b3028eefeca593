# SPDX-License-Identifier: Apache-2.0
"""From what rules have counted and refused to the columns of records."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.clock import Anchor
from agent.columns import Columns, identity, typed
from agent.points import HookPoints
from agent.rows import Rows
from agent.rules.record import COUNTERS, NOTHING, Counts, Kept, Left, Rejected
from schemas.packet import REFUSALS
from schemas.refusal import DROP, RULE, RULE_ACTIONS, STATES, VERDICTS
from schemas.wire import MAX_NAME_BYTES, Names

_NO_RULE = "unknown"
_COPIED = ("hop_limit", "packets", "bytes", "header_bytes", "header")


@dataclass(frozen=True, slots=True)
class _Row:
    """One row of a rule; its members are columns."""

    rule: str
    since: int
    state: str
    enforced: bool
    action: str
    counts: Counts
    until: int
    priority: int
    origin: str
    owner: str
    why: str
    meaning: str


class RuleRows:
    """Tells of rules of which something has changed since it told of them last."""

    def __init__(self) -> None:
        self._told: dict[tuple[str, int], Counts] = {}

    def columns(
        self,
        rules: Iterable[Kept],
        counts: Callable[[Kept], Counts],
        left: Iterable[Left],
        rejected: Iterable[Rejected],
        now_ns: int,
    ) -> Columns | None:
        """The columns of `rule` records; None where there is nothing to tell."""
        rows = [_rejected_row(one) for one in rejected]
        for one in left:
            self._told.pop(_key(one.kept), None)
            rows.append(_row(one.kept, one.state, one.counts))
        for kept in rules:
            now = counts(kept)
            if self._told.get(_key(kept)) != now:
                self._told[_key(kept)] = now
                rows.append(_row(kept, "observed" if kept.rule.is_observed else "enforced", now))
        return _rule_columns(rows, now_ns) if rows else None


def _key(kept: Kept) -> tuple[str, int]:
    return kept.rule.name, kept.since_ns


def _row(kept: Kept, state: str, counts: Counts) -> _Row:
    rule = kept.rule
    return _Row(
        rule=rule.name,
        since=kept.since_ns,
        state=state,
        enforced=not rule.is_observed,
        action=rule.action,
        counts=counts,
        until=rule.until_ns,
        priority=rule.priority,
        origin=kept.origin,
        owner=rule.owner,
        why=rule.reason,
        meaning=rule.match,
    )


def _rejected_row(one: Rejected) -> _Row:
    return _Row(
        *(one.name, 0, "rejected", False, "pass", NOTHING, 0, 0, "network"),
        *("", f"{one.reason}: {one.text}", ""),
    )


def _rule_columns(rows: Sequence[_Row], now_ns: int) -> Columns:
    def texts(name: str) -> Names:
        return names_of([getattr(row, name) for row in rows])

    def numbers(name: str, kind: type, named: Mapping[str, int] | None = None) -> NDArray[Any]:
        values = [getattr(row, name) for row in rows]
        return np.array([named[value] for value in values] if named else values, kind)

    counted = np.array([row.counts for row in rows], np.uint64).T
    return typed(
        RULE,
        {
            "time": np.full(len(rows), now_ns, np.int64),
            "since": numbers("since", np.int64),
            "state": numbers("state", np.uint8, STATES),
            "enforced": numbers("enforced", np.uint8),
            "action": numbers("action", np.uint8, RULE_ACTIONS),
            "until": numbers("until", np.int64),
            "priority": numbers("priority", np.uint16),
            **{name: texts(name) for name in ("rule", "origin", "owner", "why", "meaning")},
            **dict(zip(COUNTERS, counted, strict=True)),
        },
    )


def drop_columns(
    name_of: Callable[[int], str],
    contexts: Rows,
    events: Rows,
    points: HookPoints,
    anchor: Anchor,
) -> Columns:
    """The columns of `drop` records; *name_of* tells the rule that is counted in a slot."""
    slots, where = np.unique(events["rule_slot"], return_inverse=True)
    names = names_of([name_of(slot) or _NO_RULE for slot in slots.tolist()])
    is_refused = events["reason"] == REFUSALS["refused"]
    return typed(
        DROP,
        {
            "time": anchor.wall_from_monotonic(events["seen_ns"]),
            "rule": Names(names.codes[where.reshape(-1)], names.categories),
            "verdict": np.where(is_refused, VERDICTS["refused"], VERDICTS["observed"]),
            **identity(events, points, contexts),
            **{name: events[name] for name in _COPIED},
        },
    )


def is_refusal(events: Rows) -> NDArray[np.bool_]:
    """Which events of packets are about rules."""
    return np.isin(events["reason"], list(REFUSALS.values()))


def names_of(texts: Sequence[str]) -> Names:
    """A column of these; what is longer than a name may be is cut."""
    cut = [text.encode()[:MAX_NAME_BYTES].decode(errors="ignore") for text in texts]
    categories = tuple(dict.fromkeys(cut))
    numbers = {text: number for number, text in enumerate(categories)}
    return Names(np.array([numbers[text] for text in cut], "<u2"), categories)
