# SPDX-License-Identifier: Apache-2.0
"""Outlets prove who they are, check who the other is, and keep their secrets."""

import asyncio
import hmac
import logging
import ssl

from tests.consumer.alerts.alerts import an_alert
from tests.consumer.alerts.receiver import DEADLINE_S, Receiver
from tests.consumer.alerts.running import a_webhook, running
from tests.services.certificates import Authority


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


async def test_a_secret_that_every_user_can_read_is_told_at_the_start(tmp_path, caplog):
    (tmp_path / "url").write_text("http://127.0.0.1:1/hidden")
    (tmp_path / "url").chmod(0o644)
    entry = {"name": "pager", "type": "slack", "url_file": str(tmp_path / "url")}
    async with running(tmp_path, entry):
        assert caplog.messages == ["secret is open to every user"]


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
