# SPDX-License-Identifier: Apache-2.0
"""What Alertmanager is told: the alerts of its API v2, `POST /api/v2/alerts`.

An alert that fires is sent again and again, with an end in the future: where we are gone, it ends
there by itself, whatever `resolve_timeout` says.  Alertmanager groups, silences and repeats.
https://github.com/prometheus/alertmanager/blob/main/api/v2/openapi.yaml
"""

import re
from typing import Any

from consumer.alerts.alert import Sighting
from consumer.alerts.outlets.change import RESOLVED, Change, Delivery, rfc3339
from consumer.alerts.outlets.destination import Destination

PATH = "/api/v2/alerts"
# So many times may sending fail before a firing alert ends there.
ENDS_AFTER_REPEATS = 4
_NS = 1_000_000_000
_NO_NAME = re.compile(r"[^a-zA-Z0-9_]")


def body(to: Destination, delivery: Delivery, now_ns: int) -> list[dict[str, Any]]:
    """The alerts of a delivery as they are *now*, the latest change of each."""
    latest = {change.alert.sighting.fingerprint: change for change in delivery.changes}
    return [_alert(to, change, now_ns) for change in latest.values()]


def _alert(to: Destination, change: Change, now_ns: int) -> dict[str, Any]:
    alert, sighting = change.alert, change.alert.sighting
    is_over = alert.status == RESOLVED
    ends_ns = alert.resolved_ns or alert.changed_ns
    if not is_over:
        ends_ns = now_ns + int(ENDS_AFTER_REPEATS * to.repeat * _NS)
    posted: dict[str, Any] = {
        "labels": _labels(sighting),
        "annotations": {
            "summary": sighting.summary,
            "evidence": sighting.evidence,
            "value": f"{sighting.value:g}",
            "threshold": f"{sighting.threshold:g}",
            **alert.annotations,
        },
        # An alert that ends before it starts is refused, and with it all others of the request.
        "startsAt": rfc3339(min(sighting.began_ns, ends_ns)),
        "endsAt": rfc3339(ends_ns),
    }
    if link := to.linked(sighting):
        posted["generatorURL"] = link
    return posted


def _labels(sighting: Sighting) -> dict[str, str]:
    """Labels under names that every version takes; those without a value do not exist there."""
    own = {_name(name): value for name, value in sighting.labels.items() if value}
    return {**own, "alertname": sighting.detector, "severity": sighting.severity}


def _name(name: str) -> str:
    plain = _NO_NAME.sub("_", name)
    return f"_{plain}" if plain[:1].isdigit() else plain
