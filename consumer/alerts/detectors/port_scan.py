# SPDX-License-Identifier: Apache-2.0
"""Port scans: one source asks many ports of one host, or many hosts on one port, in vain.

A probe is what nobody sends who has a conversation: TCP without ACK that is no bare RST, a UDP
packet or two to a port of a service, an echo request.  A probe that is answered counts no more, by
whatever is seen of the way back.  So a crawler, a resolver or a monitor that asks a thousand hosts
is no scanner, as long as more of them answer than do not.

Distinct ports and hosts are counted over an hour (`period`), so a slow scan is found as well as a
fast one, which is found at once.  The same packet seen at several places is the same probe.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from consumer.alerts import evidence, keys
from consumer.alerts.alert import Proposal, Sighting
from consumer.alerts.detector import Stateless, is_recent, largest
from consumer.alerts.ignored import Ignored
from consumer.alerts.rows import NS_PER_S, Rows
from consumer.alerts.sketches import Distinct, Keys, among
from service.options import option

_PROTOCOLS = {keys.TCP: "tcp", keys.UDP: "udp", keys.ICMP: "icmp", keys.ICMPV6: "icmpv6"}
_ECHO_REQUESTS = (8, 128)
_ECHO_REPLIES = (0, 129)
# Clients' own ports begin there at the latest, and no service that a scanner looks for is above.
_FIRST_CLIENT_PORT = 32_768
_LAST_ROOT_PORT = 1023
_PROBE_PACKETS = 2
_PROPOSED_S = 3600.0
# Every client of every server is in it.
_ANSWERING_BITS = 23


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Thresholds of `[alert.port_scan]`."""

    ports: float = option(100, "ports of one host that one source asks in vain", group="")
    hosts: float = option(100, "hosts that one source asks on one port in vain", group="")
    period: float = option(3600.0, "seconds over which they are counted", group="")
    ignore: tuple[str, ...] = option((), "networks whose hosts may scan", group="")


