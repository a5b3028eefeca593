# SPDX-License-Identifier: Apache-2.0
"""An agent keeps rules: what they refuse goes no further, is booked, and stays refused."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from agent.control import socket_path
from schemas.refusal import STATES, VERDICTS
from schemas.rules.rule import Rule
from service.messages import Message, receive, send
from tests.lab.agents import Agent, agent, remove_pins
from tests.lab.links import Link, link
from tests.lab.published import read_published
from tests.lab.waiting import wait_until

pytestmark = pytest.mark.kernel

PORT = 4242


@pytest.fixture(scope="module")
def line(lab: None) -> Iterator[Link]:
    """A link that tests share which leave nothing on it."""
    with link() as made:
        yield made


@pytest.fixture(scope="module")
def shared(line: Link) -> Iterator[Agent]:
    with agent("--interface", line.near.name) as started:
        yield started
        started.stop()


@pytest.fixture
def ruled(shared: Agent) -> Iterator[Agent]:
    """An agent without rules, whatever others gave it."""
    yield shared
    names = [one["name"] for one in ask(shared, do="rules")["rules"]]
    ask(shared, do="rules-change", remove=names)


def ask(started: Agent, **order: object) -> Message:
    """What the agent answers to one order."""
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(socket_path(started.name)))
        send(peer, {"v": 1, **order})
        answer, _ = receive(peer)
        return answer


def put(started: Agent, *rules: Rule, **others: object) -> Message:
    messages = [rule.to_message() for rule in rules]
    return ask(started, do="rules-change", put=messages, **others)


def rule(name: str = "r", match: str = f"udp and dst port {PORT}", **others: object) -> Rule:
    return Rule(name=name, match=match, **{"is_observed": False} | others)


@contextmanager
def listening(link: Link) -> Iterator[socket.socket]:
    """A server at the near end."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((link.near.ipv4, PORT))
        server.settimeout(0.3)
        yield server


def sends(link: Link, count: int, port: int = PORT) -> None:
    """So many datagrams from the far end."""
    link.far.namespace.run(
        "python3",
        "-c",
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        f"for _ in range({count}): s.sendto(b'x' * 100, ('{link.near.ipv4}', {port}))",
    )


def received(server: socket.socket) -> int:
    count = 0
    try:
        while True:
            server.recv(2000)
            count += 1
    except TimeoutError:
        return count


@pytest.mark.parametrize("hook", ["xdp", "tc"])
def test_what_a_rule_refuses_never_arrives_and_all_books_say_how_much_it_was(wire, kafka, hook):
    with agent("--interface", wire.near.name, "--hook", hook, kafka=kafka) as started:
        with listening(wire) as server:
            sends(wire, 10)
            assert received(server) == 10
            assert put(started, rule(owner="alice", reason="test"))["ok"]
            sends(wire, 50)
            assert received(server) == 0
            (told,) = ask(started, do="rules")["rules"]
            assert (told["hit_packets"], told["over_packets"]) == (50, 50)
            assert ask(started, do="rules-change", remove=["r"])["ok"]
            sends(wire, 10)
            assert received(server) == 10
        started.stop()
    published = read_published(kafka, started.name)
    dropped = [int(published.column("ledger", f"dropped_{what}").sum()) for what in COUNTS]
    assert dropped == [50, 50 * 142]
    rows = {
        name: published.column("rule", name)
        for name in ("state", "over_packets", "over_bytes", "owner", "why")
    }
    assert int(rows["over_packets"][-1]) == 50
    assert int(rows["over_bytes"][-1]) == 50 * 142
    assert rows["state"].tolist()[-1] == STATES["removed"]
    assert (rows["owner"][-1], rows["why"][-1]) == ("alice", "test")
    assert set(published.column("drop", "rule")) == {"r"}
    assert set(published.column("drop", "verdict")) == {VERDICTS["refused"]}
    assert set(published.column("drop", "dst_port")) == {PORT}
    # The hook saw them, so flows and interface count them as well.
    assert published.sums("ingress") == published.sums("ingress", kind="ledger")


COUNTS = ("packets", "bytes")


def test_what_is_sent_is_refused_by_the_same_rules(line, ruled):
    put(ruled, rule(match=f"egress and udp dst port {PORT}"))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _ in range(5):
            # What a tc hook refuses, the sender is told of.
            with suppress(OSError):
                sock.sendto(b"x", (line.far.ipv4, PORT))
    (told,) = ask(ruled, do="rules")["rules"]
    assert told["over_packets"] == 5


def test_a_new_rule_that_is_observed_lets_everything_pass(line, ruled):
    with listening(line) as server:
        put(ruled, rule(is_observed=True))
        sends(line, 20)
        assert received(server) == 20
    (told,) = ask(ruled, do="rules")["rules"]
    assert (told["state"], told["over_packets"]) == ("observed", 20)


