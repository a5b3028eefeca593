# SPDX-License-Identifier: Apache-2.0
"""`hookline drop simulate` tells what a rule would have refused of what is in the history."""

import json
import random
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_network
from pathlib import Path

import pytest

from hookline import remote
from hookline.cli import main
from hookline.drop.lists import conditions_of
from hookline.drop.simulation import Period, outcome
from hookline.history import History, open_history
from schemas.rules.allow import Allowed
from schemas.rules.boxes import sides_of
from schemas.rules.intervals import is_within
from schemas.rules.limit import Limit
from tests.hookline.drop_agent import StandIn, standing_in
from tests.schemas.rules.packets import a_rule
from tests.services.served_history import served_history

pytestmark = pytest.mark.services
Simulate = Callable[..., tuple[int, str, str]]
# Beginning of a slot of ten seconds, so that rows of a second are in one of them.
NOW = int(time.time()) // 10 * 10
COLUMNS = (
    "time, end, node, interface, direction, src_addr, dst_addr, src_port, dst_port, protocol,"
    " ethertype, tunnel, packets, bytes, tcp_flags, command, unit"
)


def _row(
    src: str,
    dst_port: int,
    packets: int,
    *,
    protocol: int = 6,
    ethertype: int = 0x0800,
    second: int = 0,
    tunnel: str = "none",
    flags: int = 2,
    command: str = "",
) -> str:
    mapped = src if ":" in src else f"::ffff:{src}"
    times = f"toDateTime64({NOW + second}, 9), toDateTime64({NOW + second + 1}, 9)"
    return (
        f"({times}, 'alpha', 'eth0', 'ingress', '{mapped}', '::ffff:10.0.0.2', 40000, {dst_port},"
        f" {protocol}, {ethertype}, '{tunnel}', {packets}, {packets * 100}, {flags}, '{command}', '')"
    )


ROWS = (
    _row("198.51.100.7", 23, 30, command="telnetd"),
    _row("198.51.100.7", 23, 10, second=10, command="telnetd"),
    _row("203.0.113.1", 23, 5, command="nc"),
    _row("203.0.113.1", 443, 100),
    _row("2001:db8::1", 443, 50, ethertype=0x86DD),
    _row("198.51.100.7", 0, 7, protocol=1, flags=0),
    _row("::", 0, 3, protocol=0, ethertype=0x0806, flags=0),
    _row("198.51.100.9", 24, 2, tunnel="gre"),
    _row("::", 0, 1, protocol=0, ethertype=0, flags=0),
    _row("203.0.113.9", 8, 4, second=-7200),
)
ALL_PACKETS = 30 + 10 + 5 + 100 + 50 + 7 + 3 + 2 + 1 + 4
JUDGED_PACKETS = ALL_PACKETS - 3 - 1


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """The directory of a history that is served, and of one that nobody holds."""
    places = [tmp_path_factory.mktemp(name) for name in ("served", "left")]
    insert = f"sql INSERT INTO hookline.flows ({COLUMNS}) VALUES {', '.join(ROWS)}"
    with served_history(places[1]) as left:
        assert left.tell(insert) == "done"
    with served_history(places[0]) as served:
        assert served.tell(insert) == "done"
        yield places[0], places[1]


@pytest.fixture(scope="module", params=["served", "left behind"])
def history(request: pytest.FixtureRequest, stored: tuple[Path, Path]) -> Iterator[History]:
    with open_history(data=stored[request.param != "served"], url=None) as opened:
        yield opened


