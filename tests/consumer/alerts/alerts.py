# SPDX-License-Identifier: Apache-2.0
"""Alerts for tests."""

import time
from typing import Any

from consumer.alerts.alert import Alert, Proposal, Sighting

S = 1_000_000_000


def an_alert(
    status: str = "firing",
    *,
    changed_ns: int = 0,
    labels: dict[str, str] | None = None,
    **sighting: Any,
) -> Alert:
    now_ns = time.time_ns()
    seen = {
        "detector": "port-scan",
        "labels": {"node": "web-1", "src_addr": "192.0.2.7"} if labels is None else labels,
        "severity": "warning",
        "summary": "192.0.2.7 tries 1,000 ports of web-1",
        "evidence": "SELECT * FROM flows WHERE src_addr = toIPv6('192.0.2.7')",
        "value": 1000.0,
        "threshold": 100.0,
        "seen_ns": now_ns,
        "began_ns": now_ns - 5 * S,
        "proposal": Proposal("src 192.0.2.7", "drop", 600.0),
        **sighting,
    }
    changed_ns = changed_ns or now_ns
    resolved_ns = changed_ns if status == "resolved" else 0
    return Alert(Sighting(**seen), status, changed_ns, resolved_ns)


def from_host(number: int, **fields: Any) -> Alert:
    """An alert about another host for each *number*."""
    address = f"198.51.100.{number}"
    return an_alert(labels={"node": "web-1", "src_addr": address}, **fields)
