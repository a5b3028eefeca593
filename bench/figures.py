# SPDX-License-Identifier: Apache-2.0
"""Find in results the figures that capacity is computed from: where each stands, and what it is."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

KINDS = ("flow", "packet", "socket", "ledger", "delivery")


class MissingError(Exception):
    """Results lack what is computed from; the text is one line that says how to get it."""


@dataclass(frozen=True, slots=True)
class Source:
    """A cell of a subject's tables; *title* may be a part of the table's own."""

    meaning: str
    subject: str
    title: str
    row: object
    column: str
    factor: float = 1.0


_LEVEL = "1,000 nodes, every 5 s"
_PARTS, _COSTS = "What the parts took", "What one of each costs"
SOURCES = {
    "agent_percent": Source(
        "an agent without traffic, % of a CPU", "live", "The agent's share", "none", "CPU %"
    ),
    "agent_row_us": Source(
        "an agent, CPU microseconds a flow row until it is acknowledged",
        *("flowcache", "100,000 flows", "all, until acknowledged", "CPU ms"),
        factor=1000 / 100_000,
    ),
    "agent_mb": Source("an agent, resident MB", "memory", "of traffic", "agent", "at the end"),
    "kafka_row_bytes": Source(
        "a row in Kafka, bytes", "scale", _PARTS, _LEVEL, "bytes a row in Kafka"
    ),
    "broker_record_us": Source(
        "a broker, CPU microseconds a record",
        *("scale", _PARTS, _LEVEL, "broker, CPU microseconds a record"),
    ),
    "consumer_insert_us": Source(
        "a consumer, CPU microseconds an insert", "scale", _COSTS, "consumers", "an insert"
    ),
    "consumer_record_us": Source("a record", "scale", _COSTS, "consumers", "a record"),
    "consumer_row_us": Source("a row", "scale", _COSTS, "consumers", "a row"),
    "consumer_mb": Source(
        "a consumer, resident MB", "scale", "Resident memory", _LEVEL, "a consumer MB"
    ),
    "run_bytes": Source(
        "a run that a consumer remembers, bytes", "scale", "Runs of one partition", 1, "bytes a run"
    ),
    "clickhouse_insert_us": Source(
        "ClickHouse, CPU microseconds an insert", "scale", _COSTS, "clickhouse", "an insert"
    ),
    "clickhouse_row_us": Source("a row", "scale", _COSTS, "clickhouse", "a row"),
    "alert_row_ns": Source(
        "the alert service, CPU nanoseconds a flow row",
        *("alerts", "A row in the detectors", "all, with decoding, 200 x 50", "ns a row"),
    ),
    **{
        f"{kind}_disk_bytes": Source(
            f"a row of {kind} on ClickHouse's disk, bytes",
            "scale",
            "On the disk",
            kind,
            "bytes a row",
        )
        for kind in KINDS
    },
}

Figures = Mapping[str, float]


def figures(results: Mapping[str, Any]) -> dict[str, float]:
    """Every input by its name in SOURCES.

    Raises:
        MissingError: a subject has not been measured, or has no such cell.
    """
    found = {name: _cell(results, source) * source.factor for name, source in SOURCES.items()}
    if (measured := _history_bytes(results)) is not None:
        found["flow_disk_bytes"] = measured
    return found


def _cell(results: Mapping[str, Any], source: Source) -> float:
    again = f"measure it: python -m bench {source.subject}"
    subject = results.get("subjects", {}).get(source.subject)
    if subject is None:
        raise MissingError(f"there are no results of {source.subject}; {again}")
    for one in subject.get("tables", ()):
        if source.title not in one["title"] or source.column not in one["columns"]:
            continue
        at = one["columns"].index(source.column)
        for row in one["rows"]:
            if row[0] == source.row:
                return _middle(row[at])
    raise MissingError(
        f"results of {source.subject} have no {source.column!r} of {source.row!r}"
        f" in a table {source.title!r}; {again}"
    )


def _middle(value: Any) -> float:
    return float(value["median"] if isinstance(value, Mapping) else value)


def _history_bytes(results: Mapping[str, Any]) -> float | None:
    """Bytes on the disk for a flow, its rollups included, of a history of many days."""
    column = "bytes a flow row"
    for one in results.get("subjects", {}).get("queries", {}).get("tables", ()):
        if column in one["columns"]:
            at = one["columns"].index(column)
            rows = [row for row in one["rows"] if row[0].strip("`").startswith("flows")]
            return sum(_middle(row[at]) for row in rows)
    return None
