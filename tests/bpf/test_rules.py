# SPDX-License-Identifier: Apache-2.0
"""Rules in the kernel decide as their text says, count what they meet, and cost what they must."""

import random
import threading
import time
from collections.abc import Iterator
from ipaddress import ip_address, ip_network

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import ICMPv6ND_NS, IPv6
from scapy.layers.l2 import ARP, GRE, Dot1Q, Ether

from schemas.packet import REFUSALS
from schemas.rules.boxes import Box
from schemas.rules.decide import Packet, decide
from schemas.rules.limit import Limit
from schemas.rules.rule import Rule
from tests.bpf.programs import loaded
from tests.bpf.rules import Draw, Judge, frame_of, mapped

pytestmark = pytest.mark.kernel

HOOKS = ("hook_xdp", "hook_ingress")
COUNTERS = ("hit_packets", "hit_bytes", "over_packets", "over_bytes")
ATTACKER, VICTIM = "203.0.113.9", "198.18.0.2"


@pytest.fixture(scope="module")
def shared_judge() -> Iterator[Judge]:
    with loaded(sample_first=False) as programs:
        yield Judge(programs)


@pytest.fixture
def judge(shared_judge: Judge) -> Iterator[Judge]:
    shared_judge.slots.clear()
    yield shared_judge
    shared_judge.put()
    shared_judge.programs.packets.drain()


def enforced(name: str = "r", match: str = f"src host {ATTACKER}", **others: object) -> Rule:
    return Rule(name=name, match=match, is_observed=False, **others)


def udp(src: str = ATTACKER, dst_port: int = 53, **others: object) -> Packet:
    return Packet(
        **{"src_addr": mapped(src), "dst_addr": mapped(VICTIM), "src_port": 1000}
        | {"dst_port": dst_port, "protocol": 17}
        | others
    )


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("seed", range(4))
def test_a_packet_meets_the_rules_that_a_reading_of_their_filters_names(judge, seed, hook):
    draw = Draw(seed)
    for _ in range(5):
        rules = [draw.rule(number) for number in range(random.Random(seed).randrange(1, 25))]
        judge.put(*rules)
        for _ in range(100):
            packet = draw.packet()
            before = {rule.name: judge.count(rule.name, "hit_packets") for rule in rules}
            is_refused = judge.is_refused(frame_of(packet), hook)
            decision = decide(rules, packet, time.time_ns())
            met = {
                rule.name
                for rule in rules
                if judge.count(rule.name, "hit_packets") > before[rule.name]
            }
            named = {one.name for one in (decision.deciding, decision.observed) if one}
            assert (met, is_refused) == (
                named,
                decision.deciding is not None and decision.deciding.action == "drop",
            ), (packet, [rule for rule in rules if rule.name in met | named])


@pytest.mark.parametrize("hook", HOOKS)
def test_what_is_refused_is_booked_to_the_byte_and_its_headers_are_kept(judge, hook):
    judge.put(enforced())
    books = [judge.programs.total(name) for name in ("dropped_packets", "dropped_bytes")]
    seen = judge.programs.total("seen_packets")
    frame = frame_of(udp(), payload_bytes=100)
    before = [judge.count("r", name) for name in COUNTERS]
    assert [judge.is_refused(frame, hook) for _ in range(3)] == [True] * 3
    assert not judge.is_refused(frame_of(udp("203.0.113.10")), hook)
    counted = [judge.count("r", name) - was for name, was in zip(COUNTERS, before, strict=True)]
    assert counted == [3, 3 * len(frame)] * 2
    assert judge.programs.total("dropped_packets") - books[0] == 3
    assert judge.programs.total("dropped_bytes") - books[1] == 3 * len(frame)
    assert judge.programs.total("seen_packets") - seen == 4
    event = judge.programs.packets.drain()[0]
    assert event["reason"] == REFUSALS["refused"]
    assert event["rule_slot"] == judge.slots["r"]
    assert bytes(event["header"])[: event["header_bytes"]] == frame[:96]


