# SPDX-License-Identifier: Apache-2.0
"""An outlet that cannot work is refused at the start, in one line that names it."""

import tomllib
from pathlib import Path
from random import Random

import pytest

from consumer.alerts.outlets.destination import Destination
from consumer.alerts.outlets.options import destinations_in
from consumer.alerts.outlets.pace import LONGEST_PAUSE_S, Bucket, pause_s
from service.options import ConfigError

PAGER = 'name = "pager"\ntype = "webhook"\n'
URL = 'url = "https://pager.example/hook"\n'


def read(text: str) -> list[Destination]:
    return destinations_in(tomllib.loads(f"[[outlet]]\n{text}"))


def test_what_is_left_out_has_a_default_that_suits_the_type():
    [webhook] = read(PAGER + URL)
    [manager] = read('name = "am"\ntype = "alertmanager"\nurl = "http://am:9093"')

    assert (webhook.group_by, webhook.group_wait, webhook.repeat) == (("detector",), 5.0, 14_400.0)
    assert (manager.group_by, manager.group_wait, manager.repeat) == ((), 0.0, 60.0)
    assert webhook.context is not None
    assert manager.context is None


def test_no_outlets_are_none():
    assert destinations_in({}) == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (URL, "outlet 1: name is ''; write lower-case letters, digits and hyphens, 40 at most"),
        (PAGER, "outlet pager: url is missing; give url, url_file or url_variable"),
        (PAGER + 'url = "pager"', "url holds no address; write https://HOST/… there"),
        (PAGER + 'url = "ftp://a/b"', "url holds no address"),
        (PAGER + 'url = "http://[::1/"', "url holds no address"),
        (
            PAGER + 'url = "https://u:p@h/"',
            "url holds a user or a password; give authorization_file",
        ),
        (PAGER + "url = 7", "url is no printable text"),
        (PAGER + URL + 'url_file = "/x"', "url and url_file are both given; leave one out"),
        (PAGER + 'url_file = "/no/where"', "cannot read url_file /no/where: No such file"),
        (PAGER + 'url_variable = "NO_SUCH"', "url_variable NO_SUCH is empty or not set"),
        (PAGER + URL + "colour = 1", "unknown option 'colour'"),
        (
            PAGER + URL + 'severity = "bad"',
            "severity is 'bad'; choose one of info, warning, critical",
        ),
        (
            PAGER.replace("webhook", "irc") + URL,
            "type is 'irc'; choose one of alertmanager, webhook",
        ),
        (PAGER + URL + "repeat = -1", "repeat is -1; write a number from 0 to 2.592e+06"),
        (PAGER + URL + "repeat = nan", "repeat is nan; write a number"),
        (PAGER + URL + "group_wait = true", "group_wait is True; write a number"),
        (PAGER + URL + "burst = 0.5", "burst is 0.5; write a whole number from 1 to 1000"),
        (PAGER + URL + 'group_by = "node"', "group_by is 'node'; write a list of texts"),
        (PAGER + URL + "match = { node = 1 }", "match is {'node': 1}; write a table of texts"),
        (PAGER + URL + 'headers = { Authorization = "x" }', "is a secret; give authorization_file"),
        (PAGER + URL + 'headers = { Host = "x" }', "header Host is ours to make; leave it out"),
        (PAGER + URL + 'headers = { "a b" = "x" }', "header 'a b' cannot be sent"),
        (PAGER + URL + 'headers = { a = "x\\r\\ny: z" }', "header 'a' cannot be sent"),
        (PAGER + 'url = "http://h/"\nca_file = "/x"', "ca_file is given, and the url is no https:"),
        (PAGER + URL + 'ca_file = "/no/where"', "ca_file /no/where holds no certificates"),
        (PAGER + URL + f"[[outlet]]\n{PAGER}{URL}", "outlet pager: the name is given twice"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(text, reason):
    with pytest.raises(ConfigError) as refused:
        read(text)

    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)


def test_only_a_webhook_has_signatures(monkeypatch):
    monkeypatch.setenv("SIGNS", "x")
    with pytest.raises(ConfigError, match="only a webhook has signatures, not slack"):
        read('name = "a"\ntype = "slack"\nsecret_variable = "SIGNS"\n' + URL)


def test_alertmanager_has_to_be_told_again():
    with pytest.raises(ConfigError, match="repeat is 0; Alertmanager forgets"):
        read('name = "a"\ntype = "alertmanager"\nrepeat = 0\n' + URL)


@pytest.mark.parametrize("entries", ["pager", [1], {"name": "pager"}])
def test_outlets_are_a_list_of_tables(entries):
    with pytest.raises(ConfigError, match="write \\[\\[alert.outlet\\]\\] above each"):
        destinations_in({"outlet": entries})


def test_a_secret_comes_from_a_file_and_one_that_all_can_read_is_known(tmp_path):
    path = Path(tmp_path / "url")
    path.write_text("https://hooks.example/T0/hidden\n")
    path.chmod(0o644)

    [pager] = read(f'{PAGER}url_file = "{path}"')

    assert pager.url == "https://hooks.example/T0/hidden"
    assert pager.shown == "https://hooks.example"
    assert "hidden" not in repr(pager)
    assert pager.exposed == (str(path),)

    path.chmod(0o640)
    assert read(f'{PAGER}url_file = "{path}"')[0].exposed == ()


def test_tokens_come_at_their_rate_and_wait_tells_when():
    bucket = Bucket(per_minute=60, burst=2, now=100.0)

    assert bucket.tokens(100.0) == 2
    bucket.take()
    bucket.take()
    assert bucket.tokens(100.0) == 0
    assert bucket.wait_s() == 1.0
    assert bucket.tokens(100.0 + bucket.wait_s()) == 1
    assert bucket.tokens(1000.0) == 2


def test_pauses_grow_to_a_bound_and_what_was_asked_for_is_kept():
    chance = Random(1)

    assert 0.5 <= pause_s(1, None, chance) <= 1.0
    assert 4.0 <= pause_s(4, None, chance) <= 8.0
    assert LONGEST_PAUSE_S / 2 <= pause_s(1000, None, chance) <= LONGEST_PAUSE_S
    assert pause_s(1, 30.0, chance) == 30.0
    assert pause_s(20, 0.0, chance) >= LONGEST_PAUSE_S / 2
