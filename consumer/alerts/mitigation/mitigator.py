# SPDX-License-Identifier: Apache-2.0
"""Stands for what has been done about alerts: rules that are sent, renewed, withdrawn, taken back.

    alert -> proposal -> policy and caps -> signed rule -> agents
                                 rows of `drops` -> a good connection was hit -> taken back

What should stand is written down before it is sent, so that whoever comes after a crash knows what
to withdraw.  Sending is tried again until Kafka has it; agents take each order once.
"""

import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import msgpack
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consumer.alerts.alert import Alert, Proposal, Sighting
from consumer.alerts.evidence import literal, query
from consumer.alerts.mitigation.options import ENFORCE, NAME, PROPOSE, Options
from consumer.alerts.rows import NS_PER_S
from schemas.rules.boxes import Box, boxes_of
from schemas.rules.limit import Limit
from schemas.rules.rule import MAX_TEXT_CHARS, Rule, RuleError
from schemas.rules.signed import put, withdraw
from service.broker import BrokerUnavailable

log = logging.getLogger(__name__)

FILE = "mitigation.msgpack"
OWNER = "hookline-alert"
PREFIX = "alert-"
_VERSION = 1
_AGAIN_S = 1.0
# One that hit good connections does not come again for so long.
_TAKEN_BACK_S = 3600.0
_IPV6_NETWORK_BITS = 64

