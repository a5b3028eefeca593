# SPDX-License-Identifier: Apache-2.0
"""Alerts reach every destination that wants them, whatever is killed or away in between."""

import asyncio
import hmac
import logging
import re
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from consumer.alerts.outlets import outlets, post, worker
from consumer.alerts.outlets.database import QueueError
from consumer.alerts.outlets.outlets import Outlets, outlets_of
from tests.consumer.alerts.alerts import S, an_alert, from_host
from tests.consumer.alerts.mortal_outlets import CHANGED_NS
from tests.consumer.alerts.receiver import DEADLINE_S, Receiver
from tests.services.certificates import Authority

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """A pause that a destination does not ask for is over at once."""
    monkeypatch.setattr(
        worker, "pause_s", lambda failures, asked, chance: 0.01 if asked is None else asked
    )


def a_webhook(receiver: Receiver, **options: Any) -> dict[str, Any]:
    url = f"{receiver.url}/hook"
    return {"name": "pager", "type": "webhook", "url": url, "group_wait": 0.0, **options}


class Running:
    """Outlets, and their numbers."""

    def __init__(self, outlets: Outlets, registry: CollectorRegistry) -> None:
        self.outlets = outlets
        self.deliver = outlets.deliver
        self._registry = registry

    def count(self, name: str, outlet: str = "pager") -> float:
        value = self._registry.get_sample_value(f"alert_outlet_{name}", {"outlet": outlet})
        assert value is not None
        return value

    async def until(self, name: str, value: float) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while self.count(name) != value:
                await asyncio.sleep(0.01)


@asynccontextmanager
async def running(folder: Path, *entries: dict[str, Any]) -> AsyncIterator[Running]:
    registry = CollectorRegistry()
    outlets = outlets_of({"outlet": list(entries)}, folder, registry)
    await outlets.start()
    try:
        yield Running(outlets, registry)
        assert outlets.failure() is None
    finally:
        await outlets.stop()


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


async def test_a_secret_signs_what_is_sent(tmp_path):
    (tmp_path / "secret").write_text("between us\n")
    (tmp_path / "secret").chmod(0o600)
    async with Receiver() as receiver:
        entry = a_webhook(receiver, secret_file=str(tmp_path / "secret"))
        async with running(tmp_path, entry) as it:
            await it.deliver([an_alert()])
            [got] = await receiver.until(1)

    expected = hmac.new(b"between us", got.content, "sha256").hexdigest()
    assert got.headers["X-Hookline-Signature"] == f"sha256={expected}"


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


@pytest.mark.parametrize("status", [500, 502, 503, 429, 408])
async def test_what_may_pass_is_tried_again_under_the_same_key(tmp_path, status):
    async with Receiver() as receiver, running(tmp_path, a_webhook(receiver)) as it:
        receiver.next_answers(status, status)
        await it.deliver([an_alert()])
        got = await receiver.until(3)
        await it.until("sent_alerts_total", 1)
        assert it.count("retried_requests_total") == 2

    assert len({one.key for one in got}) == 1
    assert len({one.content for one in got}) == 1


async def test_a_destination_that_asks_for_time_gets_it(tmp_path):
    async with Receiver() as receiver, running(tmp_path, a_webhook(receiver)) as it:
        receiver.next_answers(429, headers={"Retry-After": "1"})
        began = asyncio.get_running_loop().time()
        await it.deliver([an_alert()])
        await receiver.until(2)

    assert asyncio.get_running_loop().time() - began >= 1


@pytest.mark.parametrize("status", [301, 400, 403, 404, 413])
async def test_a_refusal_is_kept_with_its_reason_and_not_repeated(tmp_path, status, caplog):
    async with Receiver() as receiver, running(tmp_path, a_webhook(receiver, repeat=0.05)) as it:
        receiver.next_answers(status, headers={"Location": "/elsewhere"})
        await it.deliver([an_alert()])
        await it.until("rejected_alerts_total", 1)
        await it.deliver([an_alert()])
        await asyncio.sleep(0.2)
        kept = await it.outlets._in_thread(
            lambda: it.outlets._queue._db.execute("SELECT reason FROM rejected").fetchall()
        )

    assert len(receiver.got) == 1
    assert kept[0][0].startswith(str(status))
    assert "no, and why" in kept[0][0]
    assert [record.message for record in caplog.records] == ["alerts rejected"]


