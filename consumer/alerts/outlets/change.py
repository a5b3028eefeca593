# SPDX-License-Identifier: Apache-2.0
"""A change of an alert on its way to one destination, as the queue on disk keeps it."""

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from consumer.alerts.alert import Alert, Proposal, Sighting

FIRING, RESOLVED = "firing", "resolved"
_NS_PER_MS = 1_000_000


@dataclass(frozen=True, slots=True)
class Change:
    """One change; *repeat* counts how often it was told before."""

    alert: Alert
    repeat: int = 0

    @property
    def key(self) -> str:
        """Names the change for ever, so that a receiver knows one that comes twice."""
        first = f"{self.alert.sighting.fingerprint}-{self.alert.changed_ns}"
        # A reminder is meant to be seen, so it is no repetition of the first.
        return f"{first}-{self.repeat}" if self.repeat else first


@dataclass(frozen=True, slots=True)
class Delivery:
    """Changes that go to a destination in one request, always the same ones under its key."""

    number: int
    key: str
    changes: tuple[Change, ...]
    # Of more groups than may be told one by one.
    is_summary: bool = False


def text_from(alert: Alert) -> str:
    """An alert as the queue stores it."""
    return json.dumps(asdict(alert))


def alert_from(text: str) -> Alert:
    """The inverse of `text_from`."""
    fields: dict[str, Any] = json.loads(text)
    sighting = fields.pop("sighting")
    proposal = sighting.pop("proposal")
    return Alert(
        sighting=Sighting(**sighting, proposal=Proposal(**proposal) if proposal else None),
        **fields,
    )


def rfc3339(time_ns: int) -> str:
    """A wall time as RFC 3339 has it, in UTC, to the millisecond."""
    at = datetime.fromtimestamp(time_ns // _NS_PER_MS / 1000, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
