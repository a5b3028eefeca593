# SPDX-License-Identifier: Apache-2.0
"""A rule that exists makes sense, whoever sent it."""

from ipaddress import ip_network

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.filter.grammar import parse
from schemas.rules.limit import Limit, LimitError
from schemas.rules.meaning import plain_space, spaces_of
from schemas.rules.rule import MAX_NETWORKS, Rule, RuleError, packed_networks
from tests.schemas.rules.packets import a_rule

NETWORKS = tuple(
    map(ip_network, ("10.0.0.0/8", "192.0.2.1/32", "2001:db8::/32", "::/0", "0.0.0.0/0"))
)
FULL = a_rule(
    "web-limit.1",
    "tcp dst port 443",
    action="limit",
    limit=Limit(100, "packets", 500, "source"),
    is_observed=False,
    priority=7,
    until_ns=1_800_000_000_000_000_000,
    owner="ann",
    reason="ticket 17: 'scans'",
    src=NETWORKS,
    dst=NETWORKS[:1],
)


@pytest.mark.parametrize("rule", [a_rule(), FULL])
def test_a_rule_comes_out_of_its_message_as_it_went_in(rule):
    over_the_wire = msgpack.unpackb(msgpack.packb(rule.to_message()))

    assert Rule.from_message(over_the_wire) == rule
    assert Rule.from_message(rule.to_message(is_packed=False)) == rule


def test_a_new_rule_is_observed():
    assert Rule.from_message({"name": "r", "match": "tcp"}).is_observed
    assert not Rule.from_message({"name": "r", "match": "tcp", "enforced": True}).is_observed


def test_networks_take_17_bytes_in_a_message():
    assert len(FULL.to_message()["src_packed"]) == 17 * len(NETWORKS)


def test_a_mapped_network_is_the_ipv4_network():
    rule = Rule.from_message({"name": "r", "match": "", "src": ["::ffff:10.0.0.0/104", "10.1.1.1"]})

    assert rule.src == (ip_network("10.0.0.0/8"), ip_network("10.1.1.1/32"))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"name": "No"}, "'No' is no name of a rule; write 1 to 63 of a-z"),
        ({"name": "x" * 64}, "is no name of a rule"),
        ({"name": ".x"}, "is no name of a rule"),
        ({"name": "x\n"}, "is no name of a rule"),
        ({"action": "reject"}, "action 'reject' is none; write drop, limit, pass"),
        ({"action": "limit"}, "action limit lacks a limit; write limit 100/s"),
        ({"limit": "5/s"}, "action drop takes no limit; write action limit"),
        ({"action": "limit", "limit": "fast"}, "'fast' is no limit; write 100/s"),
        ({"priority": 65536}, "priority is 65536; write 0 to 65535"),
        ({"priority": -1}, "priority is -1; write 0 to 65535"),
        ({"priority": True}, "priority is True; write a whole number"),
        ({"priority": "7"}, "priority is '7'; write a whole number"),
        ({"until_ns": 1 << 63}, "until_ns is 9223372036854775808; write 0 to"),
        ({"enforced": 1}, "enforced is 1; write true or false"),
        ({"owner": "a\nb"}, "owner is 'a\\\\nb'; write only what can be printed"),
        ({"reason": "x" * 201}, "reason has 201 characters; write at most 200"),
        ({"match": "port 99999"}, "match 'port 99999': '99999' at character 6 is no port"),
        ({"match": "tcp " * 2000}, "match has 8000 characters; write at most 4096"),
        ({"src": ["10.0.0.0/33"]}, "'10.0.0.0/33' is no network; write 192.0.2.0/24"),
        ({"src": [7]}, "7 is no network"),
        ({"src": "10.0.0.0/8"}, "src is '10.0.0.0/8'; write a list of networks"),
        ({"src_packed": bytes(16)}, "16 bytes are no networks; send 17 for each"),
        ({"src_packed": bytes(16) + b"\x81"}, "is no network"),
        ({"src_packed": bytes(15) + b"\x01\x08"}, "is no network"),
        ({"src_packed": bytes(17), "src": ["10.0.0.0/8"]}, "src is given twice"),
        ({"src_packed": bytes(17 * (MAX_NETWORKS + 1))}, "100001 networks are too many"),
        ({"priorty": 3}, "has unknown field 'priorty'; known: name, match"),
        ({7: 3}, "has unknown field 7"),
    ],
)
def test_a_message_that_makes_no_sense_is_refused_with_the_value_and_the_fix(values, said):
    with pytest.raises(RuleError, match=said) as refused:
        Rule.from_message({"name": "r", "match": "tcp", **values})

    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("message", [None, [], "tcp", {}, {"name": "r"}, {"match": "tcp"}])
