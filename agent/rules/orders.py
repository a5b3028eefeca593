# SPDX-License-Identifier: Apache-2.0
"""Orders about rules, as they come to the agent's control socket."""

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from agent.rules.keeper import Change, Keeper, RefusedChange
from agent.rules.record import COUNTERS, Kept
from schemas.rules.rule import Rule
from service.messages import Message

_KINDS: Mapping[str, type] = {
    "put": list,
    "remove": list,
    "replace": bool,
    "despite_allowed": bool,
    "from": str,
}

_BY_HAND = ("local", "file")


class RuleOrders:
    """Answers what `hookline drop` asks of an agent."""

    def __init__(self, keeper: Keeper, rejected: Mapping[str, int]) -> None:
        """*rejected* counts rules of the network that are not obeyed, by reason."""
        self._keeper = keeper
        self._rejected = rejected

    async def listed(self) -> Message:
        """Every rule, what it has counted, and what no rule cuts off."""
        allowed = await self._keeper.look_at_allowed()
        return {
            "rules": await asyncio.to_thread(self._described),
            "allowed": list(allowed.reasons),
            "allow_list": allowed.to_message(),
            "revision": self._keeper.revision,
            "rejected": dict(self._rejected),
        }

    def _described(self) -> list[Message]:
        rules, now_ns = self._keeper.rules, time.time_ns()
        counts = self._keeper.counted(rules)
        return [
            one.rule.to_message()
            | {"state": _state(one, now_ns), "from": one.origin, "since_ns": one.since_ns}
            | dict(zip(COUNTERS, counts(one), strict=True))
            for one in rules
        ]

    async def change(self, order: Mapping[str, Any]) -> Message:
        """Carry out an order; raises what `Keeper.change` does."""
        return {"revision": await self._keeper.change(await asyncio.to_thread(_change_in, order))}


def _state(kept: Kept, now_ns: int) -> str:
    if kept.rule.is_over(now_ns):
        return "expired"
    return "observed" if kept.rule.is_observed else "enforced"


def _change_in(order: Mapping[str, Any]) -> Change:
    for name, kind in _KINDS.items():
        if name in order and not isinstance(order[name], kind):
            raise RefusedChange(f"the order's {name} is {order[name]!r}; send a {kind.__name__}")
    if order.get("from", "local") not in _BY_HAND:
        raise RefusedChange(f"the order's from is {order['from']!r}; send one of {_BY_HAND}")
    revision = order.get("revision")
    if revision is not None and type(revision) is not int:
        raise RefusedChange(f"the order's revision is {revision!r}; send a number")
    return Change(
        put=[Rule.from_message(message) for message in order.get("put", ())],
        remove=[str(name) for name in order.get("remove", ())],
        origin=order.get("from", "local"),
        replaces=order.get("replace", False),
        despite_allowed=order.get("despite_allowed", False),
        revision=revision,
    )