class PortScan(Stateless):
    """Port scans and scans of hosts; see the module."""

    name = "port_scan"
    about = (
        "One source asks many ports of one host, or many hosts on one port or by echo requests, and"
        " gets no answer."
    )
    kinds = ("flow",)
    hold_s = 300.0

    def __init__(self, options: Options) -> None:
        self._options = options
        self._ignored = Ignored(options.ignore)
        self._ports = Distinct(options.period)
        self._hosts = Distinct(options.period)
        self._answering = Distinct(options.period, bits=_ANSWERING_BITS)

    @property
    def size_bytes(self) -> int:
        return sum(one.size_bytes for one in (self._ports, self._hosts, self._answering))

    def take(self, rows: Rows, now_ns: int) -> Sequence[Sighting]:
        for counted in (self._ports, self._hosts, self._answering):
            counted.rotate(now_ns / NS_PER_S)
        is_probe, is_answer = _probes(rows), _answers(rows)
        is_probe &= is_recent(rows, now_ns) & ~self._ignored(rows["src_addr"])
        probes, answers = np.flatnonzero(is_probe), np.flatnonzero(is_answer)
        sources, hosts = keys.sources(rows), keys.destinations(rows)
        ports = rows["dst_port"].astype(np.uint64) << np.uint64(8) | rows["protocol"]
        back = rows["src_port"].astype(np.uint64) << np.uint64(8) | rows["protocol"]
        # Echo has an id for a port, which means nothing.
        is_echo = np.isin(rows["protocol"], (keys.ICMP, keys.ICMPV6))
        ports[is_echo] = back[is_echo] = rows["protocol"][is_echo]
        asked = keys.HASH.of(sources[probes], hosts[probes], ports[probes])
        answered = keys.HASH.of(hosts[answers], sources[answers], back[answers])
        probes = probes[~among(asked, answered)]
        # Those counted before, and answered only now.
        self._ports.take_back(keys.HASH.of(hosts[answers], sources[answers]), back[answers])
        self._hosts.take_back(keys.HASH.of(hosts[answers], back[answers]), sources[answers])
        is_service = rows["src_port"][answers] <= rows["dst_port"][answers]
        serving = answers[is_service]
        self._answering.add(keys.HASH.of(hosts[serving], back[serving]), sources[serving])
        if not len(probes):
            return ()
        by_host = keys.HASH.of(sources[probes], hosts[probes])
        by_port = keys.HASH.of(sources[probes], ports[probes])
        is_port = ~is_echo[probes]
        counts = np.zeros(len(probes))
        counts[is_port] = self._ports.add(by_host[is_port], ports[probes][is_port])
        found = [
            self._of_ports(rows, probes[by_host == by_host[one]], counts[one])
            for one in _each(by_host, counts, self._options.ports)
        ]
        counts = self._hosts.add(by_port, hosts[probes])
        counts[counts < self._answering.estimates(by_port)] = 0
        return found + [
            self._of_hosts(rows, probes[by_port == by_port[one]], counts[one])
            for one in _each(by_port, counts, self._options.hosts)
        ]

    def _of_ports(self, rows: Rows, at: NDArray[np.intp], count: float) -> Sighting:
        source = evidence.address(rows["src_addr"][at[0]])
        target = evidence.address(rows["dst_addr"][at[0]])
        return self._sighting(
            rows,
            at,
            labels={"source": source, "destination": target, "pattern": "ports"},
            summary=f"port scan: {source} has asked {count:.0f} ports of {target} in vain",
            condition=evidence.is_address("dst_addr", target),
            select="time, node, dst_port, protocol, tcp_flags, packets",
            count=count,
            threshold=self._options.ports,
        )

    def _of_hosts(self, rows: Rows, at: NDArray[np.intp], count: float) -> Sighting:
        source = evidence.address(rows["src_addr"][at[0]])
        number = int(rows["protocol"][at[0]])
        protocol, port = _PROTOCOLS[number], int(rows["dst_port"][at[0]])
        is_echo = protocol.startswith("icmp")
        place = "by echo requests" if is_echo else f"on {protocol} port {port}"
        condition = f"protocol = {number}" + ("" if is_echo else f" AND dst_port = {port}")
        labels = {"source": source, "protocol": protocol, "pattern": "hosts"}
        return self._sighting(
            rows,
            at,
            labels=labels if is_echo else {**labels, "port": str(port)},
            summary=f"scan of hosts: {source} has asked {count:.0f} hosts {place} in vain",
            condition=condition,
            select="time, node, dst_addr, tcp_flags, packets",
            count=count,
            threshold=self._options.hosts,
        )

    def _sighting(
        self,
        rows: Rows,
        at: NDArray[np.intp],
        *,
        labels: dict[str, str],
        summary: str,
        condition: str,
        select: str,
        count: float,
        threshold: float,
    ) -> Sighting:
        source = labels["source"]
        protocol = _PROTOCOLS[int(rows["protocol"][at[0]])]
        began, seen = int(rows["time"][at].min()), int(rows["time"][at].max())
        return Sighting(
            detector=self.name,
            labels=labels,
            severity="warning",
            summary=summary,
            evidence=evidence.query(
                select,
                "flows",
                evidence.is_address("src_addr", source),
                condition,
                evidence.during(began, seen, margin_s=int(self._options.period)),
                tail="ORDER BY time DESC",
            ),
            value=count,
            threshold=threshold,
            seen_ns=seen,
            began_ns=began,
            proposal=Proposal(f"src host {source} and {protocol}", "drop", _PROPOSED_S),
        )


def _each(of_rows: Keys, counts: NDArray[np.float64], threshold: float) -> list[int]:
    """A row of each key whose count reaches *threshold*."""
    _, first = np.unique(of_rows, return_index=True)
    return largest(counts, first[counts[first] >= threshold])


def _probes(rows: Rows) -> NDArray[np.bool_]:
    protocol, flags = rows["protocol"], rows["tcp_flags"]
    # A bare RST answers a segment of a connection that is unknown there.
    tcp = (protocol == keys.TCP) & ((flags & keys.ACK) == 0)
    tcp &= ((flags & keys.RST) == 0) | ((flags & keys.SYN) != 0)
    udp = (protocol == keys.UDP) & (rows["packets"] <= _PROBE_PACKETS)
    udp &= (rows["dst_port"] < _FIRST_CLIENT_PORT) & (rows["src_port"] > _LAST_ROOT_PORT)
    udp &= rows["dst_port"] > 0
    echo = np.isin(protocol, (keys.ICMP, keys.ICMPV6)) & np.isin(rows["icmp_type"], _ECHO_REQUESTS)
    return np.asarray((tcp & (rows["dst_port"] > 0)) | udp | echo)


def _answers(rows: Rows) -> NDArray[np.bool_]:
    protocol, flags = rows["protocol"], rows["tcp_flags"]
    # RST with ACK refuses a SYN.
    tcp = (protocol == keys.TCP) & ((flags & keys.ACK) != 0)
    tcp &= ((flags & keys.RST) == 0) | ((flags & keys.SYN) != 0)
    echo = np.isin(protocol, (keys.ICMP, keys.ICMPV6)) & np.isin(rows["icmp_type"], _ECHO_REPLIES)
    return np.asarray(tcp | (protocol == keys.UDP) | echo)
