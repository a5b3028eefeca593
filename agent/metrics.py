# SPDX-License-Identifier: Apache-2.0
"""Show Prometheus what the agent and its kernel programs have counted.

Nothing is counted twice: at each scrape the ledger's and the publisher's own numbers are read.
Labels are interfaces and directions only; addresses and ports never become labels, because
anyone who can send packets could then fill our memory.
"""

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from agent.chronicle import Chronicle
from agent.ledger import Ledger
from agent.outbox import Outbox
from agent.owners import OwnerLookup
from agent.publisher import Publisher
from agent.rules.keeper import Keeper
from agent.sockets import SocketBooks
from schemas.ledger import LEDGER

_LABELS = ("interface", "direction")
_PUBLISHED = {
    "agent_published_batches": "batches that Kafka has acknowledged",
    "agent_published_rows": "rows in those batches",
    "agent_published_bytes": "payload bytes of those batches",
    "agent_retried_batches": "batches sent again",
}

_SOCKETS = {
    "agent_socket_events": "socket events that the kernel programs have reported",
    "agent_socket_lost_events": "socket events that the ring buffer had no room for",
}


class _Reader(Collector):
    """Reads at each scrape; a scrape may be an interval behind the kernel."""

    def __init__(
        self,
        ledger: Ledger,
        publisher: Publisher,
        owners: OwnerLookup | None = None,
        sockets: SocketBooks | None = None,
        chronicle: Chronicle | None = None,
        *,
        outbox: Outbox,
        keeper: Keeper | None = None,
        rejected_rules: Mapping[str, int] | None = None,
    ) -> None:
        self._outbox = outbox
        self._keeper = keeper
        self._rejected_rules = rejected_rules or {}
        self._chronicle = chronicle
        self._ledger = ledger
        self._publisher = publisher
        self._owners = owners
        self._sockets = sockets

    def collect(self) -> Iterator[Metric]:
        for name, doc in _PUBLISHED.items():
            value = getattr(self._publisher, f"{name.removeprefix('agent_')}_total")
            yield CounterMetricFamily(name, doc, value=value)
        yield GaugeMetricFamily(
            "agent_waiting_bytes",
            "bytes that wait in the spool for Kafka",
            value=self._outbox.waiting_bytes,
        )
        if self._chronicle is not None:
            yield CounterMetricFamily(
                "agent_dropped_interface_rows",
                "rows about interfaces that were dropped while Kafka was away",
                value=self._chronicle.dropped_rows_total,
            )
        if self._keeper is not None:
            yield from self._of_rules(self._keeper)
        if self._owners is not None:
            yield from _of_owners(self._owners)
        if self._sockets is not None:
            yield from self._socket_counters(self._sockets)
        docs = {field.name: field.doc for field in LEDGER.fields}
        for name, by_place in self._ledger.counted().items():
            family = CounterMetricFamily(f"agent_{name}", docs[name], labels=_LABELS)
            for place, value in by_place.items():
                family.add_metric(place, value)
            yield family

    def _of_rules(self, keeper: Keeper) -> Iterator[Metric]:
        rules = GaugeMetricFamily("agent_rules", "rules that there are", labels=("state",))
        observed = [one.rule.is_observed for one in keeper.rules]
        rules.add_metric(("observed",), sum(observed))
        rules.add_metric(("enforced",), len(observed) - sum(observed))
        yield rules
        rejected = CounterMetricFamily(
            "agent_rejected_rules", "rules of the network that are not obeyed", labels=("reason",)
        )
        for reason, count in list(self._rejected_rules.items()):
            rejected.add_metric((reason,), count)
        yield rejected

    def _socket_counters(self, books: SocketBooks) -> Iterator[Metric]:
        for name, doc in _SOCKETS.items():
            value = getattr(books, f"{name.removeprefix('agent_socket_')}_total")
            yield CounterMetricFamily(name, doc, value=value)


def _of_owners(owners: OwnerLookup) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "agent_known_sockets", "sockets whose owner is known", value=len(owners)
    )
    yield CounterMetricFamily(
        "agent_evicted_sockets",
        "sockets whose owner was dropped for want of room",
        value=owners.evicted_total,
    )


def listen(
    host: str,
    port: int,
    ledger: Ledger,
    publisher: Publisher,
    *,
    outbox: Outbox,
    owners: OwnerLookup | None = None,
    sockets: SocketBooks | None = None,
    chronicle: Chronicle | None = None,
    keeper: Keeper | None = None,
    rejected_rules: Mapping[str, int] | None = None,
) -> None:
    """Serve `/metrics` from a thread until the process ends.

    Raises:
        OSError: the address cannot be bound.
    """
    registry = CollectorRegistry()
    registry.register(
        _Reader(
            *(ledger, publisher, owners, sockets, chronicle),
            outbox=outbox,
            keeper=keeper,
            rejected_rules=rejected_rules,
        )
    )
    start_http_server(port, host, registry=registry)
