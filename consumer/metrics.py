# SPDX-License-Identifier: Apache-2.0
"""Count what moves, is lost or waits, and show it to Prometheus.

Labels are topics, tables and partitions only: nothing that a record holds becomes a label,
because anyone who may write to a topic could then fill our memory.
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
from schemas.layout import Record

INSERT_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """Every counter and gauge of one consumer, in a registry of its own."""

    def __init__(self, kinds: Sequence[Record]) -> None:
        self._values = {
            "topic": [kind.topic for kind in kinds],
            "table": [kind.table for kind in kinds],
        }
        # The creation time of each counter would double the page and tell nothing.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self.records = self._counter("records", "records fetched", "topic")
        self.payload_bytes = self._counter("payload_bytes", "payload bytes fetched", "topic")
        self.rejected_records = self._counter(
            "rejected_records", "records put into the dead letter topic", "topic"
        )
        self.lost_records = self._counter(
            "lost_records", "records that Kafka deleted before we read them", "topic"
        )
        self.unknown_columns = self._counter(
            "unknown_columns", "columns ignored because this version does not know them", "topic"
        )
        self.defaulted_columns = self._counter(
            "defaulted_columns", "columns that records lacked and defaults filled", "topic"
        )
        self.repeated_batches = self._counter(
            "repeated_batches", "batches left out because they are stored already", "topic"
        )
        self.doubtful_batches = self._counter(
            "doubtful_batches", "batches that ClickHouse was asked about", "topic"
        )
        self.completed_batches = self._counter(
            "completed_batches",
            "batches of which some days' rows were stored, and now all",
            "topic",
        )
        self.incomplete_batches = self._counter(
            "incomplete_batches", "batches that have lost rows of a day in ClickHouse", "topic"
        )
        self.void_plans = self._counter(
            "void_plans", "plans that could not be followed or read", "topic"
        )
        self.inserted_rows = self._counter("inserted_rows", "rows stored", "table")
        self.retried_inserts = self._counter(
            "retried_inserts", "inserts repeated after an error that passes", "table"
        )
        self.refused_inserts = self._counter(
            "refused_inserts", "inserts that ClickHouse refused for what rows hold", "table"
        )
        self.retried_queries = self._counter(
            "retried_queries", "queries for batches repeated after an error that passes", "table"
        )
        self.repeated_blocks = self._counter(
            "repeated_blocks",
            "blocks inserted again as an owner before us had planned them",
            "table",
        )
        self.restored_rows = self._counter(
            "restored_rows",
            "rows stored again that ClickHouse had lost as it was killed, and took for stored",
            "table",
        )
        self.uncommitted_inserts = self._counter(
            "uncommitted_inserts",
            "inserts whose partitions moved before the commit; the next owner repeats them",
            "table",
        )
        self.commits = self._counter("commits", "commits of offsets and plans", "table")
        self.insert_seconds = Histogram(
            "consumer_insert_seconds",
            "time from a block's turn to its rows being stored",
            ["table"],
            buckets=INSERT_SECONDS,
            registry=self.registry,
        )
        self.pending_rows = self._gauge("pending_rows", "rows waiting for their insert", "table")
        self.assigned_partitions = self._gauge("assigned_partitions", "partitions we read")
        self.waiting_partitions = self._gauge(
            "waiting_partitions", "partitions left alone because of a newer consumer's plan"
        )
        self._lag = self._gauge("lag_records", "records waiting in Kafka", "topic", "partition")

    def _counter(self, name: str, doc: str, label: str) -> Counter:
        counter = Counter(f"consumer_{name}", doc, [label], registry=self.registry)
        # A counter that is absent until the first loss cannot be watched for it.
        for value in self._values[label]:
            counter.labels(value)
        return counter

    def _gauge(self, name: str, doc: str, *labels: str) -> Gauge:
        return Gauge(f"consumer_{name}", doc, labels, registry=self.registry)

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
