# SPDX-License-Identifier: Apache-2.0
"""Signed rules: what is obeyed, and what is not, whoever wrote it."""

from pathlib import Path

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.rules.rule import Rule, RuleError
from schemas.rules.signed import (
    MAX_SKEW_NS,
    SignedError,
    Trusted,
    key_id,
    new_key,
    public_text,
    put,
    read_key,
    sign,
    verified,
    withdraw,
)

NOW_NS = 1_800_000_000_000_000_000
RULE = Rule(
    name="r", match="udp", until_ns=NOW_NS + 1, owner="alice", reason="flood", is_observed=False
)


def a_key(folder: Path, name: str = "alice"):
    pem, public = new_key()
    path = folder / f"{name}.pem"
    path.write_bytes(pem)
    return read_key(path), Trusted({key_id(public): (name, public)})


@pytest.fixture(scope="module")
def alice(tmp_path_factory):
    return a_key(tmp_path_factory.mktemp("keys"))


def refused(value: bytes, trusted: Trusted, now_ns: int = NOW_NS) -> str:
    with pytest.raises(SignedError) as caught:
        verified(value, trusted, now_ns=now_ns)
    assert "\n" not in str(caught.value)
    return caught.value.reason


def test_what_was_signed_is_read_back(alice):
    key, trusted = alice
    order = verified(put(RULE, key, nodes=["web-*"], now_ns=NOW_NS), trusted, now_ns=NOW_NS)
    assert (order.rule, order.serial, order.signed_by) == (RULE, NOW_NS, "alice")
    assert order.is_for("web-1")
    assert not order.is_for("db-1")


def test_a_withdrawal_names_a_rule_and_has_none(alice):
    key, trusted = alice
    value = withdraw("r", key, until_ns=NOW_NS + 1, now_ns=NOW_NS)
    order = verified(value, trusted, now_ns=NOW_NS)
    assert (order.name, order.rule) == ("r", None)


def test_a_key_that_is_not_trusted_is_not_obeyed(alice, tmp_path):
    _, trusted = alice
    mallory, hers = a_key(tmp_path, "mallory")
    value = put(RULE, mallory, now_ns=NOW_NS)
    assert refused(value, trusted) == "untrusted"
    assert refused(value, Trusted()) == "untrusted"
    # Under Alice's name it is a forgery.
    (her_id,) = trusted.keys
    pretended = msgpack.packb({**msgpack.unpackb(value), "key": her_id})
    assert refused(pretended, trusted) == "forged"
    assert verified(value, hers, now_ns=NOW_NS).signed_by == "mallory"


def test_no_bit_of_a_body_can_be_changed(alice):
    key, trusted = alice
    envelope = msgpack.unpackb(put(RULE, key, now_ns=NOW_NS))
    for number in range(len(envelope["body"])):
        body = bytearray(envelope["body"])
        body[number] ^= 1
        assert refused(msgpack.packb({**envelope, "body": bytes(body)}), trusted) == "forged"


def test_a_signature_for_anything_else_is_none_for_a_rule(alice):
    key, trusted = alice
    envelope = msgpack.unpackb(put(RULE, key, now_ns=NOW_NS))
    envelope["signature"] = key.sign(envelope["body"])
    assert refused(msgpack.packb(envelope), trusted) == "forged"


def test_what_was_issued_later_than_clocks_may_differ_is_early(alice):
    key, trusted = alice
    value = put(RULE, key, now_ns=NOW_NS)
    assert verified(value, trusted, now_ns=NOW_NS - MAX_SKEW_NS).rule == RULE
    assert refused(value, trusted, NOW_NS - MAX_SKEW_NS - 1) == "early"


def test_what_has_ended_is_not_obeyed(alice):
    key, trusted = alice
    value = put(RULE, key, now_ns=NOW_NS)
    assert refused(value, trusted, RULE.until_ns) == "expired"


@pytest.mark.parametrize("lacking", ["until_ns", "owner", "reason"])
def test_what_travels_has_an_end_an_owner_and_a_reason(alice, lacking):
    key, trusted = alice
    message = {name: one for name, one in RULE.to_message().items() if name != lacking}
    rule = Rule.from_message(message)
    with pytest.raises(RuleError, match="lacks"):
        put(rule, key)
    body = msgpack.unpackb(msgpack.unpackb(put(RULE, key, now_ns=NOW_NS))["body"])
    body |= {"rule": message, "until_ns": message.get("until_ns", 0)}
    assert refused(sign(body, key), trusted) in ("malformed", "expired")


@pytest.mark.parametrize(
    "change",
    [
        {"v": 2},
        {"body": "text"},
        {"signature": None, "reason": "unsigned"},
        {"key": 7, "reason": "unsigned"},
    ],
)
def test_an_envelope_that_is_none_is_told_apart(alice, change):
    key, trusted = alice
    reason = change.pop("reason", "malformed")
    assert refused(msgpack.packb(msgpack.unpackb(put(RULE, key)) | change), trusted) == reason


_JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(value=st.binary() | _JUNK.map(msgpack.packb))
def test_whatever_comes_that_nobody_signed_is_rejected_and_nothing_else(value):
    assert refused(value, Trusted()) in ("malformed", "unsigned", "untrusted")


@given(body=_JUNK | st.dictionaries(st.sampled_from(["name", "serial", "rule", "nodes"]), _JUNK))
def test_whatever_a_trusted_key_signs_is_an_order_or_malformed(alice, body):
    key, trusted = alice
    if isinstance(body, dict):
        value = sign(body, key)
        assert refused(value, trusted) in ("malformed", "expired", "early")


def test_a_file_of_keys_names_them(alice, tmp_path):
    _, trusted = alice
    ((_, public),) = trusted.keys.values()
    path = tmp_path / "trusted"
    path.write_text(f"# operators\n\nalice {public_text(public)}  # on call\n")
    assert Trusted.read(path).keys.keys() == trusted.keys.keys()
    for text in ("", "alice\n", "alice AAAA\n", f"alice {public_text(public)} x\n"):
        path.write_text(text)
        with pytest.raises(RuleError, match="keygen"):
            Trusted.read(path)


def test_a_file_that_holds_no_private_key_is_told(tmp_path):
    path = tmp_path / "key"
    path.write_text("nothing")
    with pytest.raises(RuleError, match="no Ed25519 key"):
        read_key(path)