def test_an_observed_rule_counts_what_it_would_refuse_and_changes_nothing(judge):
    judge.put(Rule(name="r", match=f"src host {ATTACKER}"))
    before = judge.count("r", "over_packets")
    assert not judge.is_refused(frame_of(udp()))
    assert judge.count("r", "over_packets") - before == 1
    assert judge.programs.packets.drain()[0]["reason"] == REFUSALS["observed"]


def test_the_headers_of_a_flood_are_kept_now_and_then(judge):
    judge.put(enforced())
    frame = frame_of(udp())
    started = time.monotonic()
    judge.programs.run(frame, hook="hook_xdp", repeat=20_000)
    ticks = (time.monotonic() - started) * 1e9 / judge.anchor.tick_ns
    assert 1 <= len(judge.programs.packets.drain()) <= 2 + ticks / 4


def test_a_rule_ends_in_the_kernel_at_its_time_though_nobody_removes_it(judge):
    until_ns = time.time_ns() + 300_000_000
    judge.put(enforced("ends", until_ns=until_ns), enforced("stays", "udp dst port 99"))
    frame = frame_of(udp())
    assert judge.is_refused(frame)
    while judge.is_refused(frame):
        assert time.time_ns() < until_ns + 100_000_000
    assert time.time_ns() >= until_ns
    assert judge.is_refused(frame_of(udp(dst_port=99)))


def test_rules_behind_one_that_has_ended_count_again(judge):
    past = time.time_ns() - 1
    ended = [enforced(f"a{n}", "udp and dst port 53", until_ns=past) for n in range(10)]
    judge.put(*ended, enforced("b", "udp and dst portrange 50-60"))
    assert judge.is_refused(frame_of(udp()))


def test_a_limit_lets_its_rate_pass_and_refuses_what_is_beyond(judge):
    judge.put(enforced("r", "udp", action="limit", limit=Limit.parse("100/s")))
    frame = frame_of(udp())
    started = time.monotonic()
    passed = sum(not judge.is_refused(frame) for _ in range(3000))
    seconds = time.monotonic() - started
    # A burst of a second's worth, and the rate meanwhile.
    assert 100 <= passed <= 102 + 100 * seconds


def test_a_limit_by_bytes_prices_each_packet_by_its_length(judge):
    limit = Limit(rate=100_000, unit="bytes", burst=20_000, per="rule")
    judge.put(enforced("r", "udp", action="limit", limit=limit))
    frame = frame_of(udp(), payload_bytes=1000)
    started = time.monotonic()
    passed = sum(not judge.is_refused(frame) for _ in range(300))
    seconds = time.monotonic() - started
    assert 20_000 // len(frame) <= passed <= (20_000 + 100_000 * seconds) // len(frame) + 2


def test_where_every_source_has_its_own_limit_one_that_floods_costs_others_nothing(judge):
    limit = Limit(rate=10, unit="packets", burst=5, per="source")
    judge.put(enforced("r", "udp", action="limit", limit=limit))
    judge.programs.run(frame_of(udp()), hook="hook_xdp", repeat=1000)
    assert judge.is_refused(frame_of(udp()))
    assert not judge.is_refused(frame_of(udp("203.0.113.77")))


def test_the_allow_list_comes_before_any_rule(judge):
    judge.put(
        enforced("all", "ip", priority=65535),
        allowed=[Box(src=((mapped(ATTACKER), 128),))],
    )
    assert not judge.is_refused(frame_of(udp()))
    assert judge.is_refused(frame_of(udp("203.0.113.10")))


def test_the_allow_list_lets_go_what_a_rule_for_an_address_alone_would_refuse(judge):
    judge.put(enforced(), allowed=[Box(protocols=1 << 17, dst_ports=1 << 67)])
    assert not judge.is_refused(frame_of(udp(dst_port=67)))
    assert judge.is_refused(frame_of(udp(dst_port=68)))
    assert not judge.is_refused(frame_of(udp("203.0.113.10", dst_port=68)))