@pytest.fixture
def simulate(stored: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> Simulate:
    def run(*words: str) -> tuple[int, str, str]:
        code = main(["drop", "simulate", "--data", str(stored[0]), *words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def test_a_rule_would_have_refused_the_rows_that_it_means(history: History):
    found = outcome(history, a_rule(match="tcp dst port 23"), Period())

    assert (found.flows, found.packets, found.bytes) == (2, 45, 4500)
    assert (found.refused_packets, found.refused_bytes) == (45, 4500)
    assert (found.first_ns, found.last_ns) == (NOW * 10**9, (NOW + 11) * 10**9)
    assert found.names["process"] == {"telnetd": 40, "nc": 5}
    assert found.names["peer"] == {"198.51.100.7": 40, "203.0.113.1": 5}
    assert found.names["port"] == {"6 23": 45}


def test_rules_mean_ip_packets_alone_and_those_in_tunnels(history: History):
    assert outcome(history, a_rule(match="not port 443"), Period()).packets == JUDGED_PACKETS - 150
    assert outcome(history, a_rule(match=""), Period()).packets == JUDGED_PACKETS


def test_a_rule_that_passes_refuses_nothing(history: History):
    found = outcome(history, a_rule(match="tcp dst port 23", action="pass"), Period())

    assert (found.packets, found.refused_packets) == (45, 0)


def test_what_is_older_does_not_count(history: History):
    assert outcome(history, a_rule(match="tcp dst port 8"), Period()).packets == 4
    assert outcome(history, a_rule(match="tcp dst port 8"), Period(since=3600)).packets == 0


def test_other_nodes_do_not_count(history: History):
    assert outcome(history, a_rule(match="tcp dst port 23"), Period(node="alpha")).packets == 45
    assert outcome(history, a_rule(match="tcp dst port 23"), Period(node="beta")).packets == 0


def test_a_limit_refuses_what_is_above_it_in_a_slot(history: History):
    def limited(limit: Limit) -> tuple[int, int]:
        rule = a_rule(match="tcp dst port 23", action="limit", limit=limit)
        found = outcome(history, rule, Period())
        return found.refused_packets, found.refused_bytes

    # Two slots, with 35 packets of two sources, and with 10 of one.
    assert limited(Limit(2)) == (15, 1500)
    assert limited(Limit(2, per="source")) == (10, 1000)
    assert limited(Limit(300, "bytes")) == (5, 500)
    assert limited(Limit(4)) == (0, 0)


def test_lists_are_joined_to_the_match(history: History):
    rule = a_rule(
        match="tcp",
        src=(ip_network("198.51.100.0/24"), ip_network("2001:db8::/32")),
        dst=(ip_network("10.0.0.2/32"),),
    )

    assert outcome(history, rule, Period()).packets == 92
    assert (
        outcome(history, a_rule(match="", src=(ip_network("0.0.0.0/0"),)), Period()).packets
        == JUDGED_PACKETS - 50
    )
    assert outcome(history, a_rule(match="", src=(ip_network("::/0"),)), Period()).packets == 50


def test_a_list_of_tens_of_thousands_of_networks_is_asked_in_few_questions(
    stored: tuple[Path, Path],
):
    draw = random.Random(7)
    networks = [ip_network((draw.getrandbits(32) & ~255, 24)) for _ in range(20_000)]
    networks += [ip_network((0x20 << 120 | draw.getrandbits(56) << 64, 64)) for _ in range(20_000)]
    rule = a_rule(match="", src=(*networks, ip_network("203.0.113.1"), ip_network("2001:db8::1")))
    started = time.monotonic()

    with open_history(data=stored[0], url=None) as served:
        found = outcome(served, rule, Period(), has_names=False)

    assert time.monotonic() - started < 20  # on a busy machine
    assert found.packets >= 155
    addresses = sides_of(rule.src)
    assert 1 < len(conditions_of("flows.src_addr", addresses)) < 6
    others = {
        "198.51.100.7": 47,
        "198.51.100.9": 2,
        "203.0.113.1": 105,
        "2001:db8::1": 50,
        "203.0.113.9": 4,
    }
    assert found.packets == sum(
        packets for text, packets in others.items() if is_within(_mapped(text), addresses)
    )


def _mapped(text: str) -> int:
    return sides_of((ip_network(text),))[0][0]


def test_every_piece_of_a_list_fits_and_no_address_is_in_two(history: History):
    draw = random.Random(11)
    lengths = [8, 15, 16, 24, 31, 32]
    networks = [
        ip_network((draw.getrandbits(32), draw.choice(lengths)), strict=False) for _ in range(300)
    ]
    prefixes = sides_of(tuple(networks))
    pieces = conditions_of("flows.src_addr", prefixes, most=1000)
    addresses = [draw.getrandbits(32) for _ in range(500)]
    mapped = [0xFFFF << 32 | address for address in addresses]
    listed = ", ".join(f"toIPv6(toIPv4({address}))" for address in addresses)

    held = [0] * len(mapped)
    for piece in pieces:
        assert len(piece) <= 1100
        sql = f"SELECT {piece} FROM (SELECT arrayJoin([{listed}]) AS src_addr) AS flows"
        for at, (is_in,) in enumerate(history.rows(sql).rows):
            held[at] += int(is_in)

    assert len(pieces) > 1
    assert held == [is_within(address, prefixes) for address in mapped]
    assert 0 < sum(held) < len(held)


def test_the_outcome_is_told_with_its_shares_and_what_to_know(simulate: Simulate):
    code, out, _ = simulate("tcp dst port 23 and flag syn", "--limit", "2/s", "--since", "all")

    assert code == 0
    lines = [" ".join(line.split()) for line in out.splitlines()]
    share = 100 * 45 / ALL_PACKETS
    assert lines[0] == ("tried (observed, priority 100): limit 2/s: tcp dst port 23 and flag syn")
    assert lines[1] == "would have limited:"
    assert f"packets 45, {share:.3g} % of all" in lines
    assert "above the limit about 15 packets, 1,500 bytes" in lines
    assert "telnetd 40 4.00 k 88.9 %" in lines
    assert "tcp 23 45 4.50 k 100 %" in lines
    assert lines[-4].startswith("a row holds the TCP flags of all its packets")
    assert lines[-3].startswith("what is above the limit is an estimate: 10 s at a time")
    assert lines[-2].startswith("1 packets are left out: their rows are totals")
    assert lines[-1].startswith("what the allow list of a node lets pass is not in the history")


def test_a_rule_that_means_nothing_says_so(simulate: Simulate):
    _, out, _ = simulate("tcp dst port 7", "--since", "all")

    assert "packets  0, 0 % of all" in out
    assert "process" not in out


def test_programs_get_one_object_a_rule(simulate: Simulate):
    _, out, _ = simulate("tcp dst port 23", "--since", "all", "--format", "json", "--top", "1")

    record = json.loads(out)
    assert record["packets"] == record["refused_packets"] == 45
    assert record["all_packets"] == ALL_PACKETS
    assert record["left_out_packets"] == 1
    assert record["process"] == [{"name": "telnetd", "packets": 40, "bytes": 4000}]


def test_every_rule_of_a_file_is_tried(simulate: Simulate, tmp_path: Path):
    (tmp_path / "rules.yaml").write_text(
        "rules:\n"
        "  - {name: telnet, match: tcp dst port 23}\n"
        "  - {name: web, match: tcp dst port 443, action: pass, priority: 200}\n"
    )

    _, out, _ = simulate("--file", str(tmp_path / "rules.yaml"), "--since", "all")
    assert [line.split()[:4] for line in out.splitlines()[1:3]] == [
        ["web", "pass", "2", "150"],
        ["telnet", "drop", "2", "45"],
    ]


def test_a_rule_of_the_agent_is_tried_beside_what_that_allows(
    simulate: Simulate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(remote, "LOCKS", tmp_path)
    allowed = Allowed(networks=(ip_network("203.0.113.0/24"),))
    agent = StandIn(allowed, {"no-telnet": (a_rule("no-telnet", "tcp dst port 23"), "local")})

    with standing_in(tmp_path / "agent.sock", agent):
        code, out, _ = simulate("no-telnet", "--since", "all")

    assert code == 0
    assert out.startswith("no-telnet (observed, priority 100): drop tcp dst port 23\n")
    assert out.splitlines()[-1] == (
        "more passes than this says: the agent here allows management network 203.0.113.0/24"
    )


def test_a_rule_and_its_negation_mean_everything(history: History):
    rules = [a_rule(match=match) for match in ("tcp port 23", "not tcp port 23")]

    assert sum(outcome(history, rule, Period()).packets for rule in rules) == JUDGED_PACKETS
