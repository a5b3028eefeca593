# SPDX-License-Identifier: Apache-2.0
"""DNS messages and ClientHellos are found in packets, however those are cut."""

import random
from collections.abc import Iterator
from itertools import count, pairwise

import numpy as np
import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from agent.buffers import open_buffer, take
from agent.clock import Anchor
from agent.interfaces import Interface
from agent.names import DnsReader, TlsReader
from agent.points import number_points
from agent.ring import RingBuffer
from schemas.dns import DNS_EVENT
from schemas.dtype import dtype_from_layout
from schemas.tls import TLS_CHUNK_BYTES, TLS_EVENT, TLS_HELLO_BYTES
from tests.agent.dns_messages import message, question, wire_name
from tests.agent.tls_hellos import HYBRID_KEY_BYTES, alpn, hello, key_share, real, server_name
from tests.bpf.programs import Programs, loaded
from tests.schemas.batches import plain_texts

POINTS = number_points([Interface("veth0", 1, is_up=True, link_bytes=14, is_hardware=False)])
NOW = Anchor(jiffies=0, monotonic_ns=1 << 62, wall_ns=1 << 62, tick_ns=1)
RING_BYTES = 1 << 20
CLIENT, SERVER = "192.0.2.1", "192.0.2.53"
CLIENT_6, SERVER_6 = "2001:db8::1", "2001:db8::53"
# Given, because scapy would ask the network for them otherwise.
LINK = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
client_ports = count(20_000)
HOOKS = ("hook_xdp", "hook_ingress", "hook_egress")


class Names:
    """Programs that copy names out, and readers of what they copy."""

    def __init__(self, programs: Programs) -> None:
        self.programs = programs
        self.rejected: list[int] = []
        plan = programs.plan
        self.buffers = {
            "dns": open_buffer(plan.pins, plan.sizes, "dns", DNS_EVENT),
            "tls": open_buffer(plan.pins, plan.sizes, "tls", TLS_EVENT),
        }
        self.start_anew()

    def start_anew(self) -> None:
        for buffer in self.buffers.values():
            take(buffer)
        self.rejected.clear()
        self.dns_reader = DnsReader(self.rejected.extend)
        self.tls_reader = TlsReader(self.rejected.extend)

    def run(self, frame: Ether, hook: str = "hook_ingress") -> None:
        self.programs.run(bytes(frame), hook=hook)

    def dns(self) -> dict[str, list]:
        return _plain(self.dns_reader.columns(take(self.buffers["dns"]), POINTS, NOW))

    def tls(self, *, is_last: bool = True) -> dict[str, list]:
        self.tls_reader.is_last = is_last
        return _plain(self.tls_reader.columns(take(self.buffers["tls"]), POINTS, NOW))


def _plain(columns) -> dict[str, list]:
    texts = ("query_name", "server_name", "alpn")
    return {
        name: [text.decode() for text in plain_texts(column)] if name in texts else column.tolist()
        for name, column in columns.items()
        if name not in ("interface", "src_addr", "dst_addr")
    }


@pytest.fixture(scope="module", params=["ring", "perf"])
def both(request) -> Iterator[Names]:
    with loaded(
        dns_ports=(53, 5353), tls=True, buffer=request.param, ring_bytes=RING_BYTES
    ) as programs:
        yield Names(programs)


@pytest.fixture
def names(both: Names) -> Names:
    both.start_anew()
    return both


def ask(name: bytes, **changes) -> bytes:
    return message(question(wire_name(*name.split(b"."))), **changes)


def over_udp(payload: bytes, *, port: int = 53, is_ipv6: bool = False) -> Ether:
    ip = IPv6(src=CLIENT_6, dst=SERVER_6) if is_ipv6 else IP(src=CLIENT, dst=SERVER)
    return LINK / ip / UDP(sport=40_000, dport=port) / Raw(payload)


def segments(*payloads: bytes, port: int = 53, sequence: int = 0, options=()) -> Iterator[Ether]:
    """One direction of a new connection, whose payload is cut like this."""
    client = next(client_ports)
    for payload in payloads:
        tcp = TCP(sport=client, dport=port, flags="PA", seq=sequence % (1 << 32), options=options)
        yield LINK / IP(src=CLIENT, dst=SERVER) / tcp / Raw(payload)
        sequence += len(payload)


def cut(stream: bytes, *places: int) -> list[bytes]:
    return [stream[one:other] for one, other in pairwise((0, *places, len(stream)))]


