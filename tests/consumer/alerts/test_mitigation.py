# SPDX-License-Identifier: Apache-2.0
"""What becomes of proposals: as much as the policy and its caps allow, and taken back when it hurts."""

import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from consumer.alerts.alert import Proposal
from consumer.alerts.config import Config
from consumer.alerts.mitigation.mitigator import Mitigator
from consumer.alerts.mitigation.options import Options
from consumer.alerts.mitigation.refusals import Refusals
from consumer.alerts.rows import Rows
from schemas.rules.signed import Order, Trusted, key_id, new_key, read_key, verified
from service.broker import BrokerUnavailable
from service.options import ConfigError, Tables
from tests.consumer.alerts.alerts import S, an_alert, from_host
from tests.consumer.alerts.scenes import ACK, RST, batch

ATTACKER, VICTIM, CLIENT = "203.0.113.9", "198.51.100.1", "192.0.2.50"
DROP = Proposal(f"src host {ATTACKER} and tcp", "drop", 600.0)


class Desk:
    """A mitigator whose orders are read as an agent reads them."""

    def __init__(self, folder: Path, **options: object) -> None:
        key_file = folder / "key.pem"
        if not key_file.exists():
            key_file.write_bytes(new_key()[0])
        self.key = read_key(key_file)
        public = self.key.public_key()
        self.trusted = Trusted({key_id(public): ("alert", public)})
        self.orders: list[Order] = []
        self.is_away = False
        defaults = {"key": str(key_file), "enforce": ("port-scan",), "observe": ("quiet",)}
        self.mitigator = Mitigator(Options(**defaults | options), self.key, folder, self._send)
        self.refusals = Refusals(self.mitigator)

    async def _send(self, values: Mapping[str, bytes]) -> None:
        if self.is_away:
            raise BrokerUnavailable("away")
        now_ns = time.time_ns()
        self.orders += [verified(value, self.trusted, now_ns=now_ns) for value in values.values()]

    async def acts(self, *alerts: object, now_ns: int = 0) -> list[str]:
        """What is said when it has heard of these."""
        now_ns = now_ns or time.time_ns()
        self.mitigator.consider(alerts, now_ns)
        return [one.summary for one in await self.mitigator.act(now_ns)]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


async def test_a_detector_that_may_enforce_has_its_rule_sent_and_withdrawn_when_it_is_over(desk):
    alert = an_alert(proposal=DROP)
    (said,) = await desk.acts(alert)
    (order,) = desk.orders
    assert order.rule is not None
    assert (order.rule.match, order.rule.is_observed) == (DROP.match, False)
    assert order.rule.reason == alert.sighting.summary
    assert 500 * S < order.until_ns - time.time_ns() <= 600 * S
    assert order.name in said
    await desk.acts(an_alert("resolved", proposal=DROP))
    assert (desk.orders[-1].name, desk.orders[-1].rule) == (order.name, None)
    assert not desk.mitigator.rules


async def test_a_detector_that_may_observe_has_a_rule_that_only_counts(desk):
    await desk.acts(an_alert(detector="quiet", proposal=DROP))
    assert desk.orders[0].rule.is_observed


async def test_of_others_people_decide(desk):
    assert await desk.acts(an_alert(detector="another", proposal=DROP)) == []
    assert await desk.acts(an_alert(proposal=None)) == []
    assert not desk.orders


async def test_a_limit_lets_pass_what_was_no_alert_yet(desk):
    proposal = Proposal(f"dst host {VICTIM} and tcp dst port 443 and flag syn", "limit", 600.0)
    await desk.acts(an_alert(proposal=proposal, threshold=500.0))
    assert str(desk.orders[0].rule.limit) == "500/s"


async def test_a_rule_is_renewed_while_the_alert_goes_on_and_not_with_every_word_of_it(desk):
    start_ns = time.time_ns()
    alert = an_alert(proposal=DROP)
    for seconds in (0, 60, 120, 400, 460):
        await desk.acts(alert, now_ns=start_ns + seconds * S)
    ends = [round((order.until_ns - start_ns) / S) for order in desk.orders]
    assert ends == [600, 1000]


