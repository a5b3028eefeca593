# SPDX-License-Identifier: Apache-2.0
"""From what rules have counted and refused to the columns of records."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.clock import Anchor
from agent.columns import Columns, identity, typed
from agent.points import HookPoints
from agent.rows import Rows
from agent.rules.record import COUNTERS, Counts, Kept, Left
from schemas.packet import REFUSALS
from schemas.refusal import DROP, RULE, RULE_ACTIONS, STATES, VERDICTS
from schemas.wire import MAX_NAME_BYTES, Names

_NO_RULE = "unknown"
_COPIED = ("hop_limit", "packets", "bytes", "header_bytes", "header")


class RuleRows:
    """Tells of rules of which something has changed since it told of them last."""

    def __init__(self) -> None:
        self._told: dict[tuple[str, int], Counts] = {}

    def columns(
        self,
        rules: Iterable[Kept],
        counts: Callable[[Kept], Counts],
        left: Sequence[Left],
        now_ns: int,
    ) -> Columns | None:
        """The columns of `rule` records; None where there is nothing to tell."""
        told = [(one.kept, one.state, one.counts) for one in left]
        for one in left:
            self._told.pop(_key(one.kept), None)
        for kept in rules:
            now = counts(kept)
            if self._told.get(_key(kept)) != now:
                self._told[_key(kept)] = now
                told.append((kept, "observed" if kept.rule.is_observed else "enforced", now))
        return _rule_columns(told, now_ns) if told else None


def _key(kept: Kept) -> tuple[str, int]:
    return kept.rule.name, kept.since_ns


def _rule_columns(told: Sequence[tuple[Kept, str, Counts]], now_ns: int) -> Columns:
    kept = [one for one, _, _ in told]
    rules = [one.rule for one in kept]
    columns: dict[str, Any] = {
        "time": np.full(len(told), now_ns, np.int64),
        "rule": names_of([rule.name for rule in rules]),
        "since": np.array([one.since_ns for one in kept], np.int64),
        "state": np.array([STATES[state] for _, state, _ in told], np.uint8),
        "enforced": np.array([not rule.is_observed for rule in rules], np.uint8),
        "action": np.array([RULE_ACTIONS[rule.action] for rule in rules], np.uint8),
        "until": np.array([rule.until_ns for rule in rules], np.int64),
        "priority": np.array([rule.priority for rule in rules], np.uint16),
        "origin": names_of([one.origin for one in kept]),
        "owner": names_of([rule.owner for rule in rules]),
        "why": names_of([rule.reason for rule in rules]),
        "meaning": names_of([rule.match for rule in rules]),
    }
    counted = np.array([counts for _, _, counts in told], np.uint64).T
    return typed(RULE, columns | dict(zip(COUNTERS, counted, strict=True)))


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
