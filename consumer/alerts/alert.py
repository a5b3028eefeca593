# SPDX-License-Identifier: Apache-2.0
"""What a detector has found: a sighting, which the board turns into alerts that begin and end."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256

SEVERITIES = ("info", "warning", "critical")
_FINGERPRINT_DIGITS = 16


@dataclass(frozen=True, slots=True)
class Proposal:
    """A rule that would end what an alert tells of; policy decides whether it is made."""

    match: str  # in the language of `hookline flows`
    action: str  # as rules call it: drop or limit
    seconds: float  # how long it should last


@dataclass(frozen=True, slots=True)
class Sighting:
    """One thing that a detector sees now.

    *labels* tell it from others of the same detector: sightings with the same labels are one alert
    that goes on.  *evidence* is an SQL query that shows the rows.
    """

    detector: str
    labels: Mapping[str, str]
    severity: str
    summary: str
    evidence: str
    value: float
    threshold: float
    seen_ns: int  # wall time of the latest row that shows it
    began_ns: int  # wall time of the first
    proposal: Proposal | None = None

    @property
    def fingerprint(self) -> str:
        """Names the alert, the same in every process and run."""
        parts = [self.detector, *(f"{key}={self.labels[key]}" for key in sorted(self.labels))]
        return sha256("\0".join(parts).encode()).hexdigest()[:_FINGERPRINT_DIGITS]


@dataclass(frozen=True, slots=True)
class Alert:
    """A change of an alert: it fires, still fires, or is resolved.  Outlets deliver these."""

    sighting: Sighting
    status: str  # firing, resolved
    changed_ns: int  # wall time of this change
    resolved_ns: int = 0  # 0 while it fires
    annotations: Mapping[str, str] = field(default_factory=dict)
