# SPDX-License-Identifier: Apache-2.0
"""An hour of a small site on which nothing is wrong: what its agents report, twenty seconds at a time.

A web server with clients everywhere, a database with a nightly copy, a resolver, a monitor, people
who browse: what such hosts do all day, with the small faults that are always there.  Time is the only
thing that is left out; the rows are those of intervals of a second.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from schemas import wire
from tests.consumer.alerts.scenes import ACK, RST, SYN, SYN_ACK, WHOLE, batch, many

STEP_S = 20
WEB, STORE, RESOLVER, MONITOR, LAPTOP = (
    "10.0.0.10",
    "10.0.0.20",
    "10.0.0.53",
    "10.0.0.5",
    "10.0.0.7",
)
_SITES = [
    f"{site}.example{number}.com" for number in range(40) for site in ("www", "api", "cdn-7f3a")
]
_FIRST_CLIENT_PORT = 32_768


@dataclass
class Site:
    """The site from *seed*; `step` makes the rows of twenty seconds."""

    rng: np.random.Generator
    pending: dict[str, int] = field(default_factory=dict)

    def steps(self, seconds: int) -> Iterator[tuple[float, dict[str, list[wire.Batch]]]]:
        """The end of each step, and its batches by kind."""
        for begin in range(0, seconds, STEP_S):
            batches = [
                *self.web(begin),
                *self.copy(begin),
                *self.resolver(begin),
                *self.monitor(begin),
                *self.people(begin),
                *self.sockets(begin),
                *self.books(begin),
            ]
            by_kind: dict[str, list[wire.Batch]] = {}
            for one in batches:
                by_kind.setdefault(one.kind, []).append(one)
            yield begin + STEP_S + 0.5, by_kind

    def times(self, begin: int, count: int) -> Any:
        return np.sort(begin + STEP_S * self.rng.random(count))

    def ports(self, count: int) -> Any:
        return self.rng.integers(_FIRST_CLIENT_PORT, 61_000, count)

    def exchange(
        self, begin: int, clients: Any, server: Any, port: Any, count: int, **columns: Any
    ) -> list[wire.Batch]:
        """What clients send to a server and get back, seen by the one or the other."""
        node, ingress = columns.pop("node"), columns.pop("direction")
        back = {"tcp_flags": columns.pop("back", WHOLE)}
        there = {"tcp_flags": columns.pop("tcp_flags", WHOLE)}
        times, ports = self.times(begin, count), self.ports(count)
        same = partial(batch, rows=count, node=node, **columns)
        sent = same(
            time=times,
            src_addr=clients,
            dst_addr=server,
            src_port=ports,
            dst_port=port,
            direction=ingress,
            **there,
        )
        got = same(
            time=times + 0.001,
            src_addr=server,
            dst_addr=clients,
            src_port=port,
            dst_port=ports,
            direction=3 - ingress,
            **back,
        )
        return [sent, got]

    def web(self, begin: int) -> list[wire.Batch]:
        """Forty connections a second; of some the handshake lies across an interval's end."""
        count = 800 + int(400 * np.sin(begin / 600))
        clients = many(self.rng.integers(16 << 24, 200 << 24, count))
        web = partial(self.exchange, node="web-1", direction=1)
        late = count // 20
        resets = web(
            begin, many(self.rng.integers(16 << 24, 200 << 24, 30)), WEB, 443, 30, tcp_flags=RST
        )
        rows = [
            *web(begin, clients, WEB, 443, count, packets=8),
            *web(begin, clients[:late], WEB, 443, late, tcp_flags=SYN, back=SYN_ACK),
            *web(begin, clients[:late], WEB, 443, late, tcp_flags=ACK, back=ACK, packets=5),
            *web(begin, "10.0.0.2", WEB, 443, 2),
            resets[0],
        ]
        if 1200 <= begin < 1240:
            # It restarts: connections are refused for a while.
            rows = web(begin, clients, WEB, 443, count, tcp_flags=SYN, back=RST | ACK)
        return rows

    def copy(self, begin: int) -> list[wire.Batch]:
        """A copy at full rate for a quarter of an hour, and queries all the time."""
        rows = self.exchange(begin, WEB, STORE, 5432, 200, node="store-1", direction=1, packets=20)
        if 600 <= begin < 1500:
            rows += self.exchange(
                begin,
                STORE,
                "10.0.0.99",
                22,
                10,
                node="store-1",
                direction=2,
                packets=80_000,
                bytes=80_000 * 1500,
                tcp_flags=ACK,
                back=ACK,
            )
        return rows

    def resolver(self, begin: int) -> list[wire.Batch]:
        """It asks servers everywhere, some of which never answer; others ask it."""
        count = 300
        servers = many(self.rng.integers(16 << 24, 200 << 24, count))
        asked, answers = self.exchange(
            begin,
            RESOLVER,
            servers,
            53,
            count,
            node="dns-1",
            direction=2,
            protocol=17,
            tcp_flags=0,
            back=0,
        )
        dead = many(self.rng.integers(16 << 24, 200 << 24, 8))
        unanswered, _ = self.exchange(
            begin,
            RESOLVER,
            dead,
            53,
            8,
            node="dns-1",
            direction=2,
            protocol=17,
            tcp_flags=0,
            back=0,
        )
        clients = self.exchange(
            begin,
            many(self.rng.integers(1, 250, 200), "10.0.0.0"),
            RESOLVER,
            53,
            200,
            node="dns-1",
            direction=1,
            protocol=17,
            tcp_flags=0,
            back=0,
        )
        names = [*self.rng.choice(_SITES, 100), *(self.reverse() for _ in range(5)), *self.hashes()]
        dns = batch(
            "dns",
            node="dns-1",
            rows=len(names),
            time=self.times(begin, len(names)),
            protocol=17,
            src_addr=many(self.rng.integers(1, 250, len(names)), "10.0.0.0"),
            query_name=names,
        )
        return [asked, answers, unanswered, *clients, dns]

    def reverse(self) -> str:
        return ".".join(self.rng.bytes(16).hex()) + ".ip6.arpa"

    def hashes(self) -> list[str]:
        """Names of a content network, of which there are not many."""
        site = self.rng.integers(30)
        return [f"{site:02d}{'3f9c1b7e5a2d8046' * 3}.edge.example-cdn.net"]

    def monitor(self, begin: int) -> list[wire.Batch]:
        """It polls three hundred hosts and pings fifty; a few are down, as ever."""
        hosts = many(np.arange(300), "10.1.0.0")
        poll = partial(self.exchange, node="mon-1", direction=2)
        pinged = many(np.arange(50), "10.1.0.0")
        echo = partial(batch, node="mon-1", rows=50, protocol=1, time=self.times(begin, 50))
        outside = [
            batch(
                node=f"app-{host}",
                time=begin + 3.0,
                direction=2,
                src_addr=f"10.0.0.{30 + host}",
                dst_addr="198.51.100.80",
                src_port=40_000,
                dst_port=443,
                tcp_flags=WHOLE,
            )
            for host in range(5)
        ]
        return [
            *poll(begin, MONITOR, hosts, 9100, 300),
            poll(begin, MONITOR, many(np.arange(5), "10.2.0.0"), 9100, 5, tcp_flags=SYN)[0],
            echo(src_addr=MONITOR, dst_addr=pinged, direction=2, icmp_type=8),
            echo(src_addr=pinged, dst_addr=MONITOR, direction=1, icmp_type=0)
            if begin % 30
            else echo(src_addr=pinged, dst_addr=MONITOR, direction=1, icmp_type=3),
            *outside,
        ]

    def people(self, begin: int) -> list[wire.Batch]:
        """Browsing in bursts, a film over QUIC, discovery on the local network, a video call."""
        rows = []
        count = int(self.rng.integers(0, 30))
        if count:
            sites = many(self.rng.choice(4000, count) * 977 + (23 << 24))
            rows += self.exchange(
                begin,
                LAPTOP,
                sites,
                443,
                count,
                node="laptop",
                direction=2,
                packets=30,
                command="firefox",
            )
        film = 500 if begin % 60 < 20 else 10
        if 300 <= begin < 2400:
            rows += self.exchange(
                begin,
                LAPTOP,
                "142.250.1.1",
                443,
                10,
                node="laptop",
                direction=2,
                protocol=17,
                packets=film,
                tcp_flags=0,
                back=0,
            )
        udp = partial(batch, node="laptop", protocol=17, time=float(begin))
        rows += [
            udp(
                src_addr=LAPTOP,
                dst_addr="239.255.255.250",
                src_port=50_000,
                dst_port=1900,
                packets=3,
            ),
            udp(src_addr=LAPTOP, dst_addr="224.0.0.251", src_port=5353, dst_port=5353),
            udp(src_addr=LAPTOP, dst_addr="162.159.200.1", src_port=123, dst_port=123),
            udp(
                src_addr="192.0.2.77",
                dst_addr=LAPTOP,
                src_port=3478,
                dst_port=61_002,
                packets=900,
                bytes=900_000,
            ),
        ]
        return rows

    def sockets(self, begin: int) -> list[wire.Batch]:
        """Connections of services to where they always go, of people to anywhere."""
        count = 40
        peers = many(self.rng.integers(0, 20, count), "203.0.113.0")
        units = ["shop.service", "sync.service"] * (count // 2)
        services = partial(
            batch,
            "socket",
            node="web-1",
            rows=count,
            time=self.times(begin, count),
            role=1,
            remote_port=443,
            unit=units,
            command="python3",
            remote_addr=peers,
            cookie=begin * 1000 + np.arange(count),
        )
        segments = self.rng.integers(20, 2000, count)
        closed = services(
            event=5,
            segments_sent=segments,
            retransmits=self.rng.binomial(segments, 0.004),
            min_rtt_us=(9_000 * self.rng.lognormal(0, 0.2, count)).astype(int),
            srtt_us=(12_000 * self.rng.lognormal(0, 0.6, count)).astype(int),
        )
        closed.columns["start"] = closed.columns["time"] - 10**9
        sites = many(self.rng.integers(16 << 24, 200 << 24, 10))
        browser = batch(
            "socket",
            node="laptop",
            rows=10,
            time=self.times(begin, 10),
            event=2,
            role=1,
            remote_port=443,
            command="firefox",
            remote_addr=sites,
        )
        return [services(event=2), closed, browser]

    def books(self, begin: int) -> list[wire.Batch]:
        """The ledger of every node, with packets under way at each interval's end."""
        found = []
        for node, packets in (("web-1", 2000), ("store-1", 400), ("laptop", 50), ("mon-1", 90)):
            if node == "laptop" and 2700 <= begin < 2800:
                continue  # it was shut down, and is back soon
            seen = (packets * self.rng.lognormal(0, 0.3, STEP_S)).astype(int)
            if node == "store-1" and 600 <= begin < 1500:
                seen[:] = 80_000
            edges = (seen * self.rng.random(STEP_S) / 4).astype(int)
            before = [self.pending.get(node, 0), *edges[:-1]]
            self.pending[node] = int(edges[-1])
            seconds = np.repeat(begin + np.arange(STEP_S, dtype=float), 2)
            found.append(
                batch(
                    "ledger",
                    rows=2 * STEP_S,
                    node=node,
                    time=seconds,
                    end=seconds + 1.0,
                    direction=[1, 2] * STEP_S,
                    hook=3,
                    seen_packets=np.repeat(seen, 2),
                    flow_packets=np.repeat(seen + before - edges, 2),
                )
            )
            is_last = node == "laptop" and begin == 2680
            found.append(
                batch(
                    "delivery", node=node, time=float(begin + STEP_S), of_run="r", is_last=is_last
                )
            )
        return found


def same_site(seed: int = 1) -> Site:
    return Site(np.random.default_rng(seed))
