# SPDX-License-Identifier: Apache-2.0
"""One destination of alerts: where it is, what it wants to know, and how often."""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from urllib.parse import urlsplit

from consumer.alerts.alert import SEVERITIES, Alert, Sighting
from service.options import Secret

ALERTMANAGER, WEBHOOK, SLACK = "alertmanager", "webhook", "slack"
NONE = Secret()
TYPES = (ALERTMANAGER, WEBHOOK, SLACK)


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """What one entry of the configuration says; times in seconds."""

    name: str
    type: str
    url: Secret
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    authorization: Secret = NONE  # the header of this name
    secret: Secret = NONE  # with which requests are signed
    severity: str = SEVERITIES[0]
    match: Mapping[str, str] = field(default_factory=dict)
    group_by: tuple[str, ...] = ()
    group_wait: float = 0.0
    repeat: float = 0.0
    per_minute: float = 60.0
    burst: int = 5
    max_age: float = 86_400.0
    max_waiting: int = 10_000
    link: str = ""
    exposed: tuple[str, ...] = ()  # files with its secrets that every user can read
    context: ssl.SSLContext | None = field(default=None, repr=False)

    @property
    def shown(self) -> str:
        """Its address without what may be a secret, which is all but the host."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"

    def wants(self, alert: Alert) -> bool:
        """Whether it is to be told that *alert* fires."""
        sighting = alert.sighting
        if SEVERITIES.index(sighting.severity) < SEVERITIES.index(self.severity):
            return False
        known = labels(sighting)
        return all(fnmatchcase(known.get(name, ""), one) for name, one in self.match.items())

    def group(self, alert: Alert) -> str:
        """What alerts have in common that are told together."""
        known = labels(alert.sighting)
        return "\0".join(f"{name}={known.get(name, '')}" for name in self.group_by)

    def linked(self, sighting: Sighting) -> str:
        """The address of a page about the alert; empty where there is none."""
        return self.link.replace("{fingerprint}", sighting.fingerprint).replace(
            "{detector}", sighting.detector
        )


def labels(sighting: Sighting) -> dict[str, str]:
    """By what an alert can be matched and grouped: its labels, its detector and its severity."""
    return {**sighting.labels, "detector": sighting.detector, "severity": sighting.severity}
