# SPDX-License-Identifier: Apache-2.0
import pytest

from agent.capabilities import missing_capabilities


@pytest.mark.parametrize(
    ("effective", "missing"),
    [
        ("000001ffffffffff", []),
        ("000000c000001000", []),
        ("0000000000201000", []),  # SYS_ADMIN covers BPF and PERFMON
        ("0000004000001000", ["CAP_BPF"]),
        ("0000008000001000", ["CAP_PERFMON"]),
        ("000000c000000000", ["CAP_NET_ADMIN"]),
        ("0000000000000000", ["CAP_NET_ADMIN", "CAP_PERFMON", "CAP_BPF"]),
    ],
)
def test_what_is_missing_is_named(effective, missing):
    assert missing_capabilities(f"Name:\tagent\nCapEff:\t{effective}\n") == missing


def test_entering_other_namespaces_needs_one_more():
    own = "Name:\tagent\nCapEff:\t000000c000001000\n"
    root = "Name:\tagent\nCapEff:\t000001ffffffffff\n"

    assert missing_capabilities(own, enters_namespaces=True) == ["CAP_SYS_ADMIN"]
    assert missing_capabilities(root, enters_namespaces=True) == []
