# SPDX-License-Identifier: Apache-2.0
"""rules.yaml says which rules are wanted, and what would change is a plan to be read."""

from ipaddress import ip_network

import pytest

from schemas.rules.limit import Limit
from schemas.rules.rule import Rule, RuleError
from schemas.rules.rulesfile import difference, networks_in, rules_in
from tests.docs.pages import PAGES, blocks, name
from tests.schemas.rules.packets import a_rule

TEXT = """\
rules:
  - name: no-telnet
    match: tcp dst port 23
    enforced: true
  - name: scanners
    match: ip
    action: limit
    limit: 100/s per source
    src_file: scanners.txt
    until: 2027-01-31T18:00:00Z
    reason: they come back
"""
LISTS = {"scanners.txt": "# seen in May\n198.51.100.0/24\n\n203.0.113.7  # a host\n"}


def _rules(text: str) -> tuple[Rule, ...]:
    return rules_in(text, LISTS.__getitem__)


def test_a_file_says_rules():
    no_telnet, scanners = _rules(TEXT)

    assert no_telnet == a_rule("no-telnet", "tcp dst port 23", is_observed=False)
    assert scanners == a_rule(
        "scanners",
        "ip",
        action="limit",
        limit=Limit(100, per="source"),
        src=(ip_network("198.51.100.0/24"), ip_network("203.0.113.7/32")),
        until_ns=1_801_418_400_000_000_000,
        reason="they come back",
    )


@pytest.mark.parametrize(
    "until", ["2027-01-31T18:00:00Z", '"2027-01-31T18:00:00Z"', "2027-01-31 18:00:00"]
)
def test_a_time_may_be_written_as_yaml_knows_it_or_as_text(until):
    (rule,) = _rules(f"rules: [{{name: r, match: tcp, until: {until}}}]")

    assert rule.until_ns == 1_801_418_400_000_000_000


def test_a_file_without_rules_wants_none():
    assert _rules("rules: []") == _rules("rules:") == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds one key; write rules: and a list"),
        ("- a", "holds one key"),
        ("rules: 7", "rules: holds no list"),
        ("rules: [7]", "rule number 1 is 7; write name: and match:"),
        ("rules: [\n  a: [", "line 2: this is no YAML|line 3: this is no YAML"),
        ("rules: []\nrules: []", "line 2: 'rules' stands there twice; remove one"),
        ("rules: [{name: r, match: tcp, match: udp}]", "line 1: 'match' stands there twice"),
        ("rules: [{name: r, match: tcp}, {name: r, match: udp}]", "rule r stands there twice"),
        ("rules: [{name: 7, match: tcp}]", "rule number 1: name is 7; write a text, in quotes"),
        ("rules: [{match: tcp}]", "rule number 1 lacks name"),
        ("rules: [{name: r, match: tcp, prio: 3}]", "rule r has unknown field 'prio'"),
        ("rules: [{name: r, match: tcp, until: soon}]", "'soon' is no time; write 2027-01-31"),
        ("rules: [{name: r, match: tcp, until: 7}]", "rule r: until is 7; write 2027-01-31"),
        ("rules: [{name: r, match: tcp, until: 1960-01-01}]", "is no time that comes"),
        ("rules: [{name: r, match: tcp, src_file: 7}]", "src_file is 7; write the path"),
        (
            "rules: [{name: r, match: tcp, src: [], src_file: scanners.txt}]",
            "src and src_file both stand there",
        ),
        ("rules: !!python/object:os.system {}", "this is no YAML"),
        ("[" * 400, "nested too deeply|no YAML"),
        ("\x00", "this is no YAML"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused_in_one_line(text, said):
    with pytest.raises(RuleError, match=said) as refused:
        _rules(text)

    assert "\n" not in str(refused.value)


def test_a_file_that_would_print_large_is_refused_in_one_short_line():
    levels = "\n".join(
        f"  - &a{n} [*a{n - 1}, *a{n - 1}, *a{n - 1}, *a{n - 1}]" for n in range(1, 30)
    )

    with pytest.raises(RuleError) as refused:
        _rules(f"rules:\n  - &a0 [x]\n{levels}\n")
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("10.0.0.0/8\nhost\n", "l.txt, line 2: 'host' is no network; write 192.0.2.0/24"),
        ("# nothing\n", "l.txt holds no network; add one, or leave the list out"),
    ],
)
def test_a_list_that_cannot_be_used_names_the_line(text, said):
    with pytest.raises(RuleError, match=said):
        networks_in(text, "l.txt")


def test_a_difference_reads_as_a_plan():
    stays, goes = a_rule("stays"), a_rule("goes", priority=7)
    before, after = a_rule("is", "tcp port 23"), a_rule("is", "tcp port 25", is_observed=False)

    found = difference([goes, stays, before], [stays, after, a_rule("comes", "udp")])

    assert found.lines() == [
        "+ comes (observed, priority 100): drop udp",
        "~ is",
        "    match: tcp port 23 -> tcp port 25",
        "    enforced: no -> yes",
        "- goes (observed, priority 7): drop tcp port 23",
        "1 to add, 1 to change, 1 to remove",
    ]
    assert not difference([stays], [stays])


SHOWN = [
    (name(page), block)
    for page in PAGES
    for block in blocks(page, "yaml")
    if block.startswith("rules:\n  - name")
]


def test_the_pages_show_files_of_rules():
    assert len(SHOWN) >= 2
    for _, block in SHOWN:
        assert _rules(block)
