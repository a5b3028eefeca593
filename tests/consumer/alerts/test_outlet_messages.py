# SPDX-License-Identifier: Apache-2.0
"""Each destination is told of alerts in its own form, together, and only what is news to it."""

import asyncio
import re
from datetime import datetime

import pytest

from tests.consumer.alerts.alerts import S, an_alert, from_host
from tests.consumer.alerts.mortal_outlets import CHANGED_NS
from tests.consumer.alerts.receiver import Receiver
from tests.consumer.alerts.running import a_webhook, running


async def test_a_webhook_is_told_everything_that_is_known_of_an_alert(tmp_path):
    async with Receiver() as receiver, running(tmp_path, a_webhook(receiver)) as it:
        await it.deliver([an_alert(changed_ns=CHANGED_NS)])
        [got] = await receiver.until(1)

    [told] = got.body["alerts"]
    assert got.path == "/hook"
    assert got.headers["Content-Type"] == "application/json"
    assert got.body["version"] == 1
    assert got.body["group"] == {"detector": "port-scan"}
    assert got.key == got.body["key"] == told["key"] == f"{told['fingerprint']}-{CHANGED_NS}"
    assert told["status"] == "firing"
    assert told["labels"] == {"node": "web-1", "src_addr": "192.0.2.7"}
    assert told["changed_at"] == "2023-11-14T22:13:20.000Z"
    assert told["resolved_at"] is None
    assert told["proposal"] == {"match": "src 192.0.2.7", "action": "drop", "seconds": 600.0}


async def test_alertmanager_gets_what_its_specification_asks_for(tmp_path):
    entry = {"name": "pager", "type": "alertmanager", "link": "https://wiki/{detector}"}
    async with Receiver() as receiver, running(tmp_path, {**entry, "url": receiver.url}) as it:
        alert = an_alert(labels={"node": "web-1", "dst-port": "443", "empty": ""})
        await it.deliver([alert])
        [got] = await receiver.until(1)

    [posted] = got.body
    assert got.path == "/api/v2/alerts"
    assert set(posted) == {"labels", "annotations", "startsAt", "endsAt", "generatorURL"}
    assert posted["labels"] == {
        "alertname": "port-scan",
        "severity": "warning",
        "node": "web-1",
        "dst_port": "443",
    }
    assert {type(value) for value in posted["annotations"].values()} == {str}
    assert posted["annotations"]["evidence"] == alert.sighting.evidence
    assert posted["generatorURL"] == "https://wiki/port-scan"
    starts, ends = (datetime.fromisoformat(posted[name]) for name in ("startsAt", "endsAt"))
    # It lasts for four times the pause after which it is sent again, from the sending on.
    assert 240 < (ends - starts).total_seconds() < 250


async def test_alertmanager_is_told_again_while_an_alert_fires_and_once_when_it_ends(tmp_path):
    entry = {"name": "pager", "type": "alertmanager", "repeat": 0.1}
    async with Receiver() as receiver, running(tmp_path, {**entry, "url": receiver.url}) as it:
        await it.deliver([an_alert()])
        await receiver.until(3)
        ended = an_alert("resolved")
        await it.deliver([ended])
        await it.until("waiting_alerts", 0)
        await asyncio.sleep(0.3)
        last = receiver.got[-1].body[0]
        count = len(receiver.got)
        await asyncio.sleep(0.2)

    assert len(receiver.got) == count
    ends = datetime.fromisoformat(last["endsAt"])
    assert ends.timestamp() == pytest.approx(ended.resolved_ns / S, abs=0.002)
    assert last["startsAt"] <= last["endsAt"]


async def test_a_message_cannot_mention_people_or_close_its_code(tmp_path):
    entry = {"name": "pager", "type": "slack", "group_wait": 0.0}
    async with Receiver() as receiver, running(tmp_path, {**entry, "url": receiver.url}) as it:
        await it.deliver([an_alert(summary="<!channel> & <@U1>", evidence="```<!here>")])
        [got] = await receiver.until(1)

    assert got.body["text"] == "[warning] &lt;!channel&gt; &amp; &lt;@U1&gt;"
    [block] = got.body["blocks"]
    assert block["text"]["type"] == "mrkdwn"
    assert "<" not in block["text"]["text"]
    assert block["text"]["text"].endswith("```'''&lt;!here&gt;```")


