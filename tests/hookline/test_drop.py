# SPDX-License-Identifier: Apache-2.0
"""`hookline drop` orders what people ask of rules, and shows what there is."""

import io
import json
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from hookline import remote
from hookline.cli import main
from schemas.rules.allow import Allowed
from schemas.rules.limit import Limit
from tests.hookline.drop_agent import StandIn, standing_in
from tests.schemas.rules.packets import a_rule

Drop = Callable[..., tuple[int, str, str]]
BROKER = Allowed(brokers=((ip_address("10.0.0.5"), 9092),))
FILE = """\
rules:
  - name: no-telnet
    match: tcp dst port 23
    enforced: true
  - name: scanners
    match: ip
    src_file: lists/scanners.txt
"""


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    monkeypatch.setattr(remote, "LOCKS", tmp_path)
    monkeypatch.setenv("SUDO_USER", "ann")
    stand_in = StandIn(BROKER)
    with standing_in(tmp_path / "agent.sock", stand_in):
        yield stand_in


@pytest.fixture
def drop(capsys: pytest.CaptureFixture[str]) -> Drop:
    def run(*words: str) -> tuple[int, str, str]:
        code = main(["drop", *words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture
def file(tmp_path: Path) -> str:
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/scanners.txt").write_text("198.51.100.0/24  # May\n2001:db8::/32\n")
    (tmp_path / "rules.yaml").write_text(FILE)
    return str(tmp_path / "rules.yaml")


def test_a_rule_that_is_added_is_observed_and_says_how_to_enforce_it(agent: StandIn, drop: Drop):
    code, out, _ = drop("add", "no-telnet", "tcp", "dst", "port", "23", "--reason", "nobody does")

    assert code == 0
    assert agent.rules == {
        "no-telnet": (
            a_rule("no-telnet", "tcp dst port 23", owner="ann", reason="nobody does"),
            "local",
        )
    }
    assert out.splitlines() == [
        "no-telnet (observed, priority 100): drop tcp dst port 23",
        (
            "it is observed: it counts what it would do and changes nothing;"
            " hookline drop enforce no-telnet"
        ),
    ]


def test_every_option_of_a_rule_reaches_the_agent(agent: StandIn, drop: Drop, file: str):
    lists = str(Path(file).parent / "lists/scanners.txt")
    words = ["add", "calm", "udp", "--limit", "2k/s burst 50", "--per", "source", "--now"]
    words += ["--priority", "7", "--until", "2100-01-01T00:00:00Z", "--owner", "bob"]

    assert drop(*words, "--src-list", lists)[0] == 0
    ((rule, _),) = agent.rules.values()
    assert rule == a_rule(
        "calm",
        "udp",
        action="limit",
        limit=Limit(2000, "packets", 50, "source"),
        is_observed=False,
        priority=7,
        until_ns=4_102_444_800_000_000_000,
        owner="bob",
        src=(ip_network("198.51.100.0/24"), ip_network("2001:db8::/32")),
    )


def test_a_rule_may_last_for_a_time(agent: StandIn, drop: Drop):
    before = time.time_ns()
    drop("add", "r", "udp", "--for", "10m")
    after = time.time_ns()

    assert before <= agent.rules["r"][0].until_ns - 600 * 10**9 <= after


def test_a_rule_is_replaced_only_if_that_is_meant(agent: StandIn, drop: Drop):
    drop("add", "r", "udp")

    code, _, err = drop("add", "r", "tcp")
    assert (code, err) == (
        2,
        "hookline drop: there is a rule r already; choose another name, or --replace it\n",
    )
    assert drop("add", "r", "icmp", "--replace")[0] == 0
    assert agent.rules["r"][0].match == "icmp"


def test_what_the_agent_refuses_is_told_with_its_reasons(agent: StandIn, drop: Drop):
    code, _, err = drop("add", "r", "host 10.0.0.5", "--now")

    assert (code, err) == (
        2,
        "hookline drop: rule r means what is allowed: Kafka broker 10.0.0.5:9092\n",
    )
    assert drop("add", "r", "host 10.0.0.5", "--now", "--despite-allowed")[0] == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("add", "No", "tcp"), "'No' is no name of a rule"),
        (("add", "r", "arp"), "means no IP packet"),
        (("add", "r", "tcp", "--per", "source"), "--per needs --limit"),
        (("add", "r", "tcp", "--action", "limit"), "lacks a limit"),
        (("add", "r", "tcp", "--src-list", "/nowhere"), "cannot read /nowhere: No such file"),
        (("add", "r", "tcp", "--until", "2001-01-01"), "--until is over already"),
        (("apply", "/nowhere"), "cannot read /nowhere: No such file"),
        (("explain",), "write one of PACKET, --hex DIGITS and --pcap FILE"),
        (("simulate", "tcp", "--rule", "x"), "write one of NAME, MATCH"),
        (("show", "x"), "the agent has no rule 'x'; there are: none"),
        (("remove", "x"), "the agent has no rule 'x'"),
    ],
)
def test_what_makes_no_sense_ends_with_one_line(agent: StandIn, drop: Drop, words, said):
    code, out, err = drop(*words)

    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1
    assert not agent.rules


