# SPDX-License-Identifier: Apache-2.0
"""Connections that go worse than before: retransmits, and round trips.

Sockets are grouped by node, port of the service and network of the peer.  Retransmits are those of a
step among its segments.  Round trips are the least ones of each connection lately, which own traffic
that fills a queue does not raise; a longer way and a queue that never empties do.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from consumer.alerts import evidence, keys
from consumer.alerts.alert import Sighting
from consumer.alerts.detector import Stateless, is_recent
from consumer.alerts.regression import Regression
from consumer.alerts.rows import NS_PER_S, Rows
from consumer.alerts.sketches import Keys, Places, Values, grouped, summed
from schemas.socket import EVENTS, ROLES
from service.options import option

_SETS = 1 << 12
_SOCKET_SETS = 1 << 14
_SOCKET_KEEP_S = 120.0
_STEP_S = 10.0
_COUNTED = tuple(EVENTS[name] for name in ("open", "update", "close", "fail"))
_MEASURED = (EVENTS["update"], EVENTS["close"])


@dataclass(frozen=True, slots=True, kw_only=True)
class RetransmitOptions:
    """Thresholds of `[alert.retransmits]`."""

    share: float = option(0.03, "retransmits among segments sent, at least", group="")
    factor: float = option(3.0, "and so many times its own average", group="")
    sigmas: float = option(4.0, "and so many standard deviations above it", group="")
    segments: float = option(500.0, "segments in ten seconds, at least", group="")
    history: float = option(300.0, "seconds of which the average must be known", group="")


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundTripOptions:
    """Thresholds of `[alert.round_trip]`."""

    milliseconds: float = option(10.0, "above its own average, at least", group="")
    factor: float = option(2.0, "and so many times that", group="")
    sigmas: float = option(4.0, "and so many standard deviations above it", group="")
    connections: float = option(3, "connections measured in ten seconds, at least", group="")
    history: float = option(300.0, "seconds of which the average must be known", group="")


class Retransmits(Stateless):
    """Services and networks to which more has to be sent again than before."""

    name = "retransmits"
    about = "More segments than usual have to be sent again to one service in one network."
    kinds = ("socket",)
    hold_s = 60.0
    learns = ("_shares",)

    def __init__(self, options: RetransmitOptions) -> None:
        self._options = options
        self._shares = Regression(
            sets=_SETS,
            step_s=_STEP_S,
            factor=options.factor,
            sigmas=options.sigmas,
            least_weight=options.segments,
            history=int(options.history / _STEP_S),
            memory=max(int(options.history / _STEP_S), 30),
        )
        # Counts of a socket are those of its whole life.
        self._sockets = Places(_SOCKET_SETS, _SOCKET_KEEP_S)
        self._counts = np.zeros((len(self._sockets), 2))

    @property
    def size_bytes(self) -> int:
        return self._shares.size_bytes + self._counts.nbytes + 16 * len(self._sockets)

    def take(self, rows: Rows, now_ns: int) -> Sequence[Sighting]:
        is_counted = (rows["protocol"] == keys.TCP) & np.isin(rows["event"], _COUNTED)
        at = np.flatnonzero(is_counted & is_recent(rows, now_ns))
        if not len(at):
            return ()
        now = now_ns / NS_PER_S
        at, added = self._added(rows, at, now)
        known, first, groups = grouped(_paths(rows)[at])
        worse = self._shares.add(
            known,
            summed(added[:, 0], groups, len(known)),
            summed(added[:, 1], groups, len(known)),
            now,
        )
        return [
            self._sighting(rows, int(at[first[one]]), float(value), float(mean))
            for one, value, mean in zip(worse.at, worse.values, worse.means, strict=True)
            if value >= self._options.share
        ]

    def _added(
        self, rows: Rows, at: NDArray[np.intp], now: float
    ) -> tuple[NDArray[np.intp], Values]:
        """A row of each socket, its last, and what it has sent again and sent since before."""
        sockets = keys.HASH.of(keys.nodes(rows)[at], rows["cookie"][at])
        counts = np.column_stack([rows["retransmits"][at], rows["segments_sent"][at]]).astype(float)
        # Rows of one socket are in their order, and the last one tells all.
        _, last = np.unique(sockets[::-1], return_index=True)
        last = len(at) - 1 - last
        at, sockets, counts = at[last], sockets[last], counts[last]
        places, is_new = self._sockets.of(sockets, now)
        is_known = (places >= 0) & ~is_new
        before = np.where(is_known[:, None], self._counts[places], 0)
        # What was long before we knew of a socket says nothing about now.
        is_old = ~is_known & (rows["time"][at] - rows["start"][at] > 2 * _STEP_S * NS_PER_S)
        has_place = places >= 0
        self._counts[places[has_place]] = counts[has_place]
        added = np.where(is_old[:, None], 0, np.maximum(counts - before, 0))
        return at, added

    def _sighting(self, rows: Rows, at: int, value: float, mean: float) -> Sighting:
        labels = _labels(rows, at)
        return Sighting(
            detector=self.name,
            labels=labels,
            severity="warning",
            summary=(
                f"{evidence.shown(labels['node'])} sends {100 * value:.1f} % of its segments again"
                f" to {labels['peer']} on port {labels['port']}; {100 * mean:.2f} % before"
            ),
            evidence=_evidence(rows, at, labels, "retransmits, segments_sent, command"),
            value=value,
            threshold=max(self._options.share, self._options.factor * mean),
            seen_ns=int(rows["time"][at]),
            began_ns=int(rows["time"][at] - 2 * _STEP_S * NS_PER_S),
        )


class RoundTrip(Stateless):
    """Services and networks to which the way has become longer."""

    name = "round_trip"
    about = "The least round-trip times of connections to one service in one network have grown."
    kinds = ("socket",)
    hold_s = 60.0
    learns = ("_times",)

    def __init__(self, options: RoundTripOptions) -> None:
        self._options = options
        self._times = Regression(
            sets=_SETS,
            step_s=_STEP_S,
            factor=options.factor,
            sigmas=options.sigmas,
            least_weight=options.connections,
            history=int(options.history / _STEP_S),
            memory=max(int(options.history / _STEP_S), 30),
        )

    @property
    def size_bytes(self) -> int:
        return self._times.size_bytes

    def take(self, rows: Rows, now_ns: int) -> Sequence[Sighting]:
        times_us = np.where(rows["min_rtt_us"] > 0, rows["min_rtt_us"], rows["srtt_us"])
        is_measured = np.isin(rows["event"], _MEASURED) & (times_us > 0)
        at = np.flatnonzero(is_measured & is_recent(rows, now_ns))
        known, first, groups = grouped(_paths(rows)[at])
        worse = self._times.add(
            known,
            summed(times_us[at] / 1000, groups, len(known)),
            summed(np.ones(len(at)), groups, len(known)),
            now_ns / NS_PER_S,
        )
        return [
            self._sighting(rows, int(at[first[one]]), float(value), float(mean))
            for one, value, mean in zip(worse.at, worse.values, worse.means, strict=True)
            if value >= mean + self._options.milliseconds
        ]

    def _sighting(self, rows: Rows, at: int, value: float, mean: float) -> Sighting:
        labels = _labels(rows, at)
        return Sighting(
            detector=self.name,
            labels=labels,
            severity="warning",
            summary=(
                f"round trips of {evidence.shown(labels['node'])} to {labels['peer']} on port"
                f" {labels['port']} take {value:.1f} ms; {mean:.1f} ms before"
            ),
            evidence=_evidence(rows, at, labels, "srtt_us, min_rtt_us, command"),
            value=value,
            threshold=max(mean + self._options.milliseconds, self._options.factor * mean),
            seen_ns=int(rows["time"][at]),
            began_ns=int(rows["time"][at] - 2 * _STEP_S * NS_PER_S),
        )


def _ports(rows: Rows) -> NDArray[np.uint16]:
    """The port of the service of each connection."""
    is_client = rows["role"] == ROLES["client"]
    return np.asarray(np.where(is_client, rows["remote_port"], rows["local_port"]))


def _paths(rows: Rows) -> Keys:
    return rows.kept(
        "path keys",
        lambda rows: keys.HASH.of(
            keys.nodes(rows), _ports(rows), keys.networks(rows["remote_addr"])
        ),
    )


def _labels(rows: Rows, at: int) -> dict[str, str]:
    return {
        "node": rows.node.categories[rows.node.codes[at]],
        "port": str(_ports(rows)[at]),
        "peer": evidence.network(rows["remote_addr"][at], ipv4_bits=24, ipv6_bits=48),
    }


def _evidence(rows: Rows, at: int, labels: dict[str, str], select: str) -> str:
    seen = int(rows["time"][at])
    return evidence.query(
        f"time, event, local_addr, remote_addr, {select}",
        "sockets",
        f"node = {evidence.literal(labels['node'])}",
        f"if(role = 'client', remote_port, local_port) = {labels['port']}",
        evidence.in_network("remote_addr", labels["peer"]),
        evidence.during(seen - int(60 * NS_PER_S), seen),
    )
