# SPDX-License-Identifier: Apache-2.0
"""Count what becomes of alerts on their way to each outlet, and show what waits.

The only label is an outlet's name, which comes from the configuration.
"""

import time
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge

_NS = 1e9


class OutletMetrics:
    """The counters and gauges of all outlets, in *registry*."""

    def __init__(self, names: Sequence[str], registry: CollectorRegistry) -> None:
        self._names = names
        self._registry = registry
        self._oldest_ns = dict.fromkeys(names, 0)
        self.sent = self._counter("sent_alerts", "changes of alerts that the outlet has taken")
        self.known = self._counter(
            "known_alerts", "changes not sent because the outlet had been told the same"
        )
        self.retried = self._counter("retried_requests", "requests to be made again")
        self.rejected = self._counter("rejected_alerts", "changes that the outlet has refused")
        self.lost = self._counter(
            "lost_alerts", "changes given up because they waited too long, or too many did"
        )
        self.held = self._counter(
            "held_alerts", "changes held back by the rate limit and sent in a summary"
        )
        self._waiting = self._gauge("waiting_alerts", "changes that wait to be sent")
        oldest = self._gauge("oldest_waiting_seconds", "how long the oldest of them has waited")
        for name in names:
            oldest.labels(name).set_function(lambda name=name: self._age_s(name))  # type: ignore[misc]

    def _counter(self, name: str, doc: str) -> Counter:
        counter = Counter(f"alert_outlet_{name}", doc, ["outlet"], registry=self._registry)
        # A counter that is absent until the first loss cannot be watched for it.
        for outlet in self._names:
            counter.labels(outlet)
        return counter

    def _gauge(self, name: str, doc: str) -> Gauge:
        return Gauge(f"alert_outlet_{name}", doc, ["outlet"], registry=self._registry)

    def set_waiting(self, outlet: str, changes: int, oldest_ns: int) -> None:
        """Show how many changes wait, and since which wall time the oldest does."""
        self._waiting.labels(outlet).set(changes)
        self._oldest_ns[outlet] = oldest_ns if changes else 0

    def _age_s(self, outlet: str) -> float:
        oldest_ns = self._oldest_ns[outlet]
        return max(0.0, time.time() - oldest_ns / _NS) if oldest_ns else 0.0
