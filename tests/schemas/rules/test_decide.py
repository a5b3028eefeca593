# SPDX-License-Identifier: Apache-2.0
"""The first enforced rule in order decides; observed ones before it say what they would do."""

from schemas.rules.decide import Decision, decide
from tests.schemas.rules.packets import a_packet, a_rule

TELNET = a_packet(dst_port=23)
NOW = 1_000


def test_no_rule_decides_where_none_matches():
    assert decide([a_rule(match="udp", is_observed=False)], TELNET, NOW) == Decision(None, None)


def test_the_higher_priority_decides_then_the_name():
    late = a_rule("a", priority=1, is_observed=False)
    b, c = (a_rule(name, priority=5, is_observed=False) for name in "bc")

    assert decide([late, c, b], TELNET, NOW).deciding == b


def test_only_the_first_observed_rule_before_the_deciding_one_is_reported():
    first, second = a_rule("a", priority=9), a_rule("b", priority=8)
    deciding = a_rule("c", priority=7, is_observed=False)
    behind = a_rule("d", priority=6)

    assert decide([behind, deciding, second, first], TELNET, NOW) == Decision(deciding, first)
    assert decide([behind, deciding], TELNET, NOW) == Decision(deciding, None)


def test_a_rule_that_is_over_does_not_count():
    rule = a_rule(is_observed=False, until_ns=NOW)

    assert decide([rule], TELNET, NOW) == Decision(None, None)
    assert decide([rule], TELNET, NOW - 1).deciding == rule


def test_a_rule_that_passes_ends_the_search():
    passing = a_rule("a", "src host 10.0.0.1", action="pass", is_observed=False, priority=200)

    assert decide([a_rule("b", is_observed=False), passing], TELNET, NOW).deciding == passing