@pytest.mark.parametrize(
    ("match", "options", "reason"),
    [
        ("tcp dst port 443", {}, "most_addresses"),
        (f"src net 203.0.0.0/16 and dst net {VICTIM}/16", {}, "most_addresses"),
        ("src net 2001:db8::/32", {}, "most_addresses"),
        (f"src host {ATTACKER} and nonsense", {}, "no word of filters"),
    ],
)
async def test_a_rule_that_would_refuse_too_much_is_left_to_people(desk, match, options, reason):
    (said,) = await desk.acts(an_alert(proposal=Proposal(match, "drop", 600.0)))
    assert reason in said
    assert not desk.orders
    assert await desk.acts(an_alert(proposal=Proposal(match, "drop", 600.0))) == []


async def test_no_more_rules_stand_than_may(tmp_path):
    desk = Desk(tmp_path, most_rules=3)
    alerts = [from_host(number, proposal=DROP) for number in range(5)]
    said = await desk.acts(*alerts)
    assert len(desk.orders) == 3
    assert sum("most_rules" in one for one in said) == 2


async def test_rules_wait_for_a_broker_that_is_away(desk):
    desk.is_away = True
    assert await desk.acts(an_alert(proposal=DROP)) == []
    desk.is_away = False
    desk.mitigator._due_at = 0.0
    await desk.acts()
    assert len(desk.orders) == 1


async def test_whoever_comes_after_a_crash_withdraws_what_was_sent(tmp_path):
    first = Desk(tmp_path)
    await first.acts(an_alert(proposal=DROP))
    second = Desk(tmp_path)
    await second.acts(an_alert("resolved", proposal=DROP))
    assert [order.rule for order in second.orders] == [None]


def connection(desk: Desk, *, flags: int = ACK, ago_s: int = 30) -> None:
    """A client's connection, as a node has it on both ways."""
    way_in = {"src_addr": CLIENT, "dst_addr": VICTIM, "src_port": 5000, "dst_port": 443}
    way_out = {"src_addr": VICTIM, "dst_addr": CLIENT, "src_port": 443, "dst_port": 5000}
    for direction, way in ((1, way_in), (2, way_out)):
        row = batch(
            begin_s=time.time() - ago_s, direction=direction, packets=10, tcp_flags=flags, **way
        )
        desk.refusals.take(Rows([row]), time.time_ns())


def refused(desk: Desk, rule: str, src: str = CLIENT) -> None:
    row = batch(
        "drop",
        begin_s=time.time(),
        rule=rule,
        verdict=1,
        src_addr=src,
        dst_addr=VICTIM,
        src_port=5000,
        dst_port=443,
        tcp_flags=ACK,
    )
    desk.refusals.take(Rows([row]), time.time_ns())


async def test_a_rule_that_hits_a_connection_of_before_is_taken_back_for_a_while(desk):
    connection(desk)
    alert = an_alert(proposal=DROP)
    await desk.acts(alert)
    refused(desk, desk.orders[0].name)
    (said,) = await desk.acts()
    assert f"{CLIENT}:5000 to {VICTIM}:443" in said
    assert desk.orders[-1].rule is None
    # The alert goes on, and the rule does not come again.
    await desk.acts(alert)
    assert len(desk.orders) == 2


@pytest.mark.parametrize("why", ["no connection", "a reset", "another client", "younger"])
async def test_a_rule_that_hits_nothing_good_stays(desk, why):
    if why != "no connection":
        connection(
            desk, flags=ACK | RST if why == "a reset" else ACK, ago_s=-5 if why == "younger" else 30
        )
    await desk.acts(an_alert(proposal=DROP))
    refused(desk, desk.orders[0].name, src=ATTACKER if why == "another client" else CLIENT)
    assert await desk.acts() == []
    assert len(desk.orders) == 1


async def test_a_million_connections_take_no_more_memory(desk):
    size = desk.refusals.size_bytes
    for part in range(10):
        row = batch(
            rows=100_000,
            begin_s=time.time(),
            packets=10,
            tcp_flags=ACK,
            src_addr=ATTACKER,
            dst_addr=VICTIM,
            src_port=[(part * 100_000 + n) % 65536 for n in range(100_000)],
            dst_port=[part] * 100_000,
        )
        desk.refusals.take(Rows([row]), time.time_ns())
    assert desk.refusals.size_bytes == size


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"enforce": ["syn_flood"]}, "needs key"),
        ({"enforce": ["nobody"], "key": "k"}, "'nobody'; choose among"),
        ({"enforce": ["syn_flood"], "observe": ["syn_flood"], "key": "k"}, "in observe and in"),
        ({"most_rules": 0}, "must be more than 0"),
        ({"colour": "red"}, "unknown option colour"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(options, text):
    with pytest.raises(ConfigError, match=text):
        Config(tables=Tables({"mitigation": options}))