async def test_one_that_is_always_refused_does_not_hold_up_the_others(tmp_path):
    async with Receiver() as receiver:
        entry = a_webhook(receiver, group_by=["src_addr"])
        async with running(tmp_path, entry) as it:
            receiver.next_answers(*[500] * 3)
            await it.deliver([from_host(1)])
            await it.deliver([from_host(2)])
            await it.until("sent_alerts_total", 2)


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


async def test_alerts_wait_for_a_destination_that_is_away(tmp_path):
    receiver = Receiver()
    async with receiver:
        entry = a_webhook(receiver)
    async with running(tmp_path, entry) as it:
        await it.deliver([an_alert()])
        await it.deliver([an_alert("resolved")])
        async with asyncio.timeout(DEADLINE_S):
            while not it.count("retried_requests_total"):
                await asyncio.sleep(0.01)
        assert it.count("waiting_alerts") == 2
        assert it.count("oldest_waiting_seconds") > 0
        async with receiver:
            await it.until("sent_alerts_total", 2)

    told = [one["status"] for got in receiver.got for one in got.body["alerts"]]
    assert told == ["firing", "resolved"]


@pytest.mark.parametrize("point", ["kept", "begun", "sent"])
async def test_a_kill_loses_nothing_and_what_comes_twice_has_the_same_key(tmp_path, point):
    async with Receiver() as receiver:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.consumer.alerts.mortal_outlets"),
            *(str(tmp_path), f"{receiver.url}/hook", point),
            cwd=ROOT,
        )
        assert await process.wait() == -9
        before = list(receiver.got)
        # A group that waits keeps the time at which it came.
        async with running(tmp_path, a_webhook(receiver)) as it:
            if point == "kept":
                await it.outlets._in_thread(
                    lambda: it.outlets._queue._db.execute("UPDATE changes SET ready_ns = 0")
                )
                it.outlets._workers[0].wake()
            got = await receiver.until(len(before) + 1)
            await it.until("waiting_alerts", 0)
            [knows] = await it.outlets.firing()

    assert len(before) == (point == "sent")
    assert {one.key for one in got} == {f"{knows.sighting.fingerprint}-{CHANGED_NS}"}


async def test_a_stop_waits_for_the_answer_so_nothing_comes_twice(tmp_path):
    async with Receiver() as receiver:
        receiver.may_answer.clear()
        async with running(tmp_path, a_webhook(receiver)) as it:
            await it.deliver([an_alert()])
            await receiver.until(1)
            asyncio.get_running_loop().call_later(0.2, receiver.may_answer.set)
        async with running(tmp_path, a_webhook(receiver)) as it:
            await asyncio.sleep(0.2)
            [knows] = await it.outlets.firing()

    assert len(receiver.got) == 1
    assert knows.status == "firing"


async def test_a_stop_does_not_wait_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(outlets, "LAST_REQUEST_S", 0.1)
    async with Receiver() as receiver:
        receiver.may_answer.clear()
        async with running(tmp_path, a_webhook(receiver)) as it:
            await it.deliver([an_alert()])
            await receiver.until(1)
        receiver.may_answer.set()
        async with running(tmp_path, a_webhook(receiver)) as it:
            got = await receiver.until(2)

    assert got[0].key == got[1].key


async def test_beyond_its_bound_the_oldest_are_given_up_counted_and_told(tmp_path, caplog):
    async with Receiver() as receiver:
        entry = a_webhook(receiver, group_wait=3600.0, max_waiting=10)
        async with running(tmp_path, entry) as it:
            await it.deliver([from_host(number) for number in range(13)])
            await it.until("lost_alerts_total", 3)
            waiting = await it.outlets.firing()

    assert next(one.sighting.labels["src_addr"] for one in waiting) == "198.51.100.3"
    [record] = caplog.records
    assert (record.levelname, record.message) == ("ERROR", "alerts given up")


async def test_what_waits_for_an_outlet_that_is_gone_is_given_up_aloud(tmp_path, caplog):
    async with Receiver() as receiver:
        async with running(tmp_path, a_webhook(receiver, group_wait=3600.0)) as it:
            await it.deliver([an_alert()])
        async with running(tmp_path, a_webhook(receiver, name="other")) as it:
            assert await it.outlets.firing() == []

    assert caplog.messages == ["alerts given up: no such outlet"]