def prefixed(*messages: bytes) -> bytes:
    return b"".join(len(one).to_bytes(2, "big") + one for one in messages)


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("is_ipv6", [False, True])
def test_a_message_over_udp_is_a_row(names, hook, is_ipv6):
    names.run(over_udp(ask(b"www.example.org", ident=77), is_ipv6=is_ipv6), hook)

    rows = names.dns()

    assert rows["query_name"] == ["www.example.org"]
    assert (rows["id"], rows["query_type"], rows["is_malformed"]) == ([77], [1], [0])
    assert (rows["src_port"], rows["dst_port"], rows["protocol"]) == ([40_000], [53], [17])
    assert rows["message_bytes"] == [33]
    assert rows["direction"] == [2 if hook == "hook_egress" else 1]


def test_other_ports_carry_no_names_and_those_that_are_wanted_do(names):
    for port in (52, 54, 5353, 13_568):  # 53 in the other byte order
        names.run(over_udp(ask(b"port-%d" % port), port=port))

    assert names.dns()["query_name"] == ["port-5353"]


def test_a_response_is_known_by_its_source_port(names):
    back = over_udp(ask(b"www.example.org", flags=0x8180))
    back[IP].src, back[IP].dst = SERVER, CLIENT
    back[UDP].sport, back[UDP].dport = 53, 40_000

    names.run(over_udp(ask(b"www.example.org")))
    names.run(back, "hook_egress")

    rows = names.dns()
    assert rows["is_response"] == [0, 1]
    assert rows["latency_ns"][0] == 0
    assert 0 < rows["latency_ns"][1] < 10**10


def test_the_padding_of_a_short_frame_is_no_message(names):
    (syn,) = segments(b"", port=53)
    names.run(bytes(syn) + bytes(6))
    short = over_udp(b"\0" * 3)
    names.run(bytes(short) + bytes(20))

    assert names.dns()["id"] == []
    # Not even a header; but it is one message, and it is counted.
    assert len(names.rejected) == 1


@pytest.mark.parametrize("hook", HOOKS)
def test_several_messages_in_one_segment_are_a_row_each(names, hook):
    stream = prefixed(*(ask(b"name-%d.example" % number) for number in range(10)))

    for segment in segments(stream):
        names.run(segment, hook)

    assert names.dns()["query_name"] == [f"name-{number}.example" for number in range(10)]


def test_more_messages_than_a_packet_has_usually_are_lost_and_counted(names):
    before = names.programs.total("lost_dns_messages")
    stream = prefixed(*(ask(b"n%d" % number) for number in range(20)))

    for segment in segments(stream, ask(b"a.example")):
        names.run(segment)

    assert len(names.dns()["query_name"]) >= 16
    assert names.programs.total("lost_dns_messages") == before + 1


def test_a_message_is_found_behind_one_that_is_spread_over_segments(names):
    long = ask(b"long.example", flags=0x8180, rest=bytes(4000))
    stream = prefixed(ask(b"first.example"), long, ask(b"last.example"))

    for segment in segments(*cut(stream, 1400, 2800), sequence=(1 << 32) - 2000):
        names.run(segment)

    rows = names.dns()
    assert rows["query_name"] == ["first.example", "long.example", "last.example"]
    assert rows["message_bytes"] == [31, len(long), 30]
    assert rows["is_malformed"] == [0, 0, 0]


def test_a_segment_that_is_sent_again_brings_no_message_twice(names):
    stream = prefixed(ask(b"long.example", rest=bytes(2000)), ask(b"last.example"))
    first, second = segments(*cut(stream, 1000))

    for segment in (first, first, second):
        names.run(segment)

    assert names.dns()["query_name"][-2:] == ["long.example", "last.example"]


def test_a_prefix_that_comes_alone_belongs_to_the_message_behind_it(names):
    stream = prefixed(ask(b"first.example"), ask(b"second.example"))

    for segment in segments(*cut(stream, 2, 33, 35)):
        names.run(segment)

    assert names.dns()["query_name"] == ["first.example", "second.example"]


def test_a_question_that_is_cut_off_is_told_as_far_as_it_goes(names):
    stream = prefixed(ask(b"www.example.org", ident=9))

    for segment in segments(*cut(stream, 18)):
        names.run(segment)

    rows = names.dns()
    assert (rows["id"], rows["query_name"], rows["is_malformed"]) == ([9], ["www"], [1])
    assert len(names.rejected) == 1


def test_streams_cut_anywhere_give_each_message_once(names):
    chance = random.Random(20261125)
    for connection in range(60):
        messages = [
            ask(b"m%d.example" % number, ident=number, rest=bytes(chance.choice((0, 30, 200))))
            for number in range(12)
        ]
        stream = prefixed(*messages)
        places = sorted(chance.sample(range(1, len(stream)), 6))
        starts = np.cumsum([0, *(len(one) + 2 for one in messages)])[:-1]
        # Where a cut leaves less than a prefix or a header, that message cannot be recognised.
        if any(
            place - start == 1 or 2 < place - start < 14 for place in places for start in starts
        ):
            continue

        for segment in segments(*cut(stream, *places), sequence=connection * 100_000):
            names.run(segment)

        rows = names.dns()
        assert rows["id"] == list(range(12)), places


