# SPDX-License-Identifier: Apache-2.0
"""The SQL of every sighting runs against the real tables, and shows the rows that made it."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest

from consumer.alerts.alert import Proposal, Sighting
from consumer.alerts.config import Config
from consumer.alerts.evidence import in_network, literal, quantity, shown
from schemas import wire
from schemas.clickhouse import DATABASE
from schemas.filter.grammar import parse
from service.options import Tables
from tests.consumer.alerts.scenes import SYN, WHOLE, batch, many, show
from tests.consumer.alerts.test_dns_tunnel import asks, data
from tests.consumer.engine import Engine

HOUR = 3600
C2 = "203.0.113.66"
VICTIM = "192.0.2.10"
UNIT = "it's \\ odd.service"


def flows(rows, **columns):
    given = {"src_addr": many(np.arange(rows), "10.0.0.0"), "dst_addr": VICTIM, **columns}
    return batch(rows=rows, **given)


def sockets(time, **columns):
    given = {"event": 5, "role": 1, "remote_addr": C2, "remote_port": 443, **columns}
    made = batch("socket", rows=5, time=time, cookie=time * 10 + np.arange(5), **given)
    made.columns["start"] = made.columns["time"] - 10**9
    return made


def ledger(time, packets, **columns):
    return batch(
        "ledger", time=float(time), end=time + 1.0, hook=3, seen_packets=packets, **columns
    )


def opens(time, peer):
    return batch("socket", time=time, event=2, role=1, remote_addr=peer, remote_port=443, unit=UNIT)


# What each detector is shown, as times and batches; it sees something at the end.
SHOWN: dict[str, Sequence[tuple[float, wire.Batch]]] = {
    "syn_flood": [(0, flows(2000, dst_port=443, tcp_flags=SYN))],
    "udp_flood": [
        (0, flows(10, protocol=17)),
        (60, flows(3000, protocol=17, packets=10, time=60.0)),
    ],
    "icmp_flood": [
        (0, flows(10, protocol=1)),
        (60, flows(3000, protocol=58, time=60.0, dst_addr="2001:db8::7")),
    ],
    "port_scan": [
        (0, flows(150, src_addr=C2, dst_port=np.arange(1, 151), tcp_flags=SYN)),
        (1, flows(150, src_addr=C2, dst_addr=many(np.arange(150)), dst_port=22, tcp_flags=SYN)),
        (2, flows(150, src_addr=C2, dst_addr=many(np.arange(150)), protocol=1, icmp_type=8)),
    ],
    "new_peer": [(0, opens(0, "198.51.100.1")), (HOUR, opens(HOUR, "2001:4860::1"))],
    "beacon": [
        (0, flows(1, src_addr="10.0.0.5", dst_addr="198.51.100.1", direction=2, tcp_flags=SYN))
    ]
    + [
        (
            at,
            flows(
                1, time=float(at), src_addr="10.0.0.5", dst_addr=C2, direction=2, tcp_flags=WHOLE
            ),
        )
        for at in range(HOUR, HOUR + 900, 60)
    ],
    "dns_tunnel": [(0, asks(data(150)))],
    "retransmits": [
        (at, sockets(at, segments_sent=1000, retransmits=0 if at < 600 else 90))
        for at in range(0, 640, 5)
    ],
    "round_trip": [
        (at, sockets(at, min_rtt_us=9000 if at < 600 else 90_000)) for at in range(0, 640, 5)
    ],
    "drop_off": [
        (at, ledger(at, 1000 if at < 600 else 1, direction=direction))
        for at in range(640)
        for direction in (1, 2)
    ],
    "agent_silent": [(0, ledger(0, 1)), (30, ledger(30, 1, node="web-2"))],
    "books": [(at, ledger(at, 1000, flow_packets=500)) for at in range(20)]
    + [(21, ledger(21, 1000, flow_packets=1000, lost_packets=5))],
}
LEARNING = Tables(
    {
        "new_peer": {"learning": 900.0},
        "beacon": {"learning": 900.0},
        "drop_off": {"history": 300.0},
    }
)


@pytest.fixture(scope="module")
def seen() -> dict[str, list[Sighting]]:
    """What each detector sees in what it is shown."""
    detectors = Config(tables=LEARNING).detectors()
    return {
        one.name: [
            sighting for at, made in SHOWN[one.name] for sighting in show(one, made, now=at + 0.9)
        ]
        for one in detectors
    }


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with Engine(tmp_path_factory.mktemp("evidence") / "db") as one:
        one.migrate()
        kinds: dict[str, list[wire.Batch]] = {}
        for name, shown_to in SHOWN.items():
            for seq, (_, made) in enumerate(shown_to):
                kinds.setdefault(made.kind, []).append(replace(made, run=name, seq=seq))
        for batches in kinds.values():
            one.store(*batches)
        yield one


@pytest.mark.services
@pytest.mark.parametrize("name", SHOWN)
def test_the_evidence_of_a_sighting_shows_its_rows(name, seen, engine):
    assert seen[name]
    for sighting in {one.fingerprint: one for one in seen[name]}.values():
        assert engine.rows(sighting.evidence), sighting.evidence


@pytest.mark.parametrize("name", SHOWN)
def test_every_sighting_says_in_one_line_what_it_is_and_can_be_told_again(name, seen):
    for one in seen[name]:
        assert "\n" not in one.summary
        assert (
            one.value <= one.threshold
            if name in ("drop_off", "beacon")
            else one.value >= one.threshold
        )
        assert one.began_ns <= one.seen_ns


@pytest.mark.parametrize("name", SHOWN)
def test_every_proposed_rule_is_a_filter_that_is_understood(name, seen):
    proposals = [one.proposal for one in seen[name] if one.proposal]

    assert bool(proposals) == (name in ("syn_flood", "udp_flood", "icmp_flood", "port_scan"))
    for proposal in proposals:
        assert parse(proposal.match)
        assert proposal.action in ("drop", "limit")
        assert isinstance(proposal, Proposal)


@pytest.mark.services
@pytest.mark.parametrize("text", ["it's", "a\\'b", "line\nend", "\\", "ünï", "'; DROP TABLE x --"])
def test_a_literal_is_the_text_that_it_was_made_of(text, engine):
    assert engine.value(f"SELECT {literal(text)}") == text


@pytest.mark.services
def test_an_address_is_in_its_network_in_sql_as_well(engine):
    def is_in(address, cidr):
        return engine.value(f"SELECT {in_network(f'toIPv6({literal(address)})', cidr)}")

    assert is_in("10.1.2.3", "10.1.2.0/24")
    assert not is_in("10.1.3.3", "10.1.2.0/24")
    assert is_in("2001:db8:0:1::1", "2001:db8::/48")
    assert not is_in("2001:db8:1::1", "2001:db8::/48")
    assert engine.value(
        f"SELECT count() FROM {DATABASE}.flows WHERE {in_network('src_addr', '10.0.0.0/8')}"
    )


def test_what_people_read_is_short_and_of_one_line():
    assert [quantity(one) for one in (0.5, 12, 150, 25_000, 3.2e6, 8e9)] == [
        *("0.5", "12", "150", "25k", "3.2M", "8G")
    ]
    assert shown("a\nb") == "a\\nb"