async def test_a_secret_that_every_user_can_read_is_told_at_the_start(tmp_path, caplog):
    (tmp_path / "url").write_text("http://127.0.0.1:1/hidden")
    (tmp_path / "url").chmod(0o644)
    entry = {"name": "pager", "type": "slack", "url_file": str(tmp_path / "url")}
    async with running(tmp_path, entry):
        assert caplog.messages == ["secret is open to every user"]


async def test_two_processes_do_not_share_a_queue(tmp_path):
    async with Receiver() as receiver, running(tmp_path, a_webhook(receiver)):
        second = outlets_of({"outlet": []}, tmp_path)
        with pytest.raises(QueueError, match="another process has it open"):
            await second.start()


async def test_deliver_says_where_alerts_cannot_be_kept(tmp_path):
    async with Receiver() as receiver, running(tmp_path, a_webhook(receiver)) as it:
        await it.outlets._in_thread(
            lambda: it.outlets._queue._db.execute("PRAGMA max_page_count = 1")
        )
        with pytest.raises(QueueError, match="cannot keep alerts in .*full"):
            await it.deliver([from_host(1, evidence="x" * 1_000_000)])


async def test_a_fault_of_a_worker_is_not_hidden(tmp_path, monkeypatch):
    async def faulty(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(worker, "post", faulty)
    async with Receiver() as receiver:
        outlets = outlets_of({"outlet": [a_webhook(receiver)]}, tmp_path)
        await outlets.start()
        await outlets.deliver([an_alert()])
        async with asyncio.timeout(DEADLINE_S):
            while outlets.failure() is None:
                await asyncio.sleep(0.01)
        with pytest.raises(ZeroDivisionError):
            await outlets.deliver([an_alert()])
        await outlets.stop()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7", 7.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("Wed, 21 Oct 2999 07:28:00 GMT", 3600.0),
        ("999999999", 3600.0),
        ("soon", None),
        ("", None),
    ],
)
def test_a_pause_that_is_asked_for_has_a_bound(text, seconds):
    assert post._retry_after_s(text) == seconds


async def test_nothing_secret_is_logged(tmp_path, caplog, monkeypatch):
    monkeypatch.setenv("SLACK_URL_FOR_TEST", "http://127.0.0.1:1/services/T0/B0/veryhidden")
    monkeypatch.setenv("TOKEN_FOR_TEST", "Bearer veryhidden2")
    caplog.set_level(logging.DEBUG)
    entry = {
        "name": "pager",
        "type": "slack",
        "group_wait": 0.0,
        "url_variable": "SLACK_URL_FOR_TEST",
        "authorization_variable": "TOKEN_FOR_TEST",
    }
    async with running(tmp_path, entry) as it:
        await it.deliver([an_alert()])
        async with asyncio.timeout(DEADLINE_S):
            while not it.count("retried_requests_total"):
                await asyncio.sleep(0.01)
        shown = repr(it.outlets.destinations)

    text = shown + "".join(str(vars(record)) for record in caplog.records)
    assert "outlet takes no alerts" in text
    assert "http://127.0.0.1:1" in text
    assert "veryhidden" not in text


async def test_a_certificate_is_checked_against_the_authority_that_was_named(tmp_path, caplog):
    authority, other = Authority.made(tmp_path, "ours"), Authority.made(tmp_path, "other")
    certificate = authority.signed("receiver")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate.pem, certificate.key)
    async with Receiver(context) as receiver:
        entry = a_webhook(receiver, ca_file=str(authority.own.pem))
        async with running(tmp_path / "right", entry) as it:
            await it.deliver([an_alert()])
            await receiver.until(1)
        entry = a_webhook(receiver, ca_file=str(other.own.pem))
        async with running(tmp_path / "wrong", entry) as it:
            await it.deliver([an_alert()])
            async with asyncio.timeout(DEADLINE_S):
                while not it.count("retried_requests_total"):
                    await asyncio.sleep(0.01)

    assert len(receiver.got) == 1
    assert "its certificate is not trusted" in caplog.records[0].reason
