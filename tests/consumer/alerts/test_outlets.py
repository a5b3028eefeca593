# SPDX-License-Identifier: Apache-2.0
"""Alerts reach every destination that wants them, whatever is killed or away in between."""

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

from consumer.alerts.outlets import outlets, post, worker
from consumer.alerts.outlets.database import QueueError
from consumer.alerts.outlets.outlets import outlets_of
from tests.consumer.alerts.alerts import an_alert, from_host
from tests.consumer.alerts.mortal_outlets import CHANGED_NS
from tests.consumer.alerts.receiver import DEADLINE_S, Receiver
from tests.consumer.alerts.running import a_webhook, running

ROOT = Path(__file__).parents[3]


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