def test_rules_stay_in_force_without_an_agent_and_are_the_next_ones(wire):
    first = Agent("--interface", wire.near.name, "--on-stop", "keep").until_ready()
    try:
        put(first, rule())
        with listening(wire) as server:
            sends(wire, 5)
            first.kill()
            sends(wire, 7)
            with agent("--interface", wire.near.name, name=first.name) as second:
                sends(wire, 9)
                assert received(server) == 0
                (told,) = ask(second, do="rules")["rules"]
                assert (told["name"], told["over_packets"]) == ("r", 21)
                second.stop()
    finally:
        remove_pins(first)


def test_a_rule_ends_at_its_time_whether_an_agent_runs_or_not(wire):
    first = Agent("--interface", wire.near.name, "--on-stop", "keep").until_ready()
    try:
        until_ns = time.time_ns() + 1_500_000_000
        put(first, rule(until_ns=until_ns))
        first.kill()
        with listening(wire) as server:
            sends(wire, 5)
            assert received(server) == 0
            wait_until(lambda: time.time_ns() > until_ns + 20_000_000, "the rule to end")
            sends(wire, 5)
            assert received(server) == 5
    finally:
        remove_pins(first)


def test_rules_that_have_ended_are_gone_and_their_last_counts_are_told(wire, kafka):
    with agent("--interface", wire.near.name, kafka=kafka) as started:
        put(started, rule(until_ns=time.time_ns() + 2_500_000_000))
        sends(wire, 3)
        wait_until(lambda: not ask(started, do="rules")["rules"], "the rule to be gone")
        started.stop()
    published = read_published(kafka, started.name)
    assert published.column("rule", "state").tolist()[-1] == STATES["expired"]
    assert int(published.column("rule", "over_packets")[-1]) == 3


def test_a_rule_of_one_interface_leaves_others_alone(line, ruled):
    with listening(line) as server:
        put(ruled, rule(match=f"udp and interface no{line.near.name}"))
        sends(line, 5)
        assert received(server) == 5
        put(ruled, rule(match=f"udp and interface {line.near.name[:3]}*"))
        sends(line, 5)
        assert received(server) == 0


def test_what_the_operator_protects_no_rule_cuts_off(wire):
    flags = ("--interface", wire.near.name, "--never-drop", f"{wire.far.ipv4}/32")
    with agent(*flags) as started, listening(wire) as server:
        refused = put(started, rule(match=f"src host {wire.far.ipv4}"))
        assert refused["code"] == 2
        assert f"management network {wire.far.ipv4}/32" in refused["error"]
        assert put(started, rule(match=f"src host {wire.far.ipv4}"), despite_allowed=True)["ok"]
        sends(wire, 5)
        assert received(server) == 5
        started.stop()


def test_a_rule_that_would_cut_off_the_broker_is_refused_with_the_reason(ruled):
    # NOWHERE is the broker of this test's agent.
    refused = put(ruled, rule(match="tcp and host 127.0.0.1"))
    assert refused["code"] == 2
    assert "Kafka broker 127.0.0.1:9" in refused["error"]


@pytest.mark.parametrize(
    "change",
    [
        {"put": [rule("b").to_message(), rule("c").to_message() | {"match": "nonsense"}]},
        {"put": [rule("b").to_message()], "remove": ["nobody"]},
        {"put": [rule("b").to_message()], "revision": 4711},
        {"put": [rule("b").to_message()] * 2},
        {"put": [rule("b").to_message()], "from": "network"},
        {"put": 7},
    ],
    ids=["a bad one", "one that is not there", "another revision", "twice", "no origin", "none"],
)
def test_a_change_applies_as_a_whole_or_not_at_all(ruled, change):
    put(ruled, rule("a"))
    answer = ask(ruled, do="rules-change", **change)
    assert answer["code"] == 2, answer
    assert "\n" not in answer["error"]
    assert [one["name"] for one in ask(ruled, do="rules")["rules"]] == ["a"]


def test_a_rule_whose_maps_have_gone_begins_to_count_anew_and_loses_nothing(wire, kafka):
    first = Agent("--interface", wire.near.name, kafka=kafka).until_ready()
    put(first, rule(reason="stays"))
    sends(wire, 5)
    assert first.stop() == 0  # which detaches
    with agent("--interface", wire.near.name, kafka=kafka, name=first.name) as second:
        sends(wire, 3)
        (told,) = ask(second, do="rules")["rules"]
        assert (told["reason"], told["over_packets"]) == ("stays", 3)
        second.stop()
    published = read_published(kafka, first.name)
    counts = dict[int, int]()
    for since, over in zip(
        published.column("rule", "since"), published.column("rule", "over_packets"), strict=True
    ):
        counts[int(since)] = max(counts.get(int(since), 0), int(over))
    assert sorted(counts.values()) == [3, 5]
    assert int(published.column("ledger", "dropped_packets").sum()) == 8
