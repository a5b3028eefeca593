# SPDX-License-Identifier: Apache-2.0
"""A stand-in for an agent that has rules: it answers the two orders, and keeps what it is told."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from schemas.rules.allow import Allowed, conflicts
from schemas.rules.rule import Rule, RuleError
from service.messages import Message, receive, send

_COUNTS = {
    "hit_packets": 12,
    "hit_bytes": 3400,
    "over_packets": 7,
    "over_bytes": 700,
    "since_ns": 10**18,
}


@dataclass
class StandIn:
    """Its rules by name with where they came from, and the orders that it was given."""

    allowed: Allowed
    rules: dict[str, tuple[Rule, str]] = field(default_factory=dict)
    revision: int = 1
    orders: list[Message] = field(default_factory=list)

    def answer(self, order: Message) -> Message:
        self.orders.append(order)
        if order["do"] == "rules":
            return self._told()
        try:
            return self._changed(order)
        except RuleError as error:
            return {"error": str(error), "code": 2}

    def _told(self) -> Message:
        rules = [
            {
                **rule.to_message(),
                **_COUNTS,
                "state": "observed" if rule.is_observed else "enforced",
                "from": origin,
            }
            for rule, origin in self.rules.values()
        ]
        return {
            "ok": True,
            "rules": rules,
            "allowed": list(self.allowed.reasons),
            "allow_list": self.allowed.to_message(),
            "revision": self.revision,
        }

    def _changed(self, order: dict[str, Any]) -> Message:
        if order.get("revision", self.revision) != self.revision:
            raise RuleError("the rules have changed meanwhile; try again")
        put = [Rule.from_message(message) for message in order["put"]]
        for rule in put:
            if (aimed := conflicts(rule, self.allowed)) and not order["despite_allowed"]:
                raise RuleError(f"rule {rule.name} means what is allowed: {', '.join(aimed)}")
        for name in order["remove"]:
            del self.rules[name]
        self.rules |= {rule.name: (rule, order["from"]) for rule in put}
        self.revision += 1
        return {"ok": True, "revision": self.revision}


@contextmanager
def standing_in(path: Path, agent: StandIn) -> Iterator[None]:
    """Let *agent* listen at *path*."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=_serve, args=(listener, agent))
        thread.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def _serve(listener: socket.socket, agent: StandIn) -> None:
    while True:
        try:
            peer, _ = listener.accept()
        except OSError:
            return
        with peer:
            if (heard := receive(peer)) is not None:
                send(peer, agent.answer(heard[0]))
