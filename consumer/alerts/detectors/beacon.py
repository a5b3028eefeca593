# SPDX-License-Identifier: Apache-2.0
"""Beaconing: one host connects to one peer on the Internet at regular intervals.

Much that is ordinary is regular: health checks, monitors, updates.  What tells a beacon apart is
that few know its peer and that it is new.  So private peers are left alone; so are networks to which
several of our hosts connect; and so is every pair that was there in the first day, which is learned.
Peers that are asked all the time, by people or programs, are not regular, and those that are
asked within seconds are not judged.

Regular means that the gaps between connections vary little: their standard deviation is a small part
of their mean (Welford, 1962).  A jitter of a fifth either way is still regular.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from consumer.alerts import evidence, keys
from consumer.alerts.alert import Sighting
from consumer.alerts.detector import Stateless, is_recent, largest
from consumer.alerts.ignored import Ignored
from consumer.alerts.rows import NS_PER_S, Rows
from consumer.alerts.sketches import Distinct, Keys, Places, Seen, Values
from service.options import option

_SETS = 1 << 14
_KEEP_S = 4 * 3600.0
_POPULAR_S = 6 * 3600.0
_KNOWN_BITS = 22
# A pause so many times as long as the gaps before begins another series.
_PAUSE = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Thresholds of `[alert.beacon]`."""

    connections: float = option(12, "connections to one peer, at least", group="")
    variation: float = option(
        0.15, "standard deviation of the gaps between them in their mean, at most", group=""
    )
    least: float = option(5.0, "seconds between them on average, at least", group="")
    hosts: float = option(2, "hosts of ours that connect to the peer's network, at most", group="")
    learning: float = option(86_400.0, "seconds in which every pair is taken for known", group="")
    ignore: tuple[str, ...] = option((), "networks whose hosts may be asked regularly", group="")


