# SPDX-License-Identifier: Apache-2.0
"""Changes of alerts as rows of the kind `alert`, in batches that this service numbers."""

import json
from collections.abc import Sequence

import numpy as np

from consumer.alerts.alert import Alert, Proposal
from schemas.alert import ALERT, SEVERITIES, STATUSES
from schemas.wire import LATEST_TIME_NS, MAX_NAME_BYTES, Batch, Column, Names, Text

# Far below what a broker takes: 1 MiB, of which an alert is a few thousand bytes.
MOST_ROWS = 64
_MOST_TEXT_BYTES = 8192


def batches(
    alerts: Sequence[Alert], *, node: str, boot_id: str, run: str, first_seq: int
) -> list[Batch]:
    """The rows of *alerts*, in batches numbered from *first_seq*."""
    return [
        Batch(
            kind=ALERT.kind,
            node=node,
            boot_id=boot_id,
            run=run,
            seq=first_seq + number,
            anchor={},
            rows=len(some := alerts[start : start + MOST_ROWS]),
            columns=_columns(some),
        )
        for number, start in enumerate(range(0, len(alerts), MOST_ROWS))
    ]


def _columns(alerts: Sequence[Alert]) -> dict[str, Column]:
    sightings = [alert.sighting for alert in alerts]
    proposals = [one.proposal or Proposal("", "", 0.0) for one in sightings]
    return {
        "time": _times([alert.changed_ns for alert in alerts]),
        "began": _times([one.began_ns for one in sightings]),
        "resolved": _times([alert.resolved_ns for alert in alerts]),
        "detector": _names([one.detector for one in sightings]),
        "severity": np.array([SEVERITIES[one.severity] for one in sightings], "|u1"),
        "status": np.array([STATUSES[alert.status] for alert in alerts], "|u1"),
        "fingerprint": _texts([one.fingerprint for one in sightings]),
        "summary": _texts([one.summary for one in sightings]),
        "labels": _texts([_json(one.labels) for one in sightings]),
        "value": np.array([one.value for one in sightings], "<f8"),
        "threshold": np.array([one.threshold for one in sightings], "<f8"),
        "evidence": _texts([one.evidence for one in sightings]),
        "proposed_match": _texts([one.match for one in proposals]),
        "proposed_action": _names([one.action for one in proposals]),
        "proposed_seconds": np.array([one.seconds for one in proposals], "<f8"),
    }


def _json(labels: object) -> str:
    return json.dumps(labels, ensure_ascii=False, sort_keys=True, default=dict)


def _times(times_ns: Sequence[int]) -> Column:
    # Rows may come from a node whose clock is wrong.
    return np.asarray(np.clip(np.array(times_ns, "<i8"), 0, LATEST_TIME_NS - 1))


def _names(names: Sequence[str]) -> Column:
    cut = [_cut(name, MAX_NAME_BYTES).decode() for name in names]
    categories = tuple(dict.fromkeys(cut))
    return Names(np.array([categories.index(name) for name in cut], "|u1"), categories)


def _texts(texts: Sequence[str]) -> Column:
    encoded = [_cut(text, _MOST_TEXT_BYTES) for text in texts]
    return Text(
        np.array([len(one) for one in encoded], "<u2"),
        np.frombuffer(b"".join(encoded), np.uint8),
    )


def _cut(text: str, most_bytes: int) -> bytes:
    return text.encode(errors="replace")[:most_bytes].decode(errors="ignore").encode()