def test_rules_are_switched_where_they_came_from(agent: StandIn, drop: Drop):
    agent.rules = {"a": (a_rule("a"), "file"), "b": (a_rule("b"), "local")}

    assert drop("enforce", "a", "b")[:2] == (0, "a is enforced\nb is enforced\n")
    assert agent.rules == {
        "a": (a_rule("a", is_observed=False), "file"),
        "b": (a_rule("b", is_observed=False), "local"),
    }
    assert drop("observe", "a")[:2] == (0, "a is observed\n")
    assert agent.rules["a"] == (a_rule("a"), "file")


def test_a_rule_of_the_network_is_not_switched_here(agent: StandIn, drop: Drop):
    agent.rules = {"a": (a_rule("a"), "network")}

    assert "came over the network" in drop("enforce", "a")[2]


def test_rules_are_listed_in_the_order_in_which_they_are_asked(agent: StandIn, drop: Drop):
    agent.rules = {
        "late": (a_rule("late", priority=1), "local"),
        "first": (a_rule("first", "", priority=9, src=(ip_network("10.0.0.0/8"),)), "file"),
    }

    lines = drop("list")[1].splitlines()
    assert [line.split()[:4] for line in lines[1:]] == [
        ["9", "first", "observed", "drop"],
        ["1", "late", "observed", "drop"],
    ]
    assert "src in 1 networks" in lines[1]
    records = [json.loads(line) for line in drop("list", "--format", "json")[1].splitlines()]
    assert [record["name"] for record in records] == ["first", "late"]
    assert records[0]["src"] == ["10.0.0.0/8"]
    assert records[0]["hit_packets"] == 12


def test_one_rule_is_shown_with_what_of_it_passes_anyway(agent: StandIn, drop: Drop):
    agent.rules = {"a": (a_rule("a", "host 10.0.0.5", owner="ann"), "local")}

    lines = [line.split("  ", 1) for line in drop("show", "a")[1].splitlines()]
    shown = {key: value.strip() for key, value in lines}
    assert shown["match"] == "host 10.0.0.5"
    assert shown["counts since"] == "2001-09-09T01:46:40Z"
    assert shown["matched"] == "12 packets, 3,400 bytes"
    assert shown["would refuse"] == "7 packets, 700 bytes"
    assert shown["passes anyway"] == "Kafka broker 10.0.0.5:9092"


def test_what_is_allowed_is_told(agent: StandIn, drop: Drop):
    assert drop("allowed")[1].splitlines() == [
        "DHCP",
        "IPv6 neighbour discovery",
        "Kafka broker 10.0.0.5:9092",
    ]


def test_all_rules_are_removed_or_none(agent: StandIn, drop: Drop):
    agent.rules = {name: (a_rule(name), "local") for name in "ab"}

    assert drop("remove", "a", "x")[0] == 2
    assert set(agent.rules) == {"a", "b"}
    assert drop("remove", "a", "b")[:2] == (0, "removed a, b\n")
    assert not agent.rules


def test_a_file_is_applied_once_its_plan_is_agreed_to(agent: StandIn, drop: Drop, file: str):
    agent.rules = {
        "old": (a_rule("old"), "file"),
        "mine": (a_rule("mine"), "local"),
    }

    code, out, _ = drop("apply", file, "--dry-run")
    assert code == 1
    assert out.splitlines() == [
        "+ no-telnet (enforced, priority 100): drop tcp dst port 23",
        "+ scanners (observed, priority 100): drop ip and src in 2 networks",
        "- old (observed, priority 100): drop tcp port 23",
        "2 to add, 0 to change, 1 to remove",
    ]
    assert set(agent.rules) == {"old", "mine"}

    assert drop("apply", file, "--yes")[0] == 0
    assert {name: origin for name, (_, origin) in agent.rules.items()} == {
        "mine": "local",
        "no-telnet": "file",
        "scanners": "file",
    }
    assert drop("apply", file)[:2] == (0, "nothing to change\n")


