# SPDX-License-Identifier: Apache-2.0
"""Ask a running agent for its rules, and have it change them.

docs/reference/control-socket.md describes the orders.  A change names the revision that it was made
from, so that what somebody else changed meanwhile is not undone in silence.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from hookline.remote import RemoteError, ordered
from schemas.rules.allow import Allowed
from schemas.rules.rule import FIELDS, Rule

LOCAL, FILE, NETWORK = "local", "file", "network"
# Packets and bytes that a rule was asked about, and those of them that it refused; one that is
# observed, those that it would have.
COUNTS = ("hit_packets", "hit_bytes", "over_packets", "over_bytes")


@dataclass(frozen=True, slots=True)
class Standing:
    """A rule that an agent has, and what it has come to."""

    rule: Rule
    state: str  # observed, enforced or expired
    origin: str  # local, file or network
    since_ns: int  # wall time from which it counts
    hit_packets: int
    hit_bytes: int
    over_packets: int
    over_bytes: int

    def to_record(self) -> dict[str, Any]:
        """The rule as `--format json` prints it."""
        counts = {name: getattr(self, name) for name in COUNTS}
        message = self.rule.to_message(is_packed=False)
        stands = {"state": self.state, "from": self.origin, "since_ns": self.since_ns}
        return {**message, **stands, **counts}


@dataclass(frozen=True, slots=True)
class Installed:
    """The rules of an agent, and what it lets pass whatever they say."""

    rules: tuple[Standing, ...]
    reasons: tuple[str, ...]
    revision: int
    allowed: Allowed | None  # where the agent tells it in full

    def named(self, name: str) -> Standing:
        """The rule of that name.

        Raises:
            RemoteError: there is none.
        """
        for standing in self.rules:
            if standing.rule.name == name:
                return standing
        there = ", ".join(sorted(one.rule.name for one in self.rules)) or "none"
        raise RemoteError(f"the agent has no rule {name!r}; there are: {there}", 2)

    def has(self, name: str) -> bool:
        return any(standing.rule.name == name for standing in self.rules)


def installed(agent: str | None) -> Installed:
    """The rules of the agent of that name, or of the one that runs.

    Raises:
        RemoteError: it is not there, or tells something else.
    """
    with ordered(agent, {"do": "rules"}) as order:
        answer = order.answer
    try:
        data = answer.get("allow_list")
        return Installed(
            rules=tuple(_standing(entry) for entry in answer["rules"]),
            reasons=tuple(str(reason) for reason in answer["allowed"]),
            revision=int(answer["revision"]),
            allowed=Allowed.from_message(data) if data is not None else None,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise RemoteError(f"what the agent tells are no rules: {error}") from None


def _standing(entry: Mapping[str, Any]) -> Standing:
    # An agent may tell more of a rule than we know.
    rule = Rule.from_message({key: value for key, value in entry.items() if key in FIELDS})
    counts = {name: int(entry[name]) for name in COUNTS}
    since_ns = int(entry.get("since_ns", 0))
    return Standing(rule, str(entry["state"]), str(entry["from"]), since_ns, **counts)


def change(
    agent: str | None,
    *,
    put: Iterable[Rule] = (),
    remove: Iterable[str] = (),
    is_whole: bool = False,
    despite_allowed: bool = False,
    origin: str = LOCAL,
    revision: int | None = None,
) -> int:
    """Change the rules, all of it or nothing; the new revision.

    With *is_whole*, rules of the same origin that are not put are removed.

    Raises:
        RemoteError: the agent is not there, or refuses.
    """
    order: dict[str, Any] = {
        "do": "rules-change",
        "put": [rule.to_message() for rule in put],
        "remove": list(remove),
        "replace": is_whole,
        "despite_allowed": despite_allowed,
        "from": origin,
    }
    if revision is not None:
        order["revision"] = revision
    with ordered(agent, order) as done:
        return int(done.answer.get("revision", 0))
