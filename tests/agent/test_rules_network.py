# SPDX-License-Identifier: Apache-2.0
"""Rules that come over Kafka: agents obey what keys that they trust have signed, and nothing else."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import msgpack
import numpy as np
import pytest

from consumer.rule_orders import RuleOrders
from schemas.refusal import STATES
from schemas.rules.rule import Rule
from schemas.rules.signed import new_key, public_text, put, read_key, sign, withdraw
from service.broker import Broker
from tests.agent.test_rules import PORT, ask, listening, received, sends
from tests.lab.agents import Agent, agent
from tests.lab.links import Link, link
from tests.lab.published import read_published
from tests.lab.waiting import wait_until

pytestmark = pytest.mark.kernel


class Signer:
    """Somebody with a key, and Kafka."""

    def __init__(self, folder, kafka: str, name: str) -> None:
        pem, public = new_key()
        path = folder / f"{name}.pem"
        path.write_bytes(pem)
        self.key = read_key(path)
        self.line = f"{name} {public_text(public)}\n"
        self._broker = Broker(kafka, "plaintext", "", "", "", "PLAIN", "", "", "test")

    def send(self, values: dict[str, bytes]) -> None:
        async def sending() -> None:
            async with RuleOrders(self._broker) as orders:
                await orders.send(values)

        asyncio.run(sending())

    def put(self, *rules: Rule, nodes: Sequence[str] = ()) -> dict[str, bytes]:
        """Put rules on the node that they are called after: tests share the topic."""
        own = [rules[0].name.rpartition("-")[0]]
        values = {one.name: put(one, self.key, nodes=nodes or own) for one in rules}
        self.send(values)
        return values


@pytest.fixture(scope="module")
def signer(tmp_path_factory, kafka) -> Signer:
    return Signer(tmp_path_factory.mktemp("alice"), kafka, "alice")


@pytest.fixture(scope="module")
def line(lab: None) -> Iterator[Link]:
    """A link that tests share which leave nothing on it."""
    with link() as made:
        yield made


@pytest.fixture(scope="module")
def trusted(tmp_path_factory, signer) -> str:
    path = tmp_path_factory.mktemp("keys") / "trusted"
    path.write_text(f"# who may\n{signer.line}")
    return str(path)


@pytest.fixture(scope="module")
def shared(line, kafka, trusted) -> Iterator[Agent]:
    with agent("--interface", line.near.name, "--trusted-keys", trusted, kafka=kafka) as started:
        yield started
        started.stop()


@pytest.fixture
def obedient(shared, signer) -> Iterator[Agent]:
    """An agent that trusts the signer and has no rules."""
    yield shared
    if left := names(shared):
        end_ns = time.time_ns() + 60_000_000_000
        signer.send({name: withdraw(name, signer.key, until_ns=end_ns) for name in left})
        wait_until(lambda: not names(shared), "rules to go")


@pytest.fixture
def own(wire, kafka, trusted) -> Iterator[Agent]:
    """One that a test may end."""
    with agent("--interface", wire.near.name, "--trusted-keys", trusted, kafka=kafka) as started:
        yield started


_names = iter(range(1000))


def a_rule(started: Agent, match: str = f"udp and dst port {PORT}", **others: object) -> Rule:
    """One of a name that no other test uses, since they share a topic."""
    end = {"until_ns": time.time_ns() + 60_000_000_000}
    about = {"owner": "alice", "reason": "test", "is_observed": False}
    return Rule(name=f"{started.name}-{next(_names)}", match=match, **about | end | others)


def names(started: Agent) -> list[str]:
    return [one["name"] for one in ask(started, do="rules")["rules"]]


def rejected(started: Agent, reason: str) -> int:
    return ask(started, do="rules")["rejected"].get(reason, 0)


def test_a_signed_rule_is_in_force_soon_and_withdrawn_as_soon(line, obedient, signer):
    rule = a_rule(obedient)
    signer.put(rule)
    wait_until(lambda: rule.name in names(obedient), "the rule to come")
    (told,) = ask(obedient, do="rules")["rules"]
    assert (told["from"], told["state"]) == ("network", "enforced")
    with listening(line) as server:
        sends(line, 5)
        assert received(server) == 0
        signer.send({rule.name: withdraw(rule.name, signer.key, until_ns=rule.until_ns)})
        wait_until(lambda: not names(obedient), "the rule to go")
        sends(line, 5)
        assert received(server) == 5


def test_a_rule_for_other_nodes_is_none_of_ours(obedient, signer):
    for_others, for_all = a_rule(obedient), a_rule(obedient)
    signer.put(for_others, nodes=["nobody*"])
    signer.put(for_all, nodes=["nobody*", f"{obedient.name[:-1]}*"])
    wait_until(lambda: for_all.name in names(obedient), "the rule to come")
    assert for_others.name not in names(obedient)


def test_what_is_not_signed_by_a_trusted_key_is_rejected_and_told(kafka, own, signer, tmp_path):
    # Once a rule of ours is here, whatever others have sent before is judged.
    ours = a_rule(own)
    signer.put(ours)
    wait_until(lambda: ours.name in names(own), "our rule to come")
    before = ask(own, do="rules")["rejected"]
    stranger = Signer(tmp_path, kafka, "mallory")
    forged = a_rule(own)
    value = msgpack.unpackb(put(forged, signer.key, nodes=[own.name]))
    body = msgpack.unpackb(value["body"])
    body["rule"]["match"] = "ip or ip6"
    changed = msgpack.packb({**value, "body": msgpack.packb(body)})
    mine = msgpack.unpackb(put(forged, stranger.key, nodes=[own.name]))
    signer.send(
        {
            f"{forged.name}-forged": changed,
            f"{forged.name}-junk": b"\xc1junk",
            f"{forged.name}-untrusted": msgpack.packb(mine),
            f"{forged.name}-as-hers": msgpack.packb({**mine, "key": value["key"]}),
            f"{forged.name}-unsigned": msgpack.packb(
                {key: one for key, one in value.items() if key != "signature"}
            ),
            # Her own, under another rule's name.
            f"{forged.name}-other": put(forged, signer.key, nodes=[own.name]),
            f"{forged.name}-early": put(
                forged, signer.key, nodes=[own.name], now_ns=time.time_ns() + 10**12
            ),
        }
    )
    expected = {"forged": 2, "untrusted": 1, "unsigned": 1, "malformed": 2, "early": 1}
    for reason, count in expected.items():
        all_ = before.get(reason, 0) + count
        wait_until(lambda: rejected(own, reason) == all_, f"{count} to be {reason}")  # noqa: B023
    assert names(own) == [ours.name]
    own.stop()
    published = read_published(kafka, own.name)
    is_rejected = published.column("rule", "state") == STATES["rejected"]
    is_forged = np.char.startswith(published.column("rule", "rule").astype(str), f"{forged.name}-")
    whys = published.column("rule", "why")[is_rejected & is_forged].tolist()
    assert any(why.startswith("forged: ") for why in whys)
    assert len(whys) == sum(expected.values())


def test_a_withdrawn_rule_does_not_come_back_when_it_is_sent_again(obedient, signer):
    rule, last = a_rule(obedient), a_rule(obedient)
    first = signer.put(rule)
    wait_until(lambda: rule.name in names(obedient), "the rule to come")
    signer.send({rule.name: withdraw(rule.name, signer.key, until_ns=rule.until_ns)})
    wait_until(lambda: rule.name not in names(obedient), "the rule to go")
    signer.send(first)
    signer.put(last)
    wait_until(lambda: last.name in names(obedient), "the last one to come")
    assert rule.name not in names(obedient)
    assert rejected(obedient, "replayed") == 1


def test_neither_a_restart_nor_the_topics_past_brings_a_withdrawn_rule_back(
    wire, kafka, trusted, own, signer
):
    rule, kept = a_rule(own), a_rule(own)
    signer.put(rule, kept)
    wait_until(lambda: rule.name in names(own), "the rule to come")
    signer.send({rule.name: withdraw(rule.name, signer.key, until_ns=rule.until_ns)})
    wait_until(lambda: rule.name not in names(own), "the rule to go")
    own.stop()
    flags = ("--interface", wire.near.name, "--trusted-keys", trusted)
    with agent(*flags, kafka=kafka, name=own.name) as second:
        last = a_rule(second)
        signer.put(last)
        wait_until(lambda: last.name in names(second), "the last one to come")
        assert {kept.name, last.name} <= set(names(second))
        assert rule.name not in names(second)
        second.stop()


def test_a_rule_without_an_end_or_that_cuts_off_the_broker_is_refused(obedient, signer, kafka):
    cutting = a_rule(obedient, "tcp and host 127.0.0.1")
    body = msgpack.unpackb(msgpack.unpackb(put(a_rule(obedient), signer.key))["body"])
    body["rule"].pop("until_ns")
    body["until_ns"] = 0
    signer.send(
        {
            cutting.name: put(cutting, signer.key, nodes=[obedient.name]),
            body["name"]: sign(body, signer.key),
        }
    )
    wait_until(lambda: rejected(obedient, "refused") == 1, "one to be refused")
    assert not names(obedient)


def test_one_rule_that_does_not_fit_keeps_no_other_from_coming_or_going(obedient, signer):
    going = a_rule(obedient)
    signer.put(going)
    wait_until(lambda: going.name in names(obedient), "the rule to come")
    before = rejected(obedient, "refused")
    # All boxes are taken by these, but for those of the allow list: the last ones find no room.
    many = [a_rule(obedient, f"udp dst port {port}") for port in range(1, 140)]
    values = {one.name: put(one, signer.key, nodes=[obedient.name]) for one in many}
    values[going.name] = withdraw(going.name, signer.key, until_ns=going.until_ns)
    signer.send(values)
    wait_until(
        lambda: len(names(obedient)) + rejected(obedient, "refused") - before == len(many),
        "each to be there or refused",
    )
    assert len(names(obedient)) > 100
    assert going.name not in names(obedient)


def test_ten_thousand_signed_rules_are_obeyed_together(wire, own, signer):
    first = a_rule(own)
    rules = [
        replace(first, name=f"{first.name}{n}", match=f"src host 203.1.{n >> 8}.{n & 255}")
        for n in range(10_000)
    ]
    signer.put(*rules, replace(first, match=f"src host {wire.far.ipv4}"))
    own.until_it_says("rules=10001")
    assert len(names(own)) == 10_001
    with listening(wire) as server:
        sends(wire, 5)
        assert received(server) == 0