def test_a_hello_at_once_is_a_row(names):
    names.run(next(segments(real("www.example.org", ("h2", "http/1.1")), port=8443)))

    rows = names.tls()

    assert (rows["server_name"], rows["alpn"]) == (["www.example.org"], ["h2,http/1.1"])
    assert (rows["version"], rows["is_malformed"]) == ([0x0304], [0])
    assert (rows["dst_port"], rows["protocol"]) == ([8443], [6])
    assert names.rejected == []


def a_long_hello() -> bytes:
    return hello(key_share(HYBRID_KEY_BYTES), server_name(b"late.example"), alpn(b"h2"))


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize(
    "places", [(), (8,), (100,), (1400,), (200, 900, 901), tuple(range(60, 1300, 60))]
)
def test_a_hello_that_is_spread_over_segments_is_put_together(names, hook, places):
    options = [("Timestamp", (1, 2))]

    for segment in segments(
        *cut(a_long_hello(), *places), port=443, sequence=(1 << 32) - 700, options=options
    ):
        names.run(segment, hook)

    rows = names.tls(is_last=False)
    assert (rows["server_name"], rows["alpn"]) == (["late.example"], ["h2"])
    assert rows["is_malformed"] == [0]


def test_hellos_of_several_connections_may_be_mixed(names):
    streams = [
        list(segments(*cut(a_long_hello(), 700), port=port, sequence=port * 1000))
        for port in range(400, 420)
    ]

    for part in (0, 1):
        for stream in streams:
            names.run(stream[part])

    rows = names.tls(is_last=False)
    # A note may be overwritten by another connection's, but seldom.
    assert sum(rows["is_malformed"]) <= 2
    assert len(rows["server_name"]) + len(names.tls()["server_name"]) == 20


def test_the_part_of_a_hello_may_come_with_a_later_reading(names):
    first, second = segments(*cut(a_long_hello(), 1000), port=443)

    names.run(first)
    early = _without_waiting(names)
    names.run(second)

    assert early["server_name"] == []
    assert names.tls(is_last=False)["server_name"] == ["late.example"]


def _without_waiting(names: Names) -> dict[str, list]:
    just_now = Anchor(jiffies=0, monotonic_ns=0, wall_ns=1 << 62, tick_ns=1)
    return _plain(names.tls_reader.columns(take(names.buffers["tls"]), POINTS, just_now))


def test_a_hello_of_which_a_part_never_comes_is_given_out_as_it_is(names):
    first, _ = segments(*cut(a_long_hello(), 1000), port=443)
    names.run(first)

    rows = names.tls(is_last=False)  # much later

    assert rows["is_malformed"] == [1]
    assert len(names.rejected) == 1


def test_a_hello_that_is_longer_than_what_is_captured_is_read_as_far_as_that_goes(names):
    long = hello(server_name(b"early.example"), *[key_share(2000)] * 3)
    sizes = range(TLS_CHUNK_BYTES, len(long), TLS_CHUNK_BYTES)

    for segment in segments(*cut(long, *sizes), port=443):
        names.run(segment)

    rows = names.tls(is_last=False)
    assert len(long) > TLS_HELLO_BYTES
    assert (rows["server_name"], rows["is_malformed"]) == (["early.example"], [1])


def test_what_is_no_hello_gives_no_event(names):
    for payload in (
        b"GET / HTTP/1.1\r\n",
        b"\x16\x03\x01\x02\x00\x02" + bytes(300),  # a ServerHello
        b"\x17\x03\x03\x02\x00\x01" + bytes(300),  # data
        a_long_hello()[:7],
        b"",
    ):
        for segment in segments(payload, port=443):
            names.run(segment)

    assert names.tls()["server_name"] == []
    assert names.rejected == []


def test_buffers_that_are_full_lose_events_and_count_them():
    with loaded(dns_ports=(53,), tls=True, ring_bytes=4096) as programs:
        for _ in range(30):
            programs.run(bytes(over_udp(ask(b"www.example.org"))))
            programs.run(bytes(next(segments(real("www.example.org"), port=443))))

        kept = {
            name: len(RingBuffer(programs.plan.pins.map(name), 4096, dtype).drain())
            for name, dtype in (
                ("dns", dtype_from_layout(DNS_EVENT)),
                ("tls", dtype_from_layout(TLS_EVENT)),
            )
        }

        assert programs.total("lost_dns_messages") == 30 - kept["dns"] > 0
        assert programs.total("lost_tls_hellos") == 30 - kept["tls"] > 0
        # Whatever is lost of names, every packet is counted.
        assert programs.total("seen_packets") == 60