class Beacon(Stateless):
    """Hosts that call somewhere regularly; see the module."""

    name = "beacon"
    about = (
        "A host connects to a peer on the Internet at regular intervals, which hardly any other host"
        " does, and did not so in the first day."
    )
    kinds = ("flow",)
    hold_s = 3600.0
    learns = ("_known", "_hosts", "_places", "_last", "_gaps", "_began")

    def __init__(self, options: Options) -> None:
        self._options = options
        self._ignored = Ignored(options.ignore)
        self._known = Seen(_KNOWN_BITS)
        self._hosts = Distinct(_POPULAR_S)
        self._places = Places(_SETS, _KEEP_S)
        self._last = np.zeros(len(self._places))
        # Gaps, their mean, the sum of squares from it.
        self._gaps = np.zeros((len(self._places), 3))
        self._began = np.inf

    @property
    def size_bytes(self) -> int:
        sketches = self._known.size_bytes + self._hosts.size_bytes
        return sketches + self._gaps.nbytes + 24 * len(self._places)

    def take(self, rows: Rows, now_ns: int) -> Sequence[Sighting]:
        now = now_ns / NS_PER_S
        self._began = min(self._began, now)
        self._hosts.rotate(now)
        begins = (rows["protocol"] == keys.TCP) & (rows["direction"] == keys.EGRESS)
        begins &= ((rows["tcp_flags"] & keys.SYN) != 0) & is_recent(rows, now_ns)
        at = np.flatnonzero(begins)
        at = at[keys.external(rows["dst_addr"][at]) & ~self._ignored(rows["dst_addr"][at])]
        # Who answers from there sends SYN too, with another's port.
        at = at[~keys.external(rows["src_addr"][at])]
        if not len(at):
            return ()
        at = at[np.argsort(rows["time"][at], kind="stable")]
        sources, ports = keys.sources(rows)[at], rows["dst_port"][at]
        networks = keys.HASH.of(keys.networks(rows["dst_addr"][at]), ports)
        hosts = self._hosts.add(networks, sources)
        pairs = keys.HASH.of(sources, networks)
        if now - self._began < self._options.learning and not self._known.is_full:
            self._known.add(np.unique(pairs))
            return ()
        is_new = ~self._known.holds(pairs) & (hosts <= self._options.hosts)
        at, peers = at[is_new], keys.HASH.of(sources, keys.destinations(rows)[at], ports)[is_new]
        regular = self._regular(peers, rows["time"][at] / NS_PER_S, now)
        counts = self._gaps[regular[1], 0]
        return [
            self._sighting(rows, int(at[regular[0][one]]), int(regular[1][one]))
            for one in largest(counts, np.arange(len(counts)))
        ]

    def _regular(
        self, peers: Keys, times: Values, now: float
    ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Learn of connections; rows, and places, of peers that are asked regularly."""
        seconds = keys.HASH.of(peers, times.astype(np.int64))
        _, left = np.unique(seconds, return_index=True)
        found, found_places = [], []
        while len(left):
            _, first = np.unique(peers[left], return_index=True)
            at = left[first]
            left = np.setdiff1d(left, at, assume_unique=True)
            places, is_new = self._places.of(peers[at], now)
            self._last[places[is_new]] = times[at[is_new]]
            self._gaps[places[is_new]] = 0
            is_known = (places >= 0) & ~is_new
            at, places = at[is_known], places[is_known]
            gaps = times[at] - self._last[places]
            # The same connection at another interface, or told late.
            is_next = gaps >= 1.0
            at, places, gaps = at[is_next], places[is_next], gaps[is_next]
            self._add(places, gaps)
            self._last[places] = times[at]
            is_regular = self._is_regular(places)
            found.append(at[is_regular])
            found_places.append(places[is_regular])
        return np.concatenate(found or [left]), np.concatenate(found_places or [left])

    def _add(self, places: NDArray[np.intp], gaps: Values) -> None:
        counts, means, squares = self._gaps[places].T
        is_pause = (counts >= 1) & (gaps > _PAUSE * means)
        counts = np.where(is_pause, 0, counts + 1)
        change = gaps - means
        means = np.where(is_pause, 0, means + change / np.maximum(counts, 1))
        squares = np.where(is_pause, 0, squares + change * (gaps - means))
        self._gaps[places] = np.column_stack([counts, means, squares])

    def _is_regular(self, places: NDArray[np.intp]) -> NDArray[np.bool_]:
        counts, means, squares = self._gaps[places].T
        deviation = np.sqrt(squares / np.maximum(counts - 1, 1))
        is_often = counts + 1 >= self._options.connections
        is_slow = means >= self._options.least
        return np.asarray(is_often & is_slow & (deviation <= self._options.variation * means))

    def _sighting(self, rows: Rows, at: int, place: int) -> Sighting:
        count, mean, squares = self._gaps[place]
        variation = float(np.sqrt(squares / max(count - 1, 1)) / mean)
        source = evidence.address(rows["src_addr"][at])
        peer, port = evidence.address(rows["dst_addr"][at]), int(rows["dst_port"][at])
        seen = int(rows["time"][at])
        began = seen - int(count * mean * NS_PER_S)
        command = rows["command"].categories[rows["command"].codes[at]]
        who = f"{evidence.shown(command)} on {source}" if command else source
        return Sighting(
            detector=self.name,
            labels={"source": source, "peer": peer, "port": str(port)},
            severity="warning",
            summary=(
                f"{who} connects to {peer} port {port} every {mean:.0f} s: {count + 1:.0f} times,"
                f" within {100 * variation:.0f} %"
            ),
            evidence=evidence.query(
                "time, node, src_port, command, unit, packets, bytes",
                "flows",
                evidence.is_address("src_addr", source),
                evidence.is_address("dst_addr", peer),
                f"dst_port = {port} AND protocol = 6 AND bitTest(tcp_flags, 1)",
                evidence.during(began, seen),
            ),
            value=variation,
            threshold=self._options.variation,
            seen_ns=seen,
            began_ns=began,
        )