def test_what_is_no_map_with_name_and_match_is_refused(message):
    with pytest.raises(RuleError, match="no rule|lacks"):
        Rule.from_message(message)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(
        st.sampled_from(["name", "match", "action", "limit", "src", "src_packed", "until_ns", "x"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text() | st.binary(),
            lambda inner: (
                st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
            ),
            max_leaves=4,
        ),
    )
)
def test_whatever_comes_is_a_rule_or_refused_in_one_line(message):
    assert _refusal(message).isprintable()


def _refusal(message: object) -> str:
    try:
        Rule.from_message(message)
    except RuleError as error:
        return str(error)
    return ""


def test_a_rule_is_over_from_its_end_on():
    rule = a_rule(until_ns=1000)

    assert not rule.is_over(999)
    assert rule.is_over(1000)
    assert not a_rule(until_ns=0).is_over(1 << 62)


def test_networks_are_packed_mapped():
    assert packed_networks(NETWORKS[:1]) == bytes(10) + b"\xff\xff\x0a\0\0\0" + b"\x68"


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("100/s", Limit(100, "packets", 100, "rule")),
        ("2k/s burst 500", Limit(2000, "packets", 500, "rule")),
        ("10MB/s", Limit(10_000_000, "bytes", 10_000_000, "rule")),
        ("100B/s", Limit(100, "bytes", 2048, "rule")),
        ("1kB/s burst 64kB per source", Limit(1000, "bytes", 64_000, "source")),
        ("1/s per source", Limit(1, "packets", 1, "source")),
    ],
)
def test_a_limit_is_read_as_it_is_written(text, limit):
    assert Limit.parse(text) == limit
    assert str(limit) == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("100", "'100' is no limit; write 100/s, 10MB/s"),
        ("0/s", "a rate of 0 is out of its limits; write 1 to"),
        ("9999G/s", "is out of its limits"),
        ("1/s burst 0", "lets nothing pass at once"),
        ("1kB/s burst 100B", "a burst of 100 bytes is out of its limits; write 2048"),
        ("1kB/s burst 9000", "mixes packets and bytes"),
        ("1/s per host", "is no limit"),
    ],
)
def test_what_is_no_limit_is_refused(text, said):
    with pytest.raises(LimitError, match=said):
        Limit.parse(text)


@given(
    st.builds(
        Limit,
        st.integers(1, 10**12),
        st.sampled_from(["packets", "bytes"]),
        st.just(0) | st.integers(2048, 10**12),
        st.sampled_from(["rule", "source"]),
    )
)
def test_the_text_of_a_limit_says_it_exactly(limit):
    assert Limit.parse(str(limit)) == limit


@given(
    st.from_regex(
        r"(src|dst|src  ) (host|net) (10|0|255|256|00)\.1\.(2|02|999)\.(7|255)(/(0|1|8|24|32|33|08))?",
        fullmatch=True,
    )
)
def test_a_plain_match_means_what_the_grammar_says(match):
    plain = plain_space(match)

    assert plain is None or [plain] == spaces_of(parse(match, for_packets=True))


def test_most_matches_are_plain():
    assert plain_space("src host 10.0.0.1")
    assert plain_space("dst net 10.0.0.0/8")
    assert not plain_space("src net 0.0.0.0/0")
    with pytest.raises(RuleError, match="write net"):
        a_rule(match="src host 10.0.0.0/8")
