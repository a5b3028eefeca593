# SPDX-License-Identifier: Apache-2.0
"""What a webhook is told: one JSON document a request, described in docs/how-to/send-alerts.md.

Fields are only ever added to it.
"""

import hmac
import math
from dataclasses import asdict
from typing import Any

from consumer.alerts.outlets.change import Change, Delivery, rfc3339
from consumer.alerts.outlets.destination import Destination, labels

VERSION = 1
SIGNATURE_HEADER = "X-Hookline-Signature"


def body(to: Destination, delivery: Delivery) -> dict[str, Any]:
    """A delivery, the same whenever it is made."""
    groups = [labels(change.alert.sighting) for change in delivery.changes]
    shared = {} if delivery.is_summary else {name: groups[0].get(name, "") for name in to.group_by}
    return {
        "version": VERSION,
        "key": delivery.key,
        "outlet": to.name,
        "group": shared,
        "is_summary": delivery.is_summary,
        "alerts": [_alert(to, change) for change in delivery.changes],
    }


def _alert(to: Destination, change: Change) -> dict[str, Any]:
    alert, sighting = change.alert, change.alert.sighting
    return {
        "key": change.key,
        "fingerprint": sighting.fingerprint,
        "status": alert.status,
        "repeat": change.repeat,
        "detector": sighting.detector,
        "severity": sighting.severity,
        "labels": dict(sighting.labels),
        "summary": sighting.summary,
        "evidence": sighting.evidence,
        "value": _number(sighting.value),
        "threshold": _number(sighting.threshold),
        "began_at": rfc3339(sighting.began_ns),
        "seen_at": rfc3339(sighting.seen_ns),
        "changed_at": rfc3339(alert.changed_ns),
        "resolved_at": rfc3339(alert.resolved_ns) if alert.resolved_ns else None,
        "annotations": dict(alert.annotations),
        "proposal": asdict(sighting.proposal) if sighting.proposal else None,
        "link": to.linked(sighting),
    }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None  # JSON has no others


def signature(secret: str, content: bytes) -> str:
    """The value of the header that proves who has sent *content*: HMAC-SHA256 of it."""
    return "sha256=" + hmac.new(secret.encode(), content, "sha256").hexdigest()
