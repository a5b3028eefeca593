# SPDX-License-Identifier: Apache-2.0
"""The pages about outlets and rules show what is understood, and what is sent."""

import json
import re
import tomllib
from typing import Any

from consumer.alerts.outlets import options, webhook
from consumer.alerts.outlets.change import Change, Delivery
from consumer.alerts.outlets.options import destinations_in
from consumer.alerts.rule_file import rules_in
from tests.consumer.alerts.alerts import an_alert
from tests.docs.pages import ROOT, blocks

OUTLETS = ROOT / "docs/how-to/send-alerts.md"
RULES = ROOT / "docs/how-to/alert-with-sql.md"
SHIPPED = ROOT / "deploy/alerts/rules.yaml"


def test_the_outlets_that_are_shown_are_understood(tmp_path):
    (tmp_path / "some").write_text("https://hooks.example/T0/hidden")
    (tmp_path / "some").chmod(0o600)
    [shown] = blocks(OUTLETS, "toml")
    text = re.sub(r'"/etc/hookline/[^"]+"', f'"{tmp_path}/some"', shown)

    found = destinations_in(tomllib.loads(text)["alert"])

    assert [one.type for one in found] == ["alertmanager", "webhook", "slack"]


def test_every_option_of_an_outlet_is_described_and_no_other():
    table = OUTLETS.read_text().partition("## Options")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    described = {name for row in rows for name in re.findall(r"`(\w+)`", row)}

    assert plain(described) == plain(options._KNOWN)


def plain(names: set[str]) -> set[str]:
    """Names of options, whatever place the value comes from."""
    return {re.sub("^(url|authorization|secret)_(file|variable)$", r"\1", name) for name in names}


def test_the_document_that_is_shown_is_like_one_that_is_sent():
    [alert] = blocks(OUTLETS, "json")
    shown = json.loads(alert)
    [to] = destinations_in({"outlet": [{"name": "pager", "type": "webhook", "url": "http://h"}]})
    change = Change(an_alert())
    sent = webhook.body(to, Delivery(1, change.key, (change,)))

    assert list(shown) == list(sent)
    [described], [told] = shown["alerts"], sent["alerts"]
    assert kinds(described) == kinds(told)
    assert described["proposal"].keys() == told["proposal"].keys()


def kinds(fields: dict[str, Any]) -> dict[str, type[Any]]:
    return {name: type(value) for name, value in fields.items()}


def test_the_check_of_signatures_that_is_shown_accepts_ours_and_no_other():
    [code] = blocks(OUTLETS, "python")
    shown: dict[str, Any] = {}
    exec(code, shown)  # noqa: S102  # it is what the page tells people to do
    signature = webhook.signature("between us", b"content")

    assert shown["is_ours"]("between us", b"content", signature)
    assert not shown["is_ours"]("between them", b"content", signature)
    assert not shown["is_ours"]("between us", b"contents", signature)


def test_the_rule_that_is_shown_is_understood(tmp_path):
    [shown] = blocks(RULES, "yaml")
    (tmp_path / "rules.yaml").write_text(shown)

    [rule] = rules_in(tmp_path / "rules.yaml")

    assert rule.labels == ("command", "remote_addr")


def test_every_rule_that_is_shipped_is_described():
    table = RULES.read_text().partition("## Write a rule")[0]
    described = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)

    assert described == [rule.name for rule in rules_in(SHIPPED)]
