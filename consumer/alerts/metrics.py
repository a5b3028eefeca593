# SPDX-License-Identifier: Apache-2.0
"""Count what the alerting service reads, finds and tells, and show it to Prometheus.

Labels are topics and names of detectors only: nothing that a record holds becomes a label.
"""

from collections.abc import Mapping, Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    start_http_server,
)

from consumer.record import Partition

LATENCY_SECONDS = (0.1, 0.25, 0.5, 1, 2, 3, 5, 10, 30, 60, 180)


class Metrics:
    """Every counter and gauge of one alerting service, in a registry of its own."""

    def __init__(self, topics: Sequence[str], detectors: Sequence[str]) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._values = {"topic": topics, "detector": detectors}
        self.records = self._counter("records", "records fetched", "topic")
        self.rows = self._counter("rows", "rows that detectors looked at", "topic")
        self.rejected_records = self._counter(
            "rejected_records", "records that could not be decoded, and were passed over", "topic"
        )
        self.repeated_batches = self._counter(
            "repeated_batches", "batches left out because they had come before", "topic"
        )
        self.lost_records = self._counter(
            "lost_records", "records that Kafka deleted before we read them", "topic"
        )
        self.sightings = self._counter("sightings", "findings, before they are joined", "detector")
        self.held_back = self._counter(
            "dropped_alerts", "alerts that were not begun because of the limit", "detector"
        )
        self.changes = Counter(
            "alert_changes", "changes of alerts", ["detector", "status"], registry=self.registry
        )
        self._lag = self._gauge("lag_records", "records waiting in Kafka", "topic", "partition")
        self.firing = self._gauge("firing_alerts", "alerts that fire", "detector")
        self.size_bytes = self._gauge("detector_bytes", "memory of its arrays", "detector")
        self.seconds = Histogram(
            "alert_detector_seconds",
            "time that a detector takes for the rows of a fetch",
            ["detector"],
            buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1),
            registry=self.registry,
        )
        self.latency = Histogram(
            "alert_latency_seconds",
            "time from the latest row that shows a new alert to its being durable",
            buckets=LATENCY_SECONDS,
            registry=self.registry,
        )

    def _counter(self, name: str, doc: str, label: str) -> Counter:
        counter = Counter(f"alert_{name}", doc, [label], registry=self.registry)
        for value in self._values[label]:
            counter.labels(value)
        return counter

    def _gauge(self, name: str, doc: str, *labels: str) -> Gauge:
        return Gauge(f"alert_{name}", doc, labels, registry=self.registry)

    def set_lag(self, lag: Mapping[Partition, int]) -> None:
        """Show the lag of these partitions and of no others."""
        self._lag.clear()
        for (topic, partition), records in lag.items():
            self._lag.labels(topic, str(partition)).set(records)

    def listen(self, host: str, port: int) -> None:
        """Serve `/metrics` from a thread until the process ends.

        Raises:
            OSError: the address cannot be bound.
        """
        start_http_server(port, host, registry=self.registry)
