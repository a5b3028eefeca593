# SPDX-License-Identifier: Apache-2.0
"""SYN flood: many SYNs to one port that no handshake follows.

A row has all flags of a connection in an interval, so a handshake is a row with SYN and ACK, and a
SYN that was not followed up is a row with SYN alone.  A few of those are ordinary: a handshake may
lie across an interval's end.  So they must be many, and a large share of all that begins.

Only what an interface receives is counted, second by second and for each interface apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from consumer.alerts import evidence, keys
from consumer.alerts.alert import Sighting
from consumer.alerts.detector import Stateless, is_recent, largest
from consumer.alerts.origins import Origins, proposal
from consumer.alerts.rows import NS_PER_S, Rows
from consumer.alerts.sketches import Rotating, grouped, summed
from service.options import option

_ROTATE_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Thresholds of `[alert.syn_flood]`."""

    packets_per_second: float = option(
        500.0, "SYNs a second to one address and port without a handshake", group=""
    )
    share: float = option(0.5, "that many of all connections that begin, at least", group="")


class SynFlood(Stateless):
    """SYN floods; see the module."""

    name = "syn_flood"
    about = "Many SYNs to one port that no handshake follows."
    kinds = ("flow",)
    hold_s = 30.0

    def __init__(self, options: Options) -> None:
        self._options = options
        # Unanswered SYNs, and handshakes, by place, address, port and second.
        self._begun = Rotating(_ROTATE_S, fields=2)
        self._origins = Origins()

    @property
    def size_bytes(self) -> int:
        return self._begun.size_bytes + self._origins.size_bytes

    def take(self, rows: Rows, now_ns: int) -> Sequence[Sighting]:
        flags = rows["tcp_flags"]
        begins = (rows["protocol"] == keys.TCP) & (rows["direction"] == keys.INGRESS)
        begins &= ((flags & keys.SYN) != 0) & is_recent(rows, now_ns)
        at = np.flatnonzero(begins)
        if not len(at):
            return ()
        self._begun.rotate(now_ns / NS_PER_S)
        is_alone = (flags[at] & keys.ACK) == 0
        victims = keys.HASH.of(keys.destinations(rows)[at], rows["dst_port"][at])
        bins, first, groups = grouped(
            keys.HASH.of(keys.points(rows)[at], victims, keys.seconds(rows)[at])
        )
        alone = np.where(is_alone, rows["packets"][at] / rows.seconds[at], 0)
        counts = np.column_stack([summed(one, groups, len(bins)) for one in (alone, ~is_alone)])
        self._begun.add(bins, counts)
        rates, handshakes = self._begun.estimates(bins).T
        # A bin whose SYNs all came before would tell of them once more.
        is_flood = (rates >= self._options.packets_per_second) & (counts[:, 0] > 0)
        is_flood &= rates >= self._options.share * (rates + handshakes)
        return [
            self._sighting(rows, at[groups == one], int(victims[first[one]]), float(rates[one]))
            for one in largest(rates, np.flatnonzero(is_flood))
        ]

    def _sighting(self, rows: Rows, at: NDArray[np.intp], victim: int, rate: float) -> Sighting:
        at = at[(rows["tcp_flags"][at] & keys.ACK) == 0]
        origin = self._origins.add(victim, rows["src_addr"][at], rows["packets"][at].astype(float))
        target = evidence.address(rows["dst_addr"][at[0]])
        port = int(rows["dst_port"][at[0]])
        began, seen = int(rows["time"][at].min()), int(rows["time"][at].max())
        return Sighting(
            detector=self.name,
            labels={"destination": target, "port": str(port), "protocol": "tcp"},
            severity="critical",
            summary=(
                f"SYN flood on {target} port {port}: {evidence.quantity(rate)} SYNs a second and no"
                f" handshakes, from {origin}"
            ),
            evidence=evidence.query(
                "time, node, interface, src_addr, src_port, packets",
                "flows",
                evidence.is_address("dst_addr", target),
                f"dst_port = {port} AND protocol = 6 AND direction = 'ingress'",
                "bitAnd(tcp_flags, 18) = 2",
                evidence.during(began, seen),
            ),
            value=rate,
            threshold=self._options.packets_per_second,
            seen_ns=seen,
            began_ns=began,
            proposal=proposal(
                origin,
                rows["src_addr"][at],
                victim=target,
                what=f"tcp dst port {port} and flag syn and not flag ack",
            ),
        )
