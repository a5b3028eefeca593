# SPDX-License-Identifier: Apache-2.0
"""Turn sightings into alerts that begin, go on and end.

Sightings with the same fingerprint are one alert.  It fires once; while it is seen it is told again
now and then, and at once when it gets worse; it is resolved when it has not been seen for its hold
time.  A detector may begin so many alerts a minute.  Beyond that one alert says how many more there
are, so that neither an attacker nor a threshold that is too low can bury people in messages.

The times of changes are made of the rows' times, so whoever reads the same rows again, after a
crash, tells of the same changes.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from consumer.alerts.alert import SEVERITIES, Alert, Sighting
from consumer.alerts.evidence import literal, query
from consumer.alerts.rows import NS_PER_S

MOST_ALERTS = 4096
_WINDOW_S = 60.0


@dataclass(slots=True)
class _Open:
    first: Sighting
    latest: Sighting
    seen_at: float  # by the clock
    told_at: float
    hold_s: float


class Board:
    """The alerts that fire now.

    *holds* are the hold times of detectors, *new_per_minute* is for each detector, and an alert
    that goes on is told again every *refresh_s* seconds.
    """

    def __init__(
        self, holds: Mapping[str, float], *, new_per_minute: int, refresh_s: float
    ) -> None:
        self._holds = holds
        self._new_per_minute = new_per_minute
        self._refresh_s = refresh_s
        self._open: dict[str, _Open] = {}
        self._begun: dict[str, deque[float]] = {}
        self.held_back: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._open)

    def firing(self) -> list[Sighting]:
        """What is seen of every alert that fires."""
        return [one.latest for one in self._open.values()]

    def restore(self, firing: Iterable[tuple[Sighting, Sighting]], now: float) -> None:
        """Go on with alerts that fired when the service ended: their first and latest sightings."""
        for first, latest in firing:
            hold_s = self._hold_of(latest)
            self._open[first.fingerprint] = _Open(first, latest, now, now, hold_s)

    def kept(self) -> list[tuple[Sighting, Sighting]]:
        """What `restore` takes."""
        return [(one.first, one.latest) for one in self._open.values()]

    def update(self, sightings: Sequence[Sighting], now: float) -> list[Alert]:
        """The changes that *sightings* make, and that time has made; *now* in seconds of the clock."""
        changes = []
        for fingerprint, sighting in _merged(sightings).items():
            if opened := self._open.get(fingerprint):
                changes += self._again(opened, sighting, now)
            elif self._may_begin(sighting.detector, now):
                changes.append(self._begin(fingerprint, sighting, now))
            else:
                changes += self._hold_back(sighting, now)
        return changes + self._end(now)

    def _begin(self, fingerprint: str, sighting: Sighting, now: float) -> Alert:
        self._open[fingerprint] = _Open(sighting, sighting, now, now, self._hold_of(sighting))
        return Alert(sighting, "firing", sighting.seen_ns)

    def _again(self, opened: _Open, sighting: Sighting, now: float) -> list[Alert]:
        latest = replace(
            sighting,
            began_ns=min(opened.first.began_ns, sighting.began_ns),
            seen_ns=max(opened.latest.seen_ns, sighting.seen_ns),
        )
        is_worse = SEVERITIES.index(latest.severity) > SEVERITIES.index(opened.latest.severity)
        opened.latest, opened.seen_at = latest, now
        if not is_worse and now - opened.told_at < self._refresh_s:
            return []
        opened.told_at = now
        return [Alert(latest, "firing", latest.seen_ns)]

    def _may_begin(self, detector: str, now: float) -> bool:
        begun = self._begun.setdefault(detector, deque())
        while begun and begun[0] <= now - _WINDOW_S:
            begun.popleft()
        if len(begun) >= self._new_per_minute or len(self._open) >= MOST_ALERTS:
            return False
        begun.append(now)
        return True

    def _hold_back(self, sighting: Sighting, now: float) -> list[Alert]:
        """Say in one alert that there are more than are told."""
        detector = sighting.detector
        count = self.held_back[detector] = self.held_back.get(detector, 0) + 1
        more = Sighting(
            detector=detector,
            labels={"more": "yes"},
            severity=sighting.severity,
            summary=f"more {detector} alerts than {self._new_per_minute} a minute; the latest held"
            f" back: {sighting.summary}",
            evidence=query(
                "time, severity, status, summary", "alerts", f"detector = {literal(detector)}"
            ),
            value=float(count),
            threshold=float(self._new_per_minute),
            seen_ns=sighting.seen_ns,
            began_ns=sighting.began_ns,
        )
        if opened := self._open.get(more.fingerprint):
            return self._again(opened, more, now)
        return [self._begin(more.fingerprint, more, now)]

    def _end(self, now: float) -> list[Alert]:
        over = [key for key, one in self._open.items() if now - one.seen_at >= one.hold_s]
        ended = []
        for fingerprint in over:
            one = self._open.pop(fingerprint)
            at = one.latest.seen_ns + int(one.hold_s * NS_PER_S)
            ended.append(Alert(one.latest, "resolved", at, resolved_ns=at))
        return ended

    def _hold_of(self, sighting: Sighting) -> float:
        return self._holds.get(sighting.detector, _WINDOW_S)


def _merged(sightings: Sequence[Sighting]) -> dict[str, Sighting]:
    """Of sightings of the same alert the one with the largest value, with the times of all."""
    merged: dict[str, Sighting] = {}
    for one in sightings:
        fingerprint = one.fingerprint
        if other := merged.get(fingerprint):
            most = one if one.value > other.value else other
            merged[fingerprint] = replace(
                most,
                began_ns=min(one.began_ns, other.began_ns),
                seen_ns=max(one.seen_ns, other.seen_ns),
            )
        else:
            merged[fingerprint] = one
    return merged
