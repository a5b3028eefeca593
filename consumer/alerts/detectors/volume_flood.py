# SPDX-License-Identifier: Apache-2.0
"""UDP and ICMP floods: far more packets or bits to one address than it is used to.

Three things must come together, for large transfers over UDP are ordinary.  The rate is above a
floor.  It is several times the address's own baseline, its average over some ten minutes; what goes
on as the service starts is taken for ordinary.  And it is no conversation: it comes from many
sources, or next to nothing goes back.

Only what an interface receives is counted, second by second and for each interface apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from consumer.alerts import evidence, keys
from consumer.alerts.alert import Sighting
from consumer.alerts.detector import Stateless, is_recent, largest
from consumer.alerts.origins import Origins, proposal
from consumer.alerts.rows import NS_PER_S, Rows
from consumer.alerts.sketches import Keys, Places, Rotating, Values, grouped, summed
from service.options import option

_ROTATE_S = 5.0
_BASELINE_SETS = 1 << 12
_KEEP_S = 600.0
# Before, there is no past to compare with, and nothing is judged.
_FIRST_S = 10.0
# While an address is flooded its baseline follows so much more slowly.
_FLOODED_WEIGHT = 0.1
_REPLIES = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class UdpOptions:
    """Thresholds of `[alert.udp_flood]`."""

    packets_per_second: float = option(
        20_000.0, "packets a second to one address, in and above the baseline", group=""
    )
    bits_per_second: float = option(500e6, "or bits a second", group="")
    factor: float = option(4.0, "how many times its own baseline", group="")
    sources: float = option(
        50, "from so many sources a second, or with next to no replies", group=""
    )
    baseline: float = option(600.0, "seconds over which the baseline is averaged", group="")


@dataclass(frozen=True, slots=True, kw_only=True)
class IcmpOptions(UdpOptions):
    """Thresholds of `[alert.icmp_flood]`."""

    packets_per_second: float = option(
        1_000.0, "packets a second to one address, in and above the baseline", group=""
    )
    bits_per_second: float = option(100e6, "or bits a second", group="")


class Baseline:
    """Exponentially weighted packets and bytes a second of many addresses."""

    def __init__(self, tau_s: float) -> None:
        self._tau_s = tau_s
        self._places = Places(_BASELINE_SETS, _KEEP_S)
        self._means = np.zeros((len(self._places), 2))
        self._times = np.zeros(len(self._places))
        self._began = np.inf

    @property
    def size_bytes(self) -> int:
        return self._means.nbytes + self._times.nbytes + 16 * len(self._places)

    def begin(self, now: float) -> None:
        """Whatever is not heard of from now on is known to have been nothing."""
        self._began = min(self._began, now)

    def before(self, addresses: Keys, now: float) -> tuple[NDArray[np.intp], Values]:
        """The places of *addresses*, which differ, and their means until now."""
        self.begin(now)
        places, is_new = self._places.of(addresses, now)
        self._means[places[is_new]] = 0
        self._times[places[is_new]] = now
        fade = np.exp(-np.maximum(now - self._times[places], 0) / self._tau_s)
        means = np.where(places[:, None] >= 0, self._means[places] * fade[:, None], 0)
        age_s = now - self._began
        if age_s < _FIRST_S:
            return places, np.full(means.shape, np.inf)
        # At first there is less past than it averages over.
        return places, means / (1 - np.exp(-age_s / self._tau_s))

    def learn(self, places: NDArray[np.intp], amounts: Values, now: float) -> None:
        amounts, places = amounts[places >= 0], places[places >= 0]
        fade = np.exp(-np.maximum(now - self._times[places], 0) / self._tau_s)
        self._means[places] = self._means[places] * fade[:, None] + amounts / self._tau_s
        self._times[places] = now


class VolumeFlood(Stateless):
    """Floods of *protocols*; see the module."""

    name: ClassVar[str]
    about: ClassVar[str]
    title: ClassVar[str]
    word: ClassVar[str]
    filter: ClassVar[str]
    protocols: ClassVar[tuple[int, ...]]
    # Whether few sources that are answered are a transfer, and no flood.
    answers_excuse: ClassVar[bool] = True
    kinds = ("flow",)
    hold_s = 30.0
    learns = ("_baseline",)

    def __init__(self, options: UdpOptions) -> None:
        self._options = options
        # Packets and bits a second, and packets back, by place, address and second.
        self._rates = Rotating(_ROTATE_S, fields=3)
        self._baseline = Baseline(options.baseline)
        self._origins = Origins()

    @property
    def size_bytes(self) -> int:
        return self._rates.size_bytes + self._baseline.size_bytes + self._origins.size_bytes

    def take(self, rows: Rows, now_ns: int) -> Sequence[Sighting]:
        # A node without any such packet has a past all the same.
        self._baseline.begin(now_ns / NS_PER_S)
        is_ours = np.isin(rows["protocol"], self.protocols) & is_recent(rows, now_ns)
        at = np.flatnonzero(is_ours)
        if not len(at):
            return ()
        now = now_ns / NS_PER_S
        self._rates.rotate(now)
        is_in = rows["direction"][at] == keys.INGRESS
        addresses = keys.HASH.of(
            keys.points(rows)[at],
            np.where(is_in, keys.destinations(rows)[at], keys.sources(rows)[at]),
        )
        bins, first, groups = grouped(keys.HASH.of(addresses, keys.seconds(rows)[at]))
        packets = rows["packets"][at] / rows.seconds[at]
        bits = 8 * rows["bytes"][at] / rows.seconds[at]
        counts = np.column_stack(
            [
                summed(one, groups, len(bins))
                for one in (packets * is_in, bits * is_in, packets * ~is_in)
            ]
        )
        self._rates.add(bins, counts)
        rates = self._rates.estimates(bins)
        known, _, of_row = grouped(addresses)
        places, means = self._baseline.before(known, now)
        means = means[of_row[first]]
        is_above = self._is_above(rates, means)
        weights = np.where(is_above, _FLOODED_WEIGHT, 1.0)[groups] * is_in
        learned = np.column_stack(
            [
                summed(one * weights, of_row, len(known))
                for one in (rows["packets"][at], 8.0 * rows["bytes"][at])
            ]
        )
        self._baseline.learn(places, learned, now)
        candidates = np.flatnonzero(is_above & (counts[:, 0] > 0))
        found = []
        for one in largest(rates[:, 0], candidates):
            of_bin = at[(groups == one) & is_in]
            if sighting := self._sighting(rows, of_bin, rates[one], means[one]):
                found.append(sighting)
        return found

    def _is_above(self, rates: Values, means: Values) -> NDArray[np.bool_]:
        floors = np.array([self._options.packets_per_second, self._options.bits_per_second])
        above = (rates[:, :2] >= floors) & (rates[:, :2] >= self._options.factor * means)
        return np.asarray(above.any(axis=1))

    def _sighting(
        self, rows: Rows, at: NDArray[np.intp], rates: Values, means: Values
    ) -> Sighting | None:
        source_keys = np.unique(keys.sources(rows)[at])
        packets, bits, replies = (float(one) for one in rates)
        is_answered = self.answers_excuse and replies > _REPLIES * packets
        if is_answered and len(source_keys) < self._options.sources:
            return None
        target = evidence.address(rows["dst_addr"][at[0]])
        victim = int(keys.destinations(rows)[at[0]])
        origin = self._origins.add(victim, rows["src_addr"][at], rows["packets"][at].astype(float))
        began, seen = int(rows["time"][at].min()), int(rows["time"][at].max())
        return Sighting(
            detector=self.name,
            labels={"destination": target, "protocol": self.word},
            severity="critical",
            summary=(
                f"{self.title} flood on {target}: {evidence.quantity(packets)} packets and"
                f" {evidence.quantity(bits)}bit a second against"
                f" {evidence.quantity(float(means[0]))} packets on average, from {origin}"
            ),
            evidence=evidence.query(
                "time, node, interface, src_addr, src_port, dst_port, packets, bytes",
                "flows",
                evidence.is_address("dst_addr", target),
                f"protocol IN ({', '.join(map(str, self.protocols))}) AND direction = 'ingress'",
                evidence.during(began, seen),
                tail="ORDER BY packets DESC",
            ),
            value=packets,
            threshold=max(self._options.packets_per_second, self._options.factor * means[0]),
            seen_ns=seen,
            began_ns=began,
            proposal=proposal(origin, rows["src_addr"][at], victim=target, what=self.filter),
        )


class UdpFlood(VolumeFlood):
    """UDP floods."""

    name = "udp_flood"
    about = (
        "Far more UDP to one address than it is used to, from many sources or without replies.  What"
        " goes on as the service starts is taken for ordinary."
    )
    title = "UDP"
    word = filter = "udp"
    protocols = (keys.UDP,)


class IcmpFlood(VolumeFlood):
    """ICMP and ICMPv6 floods."""

    name = "icmp_flood"
    about = "Likewise with ICMP and ICMPv6, whether they are answered or not."
    title = "ICMP"
    word = "icmp"
    filter = "(icmp or icmpv6)"
    protocols = (keys.ICMP, keys.ICMPV6)
    # A kernel answers whoever asks; nobody transfers anything by echoes.
    answers_excuse = False
