# SPDX-License-Identifier: Apache-2.0
"""Traffic drop-off: an interface carries only a fraction of what it steadily carried before.

The rate is that of the ledger, which has a row at every interval, also where nothing passed.  Only
what is steady can drop: the fall must be beyond several standard deviations of the half hour before,
so a backup that ends and a night that comes are no drop.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from consumer.alerts import evidence, keys
from consumer.alerts.alert import Sighting
from consumer.alerts.detector import Stateless, is_recent
from consumer.alerts.regression import Regression
from consumer.alerts.rows import NS_PER_S, Rows
from consumer.alerts.sketches import grouped, summed
from service.options import option

_SETS = 1 << 11
_STEP_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Thresholds of `[alert.drop_off]`."""

    fraction: float = option(0.2, "of its own average, at most", group="")
    packets_per_second: float = option(100.0, "which is so much, at least", group="")
    sigmas: float = option(4.0, "and so many standard deviations below it", group="")
    history: float = option(1800.0, "seconds of which the average must be known", group="")


class DropOff(Stateless):
    """Interfaces whose traffic drops; see the module."""

    name = "drop_off"
    about = (
        "An interface carries a fraction of what it steadily carried in the half hour before, for ten"
        " seconds."
    )
    kinds = ("ledger",)
    hold_s = 30.0
    learns = ("_rates",)

    def __init__(self, options: Options) -> None:
        self._options = options
        steps = max(1, int(options.history / _STEP_S))
        self._rates = Regression(
            sets=_SETS,
            step_s=_STEP_S,
            factor=options.fraction,
            sigmas=options.sigmas,
            least_weight=_STEP_S / 2,
            history=steps,
            memory=steps,
        )

    @property
    def size_bytes(self) -> int:
        return self._rates.size_bytes

    def take(self, rows: Rows, now_ns: int) -> Sequence[Sighting]:
        at = np.flatnonzero(is_recent(rows, now_ns))
        known, first, groups = grouped(keys.points(rows)[at])
        packets = summed(rows["seen_packets"][at], groups, len(known))
        # Both directions have a row of the same interval.
        lengths = (rows["end"] - rows["time"])[at] / NS_PER_S / 2
        worse = self._rates.add(
            known, packets, summed(lengths, groups, len(known)), now_ns / NS_PER_S
        )
        return [
            self._sighting(rows, int(at[first[one]]), float(value), float(mean))
            for one, value, mean in zip(worse.at, worse.values, worse.means, strict=True)
            if mean >= self._options.packets_per_second
        ]

    def _sighting(self, rows: Rows, at: int, value: float, mean: float) -> Sighting:
        node = rows.node.categories[rows.node.codes[at]]
        interface = rows["interface"].categories[rows["interface"].codes[at]]
        seen = int(rows["end"][at])
        return Sighting(
            detector=self.name,
            labels={"node": node, "interface": interface},
            severity="warning",
            summary=(
                f"traffic of {evidence.shown(node)} {evidence.shown(interface)} has dropped to"
                f" {evidence.quantity(value)} packets a second, from"
                f" {evidence.quantity(mean)} on average"
            ),
            evidence=evidence.query(
                "time, direction, seen_packets, seen_bytes",
                "ledger",
                f"node = {evidence.literal(node)} AND interface = {evidence.literal(interface)}",
                evidence.during(seen - int(60 * NS_PER_S), seen),
            ),
            value=value,
            threshold=self._options.fraction * mean,
            seen_ns=seen,
            began_ns=seen - int(2 * _STEP_S * NS_PER_S),
        )