def test_a_set_that_needs_many_chunks_of_memory_gives_them_back(judge):
    draw = random.Random(1)
    hosts = sorted({draw.randrange(1 << 24, 223 << 24) for _ in range(30_000)})
    judge.put(enforced("list", "", src=tuple(ip_network(host) for host in hosts)))
    for host in draw.sample(hosts, 20):
        assert judge.is_refused(frame_of(udp(str(ip_address(host)))))
    for _ in range(2):
        judge.put(enforced())
        assert judge.is_refused(frame_of(udp()))
        assert not judge.is_refused(frame_of(udp(str(ip_address(hosts[0])))))


@pytest.mark.parametrize("hook", HOOKS)
def test_neighbours_are_found_whatever_rules_say(judge, hook):
    judge.put(enforced("all", "ip or ip6"))
    link = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    solicitation = IPv6(src="fe80::1", dst="fe80::2", hlim=255) / ICMPv6ND_NS(tgt="fe80::2")
    assert not judge.is_refused(bytes(link / ARP(pdst="198.18.0.1") / bytes(18)), hook)
    assert not judge.is_refused(bytes(link / solicitation), hook)
    # From further away, a router would have counted it down.
    solicitation[IPv6].hlim = 64
    assert judge.is_refused(bytes(link / solicitation), hook)


@pytest.mark.parametrize("hook", HOOKS)
def test_rules_see_what_is_behind_two_tags_and_in_tunnels(judge, hook):
    judge.put(enforced("r", "udp and dst port 53 and vlan 7"))
    inner = IP(src=ATTACKER, dst=VICTIM) / UDP(dport=53)
    link = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    outer = IP(src="198.18.0.7", dst="198.18.0.8")
    assert judge.is_refused(bytes(link / Dot1Q(vlan=7) / Dot1Q(vlan=9) / inner), hook)
    assert not judge.is_refused(bytes(link / Dot1Q(vlan=8) / Dot1Q(vlan=7) / inner), hook)
    assert judge.is_refused(bytes(link / Dot1Q(vlan=7) / outer / GRE() / inner), hook)


def test_a_hundred_thousand_prefixes_are_all_known(judge):
    networks = tuple(ip_network((0x0B000000 + (n << 7), 25)) for n in range(99_999))
    judge.put(enforced("list", "", src=networks), enforced("one", "src host 11.0.0.130"))
    draw = random.Random(1)
    for number in [0, 1, *draw.sample(range(99_999), 50)]:
        host = str(networks[number][draw.randrange(128)])
        assert judge.is_refused(frame_of(udp(host))), host
    assert not judge.is_refused(frame_of(udp("10.255.255.255")))
    assert not judge.is_refused(frame_of(udp(str(networks[-1][-1] + 1))))


def test_a_network_around_all_ipv4_holds_for_ipv4_as_well(judge):
    judge.put(enforced(match="not src net 2001:db8::/32"), enforced("one", "src host 10.0.0.1"))
    assert judge.is_refused(frame_of(udp()))
    assert judge.is_refused(frame_of(udp("10.0.0.1")))
    assert not judge.is_refused(frame_of(udp("2001:db8::1", version=6, dst_addr=mapped("fd00::1"))))


def test_rules_are_replaced_from_one_packet_to_the_next(judge):
    """What both sets refuse is refused at any moment between them."""
    frame = frame_of(udp())
    stop = threading.Event()
    passed = []

    def send() -> None:
        while not stop.is_set():
            if not judge.is_refused(frame):
                passed.append(1)

    judge.put(enforced())
    sender = threading.Thread(target=send)
    sender.start()
    for number in range(20):
        others = [enforced(f"o{number}-{n}", f"src host 192.0.2.{n}") for n in range(number)]
        judge.put(*others, enforced(match="udp and dst port 53" if number % 2 else "udp"))
    stop.set()
    sender.join()
    assert not passed