def test_a_rule_of_a_file_that_has_ended_is_not_wanted_any_more(
    agent: StandIn, drop: Drop, tmp_path: Path
):
    (tmp_path / "old.yaml").write_text("rules: [{name: r, match: udp, until: 2001-01-01}]")

    assert drop("apply", str(tmp_path / "old.yaml")) == (
        0,
        "nothing to change\n",
        "r is left out: it ended 2001-01-01T00:00:00Z\n",
    )


def test_a_plan_without_anybody_to_agree_changes_nothing(
    agent: StandIn, drop: Drop, file: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))

    code, _, err = drop("apply", file)
    assert (code, "give --yes" in err) == (2, True)
    assert not agent.rules


def test_somebody_may_say_no_to_a_plan(
    agent: StandIn, drop: Drop, file: str, monkeypatch: pytest.MonkeyPatch
):
    for answer, code in (("", 1), ("n", 1), ("y", 0)):
        typed = io.StringIO(f"{answer}\n")
        typed.isatty = lambda: True  # type: ignore[method-assign]
        monkeypatch.setattr("sys.stdin", typed)

        assert drop("apply", file)[0] == code
        assert bool(agent.rules) is not code


def test_a_file_does_not_take_over_a_rule_of_somebody_else(agent: StandIn, drop: Drop, file: str):
    agent.rules = {"scanners": (a_rule("scanners"), "local")}

    code, _, err = drop("apply", file, "--yes")
    assert code == 2
    assert "there is a rule scanners already, and it is local" in err


def test_a_change_of_rules_that_have_changed_meanwhile_is_refused(
    agent: StandIn, drop: Drop, monkeypatch: pytest.MonkeyPatch
):
    agent.rules = {"a": (a_rule("a"), "local")}
    told = agent._told
    monkeypatch.setattr(agent, "_told", lambda: {**told(), "revision": 0})

    assert "the rules have changed meanwhile" in drop("remove", "a")[2]
    assert "a" in agent.rules


def test_a_list_of_more_than_a_mebibyte_reaches_the_agent(
    agent: StandIn, drop: Drop, tmp_path: Path
):
    (tmp_path / "long.txt").write_text(
        "".join(f"10.{n >> 8 & 255}.{n & 255}.{n >> 16}\n" for n in range(70_000))
    )

    assert drop("add", "long", "", "--src-list", str(tmp_path / "long.txt"))[0] == 0
    assert len(agent.rules["long"][0].src) == 70_000


def test_an_explanation_names_every_rule_that_means_the_packet(agent: StandIn, drop: Drop):
    agent.rules = {
        "watch": (a_rule("watch", priority=9), "local"),
        "no-telnet": (a_rule("no-telnet", is_observed=False, priority=8), "local"),
        "late": (a_rule("late", "tcp", is_observed=False, priority=1), "local"),
        "other": (a_rule("other", "udp"), "local"),
    }

    assert drop("explain", "tcp 10.0.0.1:1234 > 10.0.0.2:23 flags syn on eth0")[1].splitlines() == [
        "tcp 10.0.0.1:1234 > 10.0.0.2:23 flags syn on eth0 ingress",
        "decides: no-telnet (enforced, priority 8): drop tcp port 23; refuses it",
        "observed: watch (observed, priority 9): drop tcp port 23; enforced, it refuses it",
        "means it too: late (enforced, priority 1): drop tcp; comes too late",
    ]


def test_an_explanation_says_what_the_allow_list_does(agent: StandIn, drop: Drop):
    agent.rules = {"all": (a_rule("all", "tcp", is_observed=False), "local")}

    assert drop("explain", "tcp 10.0.0.5:9092 > 10.0.0.2:40000 on eth0")[1].splitlines()[1:] == [
        "passes: the allow list has Kafka broker 10.0.0.5:9092, and wins over every rule",
        "would decide: all (enforced, priority 100): drop tcp; refuses it",
    ]


def test_a_packet_may_be_explained_by_the_rules_of_a_file(drop: Drop, file: str):
    code, out, _ = drop("explain", "icmp 198.51.100.7 > 10.0.0.2 type 8 on eth0", "--file", file)

    assert code == 0
    assert out.splitlines()[1:] == [
        "passes: no enforced rule means it",
        (
            "observed: scanners (observed, priority 100): drop ip and src in 2 networks;"
            " enforced, it refuses it"
        ),
        "the allow list of the node is not asked; it wins over every rule",
    ]