Send = Callable[[Mapping[str, bytes]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Standing:
    """A rule that we have made, or that is to go."""

    name: str
    detector: str
    match: str
    action: str
    limit: str
    is_enforced: bool
    reason: str
    made_ns: int
    until_ns: int
    is_sent: bool = False
    is_wanted: bool = True
    taken_back_ns: int = 0  # 0: it has hit no good connection

    def to_rule(self) -> Rule:
        return Rule(
            name=self.name,
            match=self.match,
            action=self.action,
            limit=Limit.parse(self.limit) if self.limit else None,
            is_observed=not self.is_enforced,
            until_ns=self.until_ns,
            owner=OWNER,
            reason=self.reason,
        )


class Mitigator:
    """All rules of one alerting service."""

    def __init__(self, options: Options, key: Ed25519PrivateKey, folder: Path, send: Send) -> None:
        self._options = options
        self._key = key
        self._file = folder / FILE
        self._send = send
        self._rules = _read(self._file)
        self._said: list[Sighting] = []
        self._due_at = 0.0
        self._refused: set[str] = set()

    @property
    def rules(self) -> Sequence[Standing]:
        """Those that stand."""
        return [one for one in self._rules.values() if one.is_wanted]

    def made_ns(self, name: str) -> int:
        """When a rule was made; 0 where it is none that stands."""
        one = self._rules.get(name)
        return one.made_ns if one and one.is_wanted else 0

    def consider(self, alerts: Iterable[Alert], now_ns: int) -> None:
        """Do about *alerts* what the policy says."""
        for alert in alerts:
            sighting = alert.sighting
            name = PREFIX + sighting.fingerprint
            if alert.status == "resolved":
                self._let_go(name)
            elif sighting.proposal and self._options.policy_of(sighting.detector) != PROPOSE:
                self._stand(name, sighting, sighting.proposal, now_ns)

    def hit(self, name: str, connections: Sequence[str], now_ns: int) -> None:
        """A rule has hit good connections: take it back where these are too many."""
        one = self._rules.get(name)
        if not one or not one.is_wanted or len(connections) < self._options.most_connections:
            return
        self._rules[name] = replace(one, is_wanted=False, is_sent=False, taken_back_ns=now_ns)
        self._due_at = 0.0
        verb = "hit" if one.is_enforced else "would have hit"
        self._say(
            one,
            now_ns,
            "warning",
            f"rule {name} is taken back: it {verb} connections that were there before, such as"
            f" {connections[0]}",
            event="taken back",
        )

    async def act(self, now_ns: int) -> list[Sighting]:
        """Send what is to be sent; what people should hear of."""
        self._forget(now_ns)
        waiting = [one for one in self._rules.values() if not one.is_sent]
        if waiting and time.monotonic() >= self._due_at:
            self._due_at = time.monotonic() + _AGAIN_S
            await self._send_all(waiting, now_ns)
        said, self._said = self._said, []
        return said

    def _stand(self, name: str, sighting: Sighting, proposal: Proposal, now_ns: int) -> None:
        former = self._rules.get(name)
        if former and former.taken_back_ns:
            return
        seconds = min(proposal.seconds, self._options.most_seconds)
        is_young = former and former.is_wanted and former.until_ns - now_ns > seconds * NS_PER_S / 2
        if is_young and former and former.match == proposal.match:
            return
        one = Standing(
            name=name,
            detector=sighting.detector,
            match=proposal.match,
            action=proposal.action,
            limit=f"{max(round(sighting.threshold), 1)}/s" if proposal.action == "limit" else "",
            is_enforced=self._options.policy_of(sighting.detector) == ENFORCE,
            reason=sighting.summary[:MAX_TEXT_CHARS],
            made_ns=former.made_ns if former and former.is_wanted else now_ns,
            until_ns=now_ns + int(seconds * NS_PER_S),
        )
        if reason := self._too_much(one):
            self._refuse(one, reason, now_ns)
            return
        self._rules[name] = one
        self._due_at = 0.0

    def _too_much(self, one: Standing) -> str:
        """Why a rule may not be made; nothing where it may."""
        standing = [name for name, its in self._rules.items() if its.is_wanted]
        if one.name not in standing and len(standing) >= self._options.most_rules:
            return f"{len(standing)} rules stand already (most_rules)"
        try:
            boxes = boxes_of(one.to_rule())
        except RuleError as error:
            return str(error)
        count = max(map(_addresses, boxes), default=0)
        if count > self._options.most_addresses:
            return f"it is about {count} addresses (most_addresses)"
        return ""

    def _refuse(self, one: Standing, reason: str, now_ns: int) -> None:
        if one.name in self._refused:
            return
        self._refused.add(one.name)
        text = f"rule {one.name} was not made, and people must decide: {reason}"
        self._say(one, now_ns, "warning", text, event="refused")

    def _let_go(self, name: str) -> None:
        self._refused.discard(name)
        one = self._rules.get(name)
        if one and one.is_wanted:
            self._rules[name] = replace(one, is_wanted=False, is_sent=False)
            self._due_at = 0.0

    def _forget(self, now_ns: int) -> None:
        for name, one in list(self._rules.items()):
            is_resting = now_ns - one.taken_back_ns < _TAKEN_BACK_S * NS_PER_S
            is_over = one.until_ns <= now_ns or (not one.is_wanted and one.is_sent)
            if is_over and not (one.taken_back_ns and is_resting):
                del self._rules[name]

    async def _send_all(self, waiting: Sequence[Standing], now_ns: int) -> None:
        _write(self._file, self._rules.values())
        try:
            await self._send({one.name: self._order(one) for one in waiting})
        except BrokerUnavailable as error:
            log.warning("rules cannot be sent yet", extra={"reason": str(error)})
            return
        for one in waiting:
            # It may have changed while it was sent.
            if self._rules.get(one.name) == one:
                self._rules[one.name] = replace(one, is_sent=True)
            if one.is_wanted:
                verb = "refuses" if one.is_enforced else "counts"
                text = f"rule {one.name} {verb} {one.match}: {one.reason}"
                self._say(one, now_ns, "info", text, event="sent")
            log.info("rule sent", extra={"rule": one.name, "is_wanted": one.is_wanted})
        _write(self._file, self._rules.values())

    def _order(self, one: Standing) -> bytes:
        if one.is_wanted:
            return put(one.to_rule(), self._key, nodes=self._options.nodes)
        until_ns = max(one.until_ns, time.time_ns() + int(self._options.most_seconds * NS_PER_S))
        return withdraw(one.name, self._key, until_ns=until_ns)

    def _say(self, one: Standing, now_ns: int, severity: str, summary: str, *, event: str) -> None:
        self._said.append(
            Sighting(
                detector=NAME,
                labels={"rule": one.name, "event": event, "of": one.detector},
                severity=severity,
                summary=summary,
                evidence=query(
                    "time, node, rule, state, hit_packets, over_packets, why",
                    "rules",
                    f"rule = {literal(one.name)}",
                ),
                value=1.0,
                threshold=1.0,
                seen_ns=now_ns,
                began_ns=one.made_ns,
            )
        )


def _addresses(box: Box) -> float:
    """How many addresses a box is about on its narrower side; of IPv6, networks of 64 bits."""
    return min(_size(box.src), _size(box.dst))


def _size(prefixes: tuple[tuple[int, int], ...] | None) -> float:
    if prefixes is None:
        return float("inf")
    return float(sum(_size_of(first, length) for first, length in prefixes))


def _size_of(first: int, length: int) -> int:
    if first >> 32 == 0xFFFF and length >= 96:
        return 1 << 128 - length
    return 1 << max(_IPV6_NETWORK_BITS - length, 0)


def _write(file: Path, rules: Iterable[Standing]) -> None:
    beside = file.with_suffix(".new")
    beside.write_bytes(msgpack.packb({"v": _VERSION, "rules": [asdict(one) for one in rules]}))
    beside.replace(file)


def _read(file: Path) -> dict[str, Standing]:
    try:
        content: Any = msgpack.unpackb(file.read_bytes())
        rules = [Standing(**one) for one in content["rules"] if content["v"] == _VERSION]
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, KeyError) as error:
        log.warning(
            "rules that were sent before are not known any more; they end by themselves",
            extra={"file": str(file), "reason": str(error)},
        )
        return {}
    # Whether the last ones came out is not known; agents take an order once.
    return {one.name: replace(one, is_sent=False) for one in rules}