async def test_a_message_of_nothing_but_brackets_fits_and_ends_its_code(tmp_path):
    entry = {"name": "pager", "type": "slack", "group_wait": 0.0, "link": f"http://w/{'<' * 999}"}
    async with Receiver() as receiver, running(tmp_path, {**entry, "url": receiver.url}) as it:
        brackets = "<" * 9999
        labels = {brackets: brackets}
        await it.deliver([an_alert(summary=brackets, evidence=brackets, labels=labels)])
        [got] = await receiver.until(1)

    [block] = got.body["blocks"]
    text = block["text"]["text"]
    assert len(text) <= 3000
    assert text.endswith("&lt;…```")
    assert set(re.findall("&[a-z]*.", text)) == {"&lt;"}


async def test_a_long_message_says_how_much_more_there_is(tmp_path):
    entry = {"name": "pager", "type": "slack", "group_wait": 0.2}
    async with Receiver() as receiver, running(tmp_path, {**entry, "url": receiver.url}) as it:
        await it.deliver([from_host(number) for number in range(30)])
        await it.deliver([from_host(99, severity="critical", evidence="SELECT " + "x" * 9999)])
        [got] = await receiver.until(1)

    texts = [block["text"]["text"] for block in got.body["blocks"]]
    assert got.body["text"] == "31 changes of alerts: 31 port-scan firing"
    assert "[critical]" in texts[1]
    assert texts[-1] == "and 21 more: 21 port-scan firing"
    assert max(map(len, texts)) <= 3000


async def test_alerts_that_come_within_the_wait_are_told_together_with_their_group(tmp_path):
    async with Receiver() as receiver:
        entry = a_webhook(receiver, group_wait=0.3, group_by=["node"])
        async with running(tmp_path, entry) as it:
            await it.deliver([an_alert(labels={"node": "a", "n": "1"})])
            await it.deliver([an_alert(labels={"node": "b"})])
            await it.deliver([an_alert(labels={"node": "a", "n": "2"})])
            got = await receiver.until(2)

    assert [len(one.body["alerts"]) for one in got] == [2, 1]
    assert [one.body["group"] for one in got] == [{"node": "a"}, {"node": "b"}]


async def test_a_destination_is_told_what_it_asked_for_and_ends_only_of_that(tmp_path):
    async with Receiver() as receiver:
        entry = a_webhook(receiver, severity="critical", match={"node": "web-*"}, group_by=[])
        async with running(tmp_path, entry) as it:
            wrong = [an_alert(), an_alert(severity="critical", labels={"node": "db-1"})]
            await it.deliver([*wrong, an_alert("resolved")])
            await it.deliver([an_alert(severity="critical")])
            await receiver.until(1)
            await it.deliver([an_alert("resolved")])
            got = await receiver.until(2)

    told = [(one["status"], one["severity"]) for each in got for one in each.body["alerts"]]
    # It ends with the severity under which it is known there.
    assert told == [("firing", "critical"), ("resolved", "critical")]


async def test_the_same_is_not_told_twice_until_it_gets_worse(tmp_path):
    async with Receiver() as receiver, running(tmp_path, a_webhook(receiver)) as it:
        await it.deliver([an_alert()])
        await receiver.until(1)
        await it.deliver([an_alert(), an_alert()])
        await it.deliver([an_alert(severity="critical")])
        got = await receiver.until(2)
        assert it.count("known_alerts_total") == 2

    assert [one["severity"] for each in got for one in each.body["alerts"]] == [
        "warning",
        "critical",
    ]


async def test_a_reminder_tells_the_latest_under_a_key_of_its_own(tmp_path):
    async with Receiver() as receiver, running(tmp_path, a_webhook(receiver, repeat=0.3)) as it:
        await it.deliver([an_alert(changed_ns=CHANGED_NS)])
        await it.until("sent_alerts_total", 1)
        await it.deliver([an_alert(changed_ns=CHANGED_NS + 1, value=2000.0)])
        got = await receiver.until(2)

    [first], [second] = (one.body["alerts"] for one in got[:2])
    assert (first["repeat"], first["value"]) == (0, 1000.0)
    assert (second["repeat"], second["value"]) == (1, 2000.0)
    assert second["key"] == f"{first['fingerprint']}-{CHANGED_NS + 1}-1"


async def test_more_than_the_rate_allows_is_told_in_one_summary(tmp_path):
    async with Receiver() as receiver:
        entry = a_webhook(receiver, group_by=["src_addr"], per_minute=120.0, burst=1)
        async with running(tmp_path, entry) as it:
            await it.deliver([from_host(0)])
            await receiver.until(1)
            for number in range(1, 21):
                await it.deliver([from_host(number)])
            got = await receiver.until(2)
            await it.until("held_alerts_total", 20)

    assert [len(one.body["alerts"]) for one in got] == [1, 20]
    assert got[1].body["is_summary"]
    assert len({one["fingerprint"] for one in got[1].body["alerts"]}) == 20
