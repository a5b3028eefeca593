# SPDX-License-Identifier: Apache-2.0
"""Books that do not balance: packets that a hook saw and no flow row tells of, or that were lost.

For every row of the ledger `seen = flow + pending`, where what is pending comes with the next row.
So the difference, summed from row to row, is what is under way at the last interval's end, which
cannot be more than passed in that interval and the one before.  Where it is more, in several rows in
a row, the difference is no edge: packets are missing, or counted twice.  `lost_packets` were given up
because the spool was full, which is told as soon as it is in the books.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from consumer.alerts import evidence, keys
from consumer.alerts.alert import Sighting
from consumer.alerts.detector import Stateless, largest
from consumer.alerts.rows import NS_PER_S, Rows, name_keys
from consumer.alerts.sketches import Places
from service.options import option

_SETS = 1 << 12
_KEEP_S = 3600.0
_DIRECTIONS = {1: "ingress", 2: "egress"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Thresholds of `[alert.books]`."""

    rows: float = option(
        3, "rows of the ledger in a row that differ by more than an edge", group=""
    )
    packets: float = option(100, "and by so many packets, at least", group="")


class Books(Stateless):
    """Ledgers that do not balance; see the module."""

    name = "books"
    about = (
        "A ledger that does not balance: packets seen that no flow row tells of, beyond what is under"
        " way at an interval's end, or packets given up because the spool was full."
    )
    kinds = ("ledger",)
    hold_s = 60.0

    def __init__(self, options: Options) -> None:
        self._options = options
        self._places = Places(_SETS, _KEEP_S)
        # Seen but in no row yet; what passed in the last two intervals; rows beyond that in a row.
        self._pending = np.zeros(len(self._places))
        self._passed = np.zeros((len(self._places), 2))
        self._beyond = np.zeros(len(self._places))

    @property
    def size_bytes(self) -> int:
        return 4 * self._pending.nbytes + 16 * len(self._places)

    def take(self, rows: Rows, now_ns: int) -> Sequence[Sighting]:
        return [*self._losses(rows), *self._differences(rows, now_ns)]

    def _losses(self, rows: Rows) -> list[Sighting]:
        lost = rows["lost_packets"]
        return [
            self._sighting(
                rows,
                at,
                severity="critical",
                what="lost",
                summary=f"{int(lost[at])} packets' rows were given up: the spool was full",
                value=float(lost[at]),
                threshold=1.0,
            )
            for at in largest(lost, np.flatnonzero(lost > 0))
        ]

    def _differences(self, rows: Rows, now_ns: int) -> list[Sighting]:
        of_run = name_keys(rows.run, keys.HASH.of)
        of_books = keys.HASH.of(keys.points(rows), rows["direction"], of_run)
        seen = rows["seen_packets"].astype(float)
        missing = seen - rows["flow_packets"].astype(float)
        found = []
        # What was lost has rows of no length, in which nothing passed.
        left = np.flatnonzero(rows["end"] > rows["time"])
        # Rows of the same books one after the other; mostly there is one of each.
        while len(left):
            _, first = np.unique(of_books[left], return_index=True)
            at = left[first]
            places, is_new = self._places.of(of_books[at], now_ns / NS_PER_S)
            at, is_new, places = at[places >= 0], is_new[places >= 0], places[places >= 0]
            self._pending[places[is_new]] = self._beyond[places[is_new]] = 0
            # What was under way as we began is not known: as much as passes now, at most.
            self._passed[places[is_new]] = seen[at[is_new], None]
            self._pending[places] += missing[at]
            allowed = self._passed[places].sum(axis=1) + seen[at] + self._options.packets
            is_beyond = np.abs(self._pending[places]) > allowed
            self._beyond[places] = np.where(is_beyond, self._beyond[places] + 1, 0)
            self._passed[places] = np.column_stack([self._passed[places, 1], seen[at]])
            is_wrong = self._beyond[places] >= self._options.rows
            found += [
                self._difference(
                    rows, int(at[one]), float(self._pending[places[one]]), allowed[one]
                )
                for one in np.flatnonzero(is_wrong)
            ]
            left = np.setdiff1d(left, left[first], assume_unique=True)
        return found

    def _difference(self, rows: Rows, at: int, pending: float, allowed: float) -> Sighting:
        amount = evidence.quantity(abs(pending))
        what = "are in no flow row" if pending > 0 else "are in flow rows and were not seen"
        return self._sighting(
            rows,
            at,
            severity="warning",
            what="difference",
            summary=f"the books do not balance: {amount} packets {what}",
            value=abs(pending),
            threshold=float(allowed),
        )

    def _sighting(
        self,
        rows: Rows,
        at: int,
        *,
        severity: str,
        what: str,
        summary: str,
        value: float,
        threshold: float,
    ) -> Sighting:
        node = rows.node.categories[rows.node.codes[at]]
        interface = rows["interface"].categories[rows["interface"].codes[at]]
        direction = _DIRECTIONS[int(rows["direction"][at])]
        began, ended = int(rows["time"][at]), int(rows["end"][at])
        return Sighting(
            detector=self.name,
            labels={"node": node, "interface": interface, "direction": direction, "what": what},
            severity=severity,
            summary=f"{evidence.shown(node)} {evidence.shown(interface)} {direction}: {summary}",
            evidence=evidence.query(
                "time, end, seen_packets, flow_packets, overflow_packets, lost_packets",
                "ledger",
                f"node = {evidence.literal(node)} AND interface = {evidence.literal(interface)}",
                f"direction = '{direction}'",
                evidence.during(began, ended, margin_s=60),
                tail="ORDER BY time DESC",
            ),
            value=value,
            threshold=threshold,
            seen_ns=ended,
            began_ns=began,
        )
