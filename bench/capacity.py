# SPDX-License-Identifier: Apache-2.0
"""Compute what so many nodes need, from what was measured on one machine.

    python -m bench.capacity [--nodes 300] [--interval 1] [--flows 55] [--results FILE]

Every input is a cell of a subject's results, named in bench/figures.py; those that no subject measures are
constants here.  `python -m bench --report-only` writes the same into docs/explanation/scale.md, where
the formulas are explained.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from bench.figures import KINDS, SOURCES, Figures, MissingError, figures
from bench.nodes import INTERFACES, mean_rows
from bench.rounds import table
from consumer.config import Config
from consumer.stored import MAX_RUNS

DAY_S = 86_400
KAFKA_DAYS = 1  # the retention that we set
TABLE_DAYS = 30
NEW_SHARE = 0.2  # of the flows of a second, those that were not there in the second before
# Rows an interval, whatever a node sees: two directions of each interface, and a row for each kind.
BOOK_ROWS = {"ledger": 2 * len(INTERFACES), "delivery": len(KINDS)}
BUSY = 0.6  # of a consumer's one CPU; the rest is for what waited while it was away
COPIES = 3
# Each makes a part, which somebody has to merge.
MOST_INSERTS_A_TABLE = 4.0
PARTITIONS_A_CONSUMER = 2
AGE_S = Config().max_age
FLOW_AGE_S = Config().flow_max_age
_MB, _GB = 1e6, 1e9


@dataclass(frozen=True, slots=True)
class Fleet:
    """So many nodes; *flows* is what one of them has in a second, on average."""

    nodes: int
    interval_s: float = 1.0
    flows: float = mean_rows("flow")

    def rows(self, kind: str) -> float:
        """Rows a second of all nodes.

        A flow that goes on has a row an interval, however long that is; one that is new has one
        of its own.
        """
        if kind in BOOK_ROWS:
            return self.nodes * BOOK_ROWS[kind] / self.interval_s
        flows = self.nodes * self.flows
        if kind == "flow":
            return flows * (NEW_SHARE + (1 - NEW_SHARE) / self.interval_s)
        return flows * mean_rows(kind) / mean_rows("flow")

    @property
    def all_rows(self) -> float:
        return sum(map(self.rows, KINDS))

    @property
    def records(self) -> float:
        return self.nodes * len(KINDS) / self.interval_s


@dataclass(frozen=True, slots=True)
class Plan:
    """What a fleet needs."""

    fleet: Fleet
    of: Figures
    partitions: int

    @classmethod
    def computed(cls, fleet: Fleet, of: Figures) -> "Plan":
        """With the fewest partitions, a power of two, that give every consumer and run its place."""
        plan = cls(fleet, of, 1)
        while plan.partitions < max(
            PARTITIONS_A_CONSUMER * plan.consumers, ceil(fleet.nodes / (MAX_RUNS / 2))
        ):
            plan = cls(fleet, of, 2 * plan.partitions)
        return plan

    def age_s(self, kind: str) -> float:
        """How long rows wait for more, so that a table has no more inserts than it should."""
        usual = FLOW_AGE_S if kind == "flow" else AGE_S
        return max(usual, self.partitions / MOST_INSERTS_A_TABLE)

    @property
    def inserts(self) -> float:
        """Inserts a second, at most: each partition of each topic has its own."""
        return sum(self.partitions / self.age_s(kind) for kind in KINDS)

    @property
    def agent_percent(self) -> float:
        """Of one CPU, on a node that is as most are."""
        rows = self.fleet.rows("flow") / self.fleet.nodes
        return self.of["agent_percent"] + rows * self.of["agent_row_us"] / 1e4

    @property
    def kafka_bytes(self) -> float:
        """Bytes a second that agents send, as Kafka keeps them."""
        return self.fleet.all_rows * self.of["kafka_row_bytes"]

    @property
    def copies(self) -> int:
        return COPIES if self.brokers >= COPIES else 1

    @property
    def brokers(self) -> int:
        """One will do for a few nodes; three outlive one of them."""
        return 1 if self.fleet.nodes < 100 else COPIES

    @property
    def broker_cpus(self) -> float:
        """Of all brokers, if a copy costs its broker as much as the first one does."""
        return self.copies * self.fleet.records * self.of["broker_record_us"] / 1e6

    @property
    def consumer_cpus(self) -> float:
        return self._cpus("consumer") + self.fleet.records * self.of["consumer_record_us"] / 1e6

    @property
    def clickhouse_cpus(self) -> float:
        return self._cpus("clickhouse")

    def _cpus(self, part: str) -> float:
        of_inserts = self.inserts * self.of[f"{part}_insert_us"]
        return (of_inserts + self.fleet.all_rows * self.of[f"{part}_row_us"]) / 1e6

    @property
    def consumers(self) -> int:
        return ceil(self.consumer_cpus / BUSY)

    @property
    def consumer_mb(self) -> float:
        """Of one, which remembers the runs of its nodes for each kind."""
        runs = self.fleet.nodes / self.consumers * len(KINDS)
        return self.of["consumer_mb"] + runs * self.of["run_bytes"] / _MB

    @property
    def alert_cpus(self) -> float:
        return self.fleet.rows("flow") * self.of["alert_row_ns"] / 1e9

    @property
    def disk_bytes(self) -> float:
        """Bytes a second that stay on ClickHouse's disk."""
        return sum(self.fleet.rows(kind) * self.of[f"{kind}_disk_bytes"] for kind in KINDS)

    @property
    def most_cpus(self) -> str:
        parts = {
            "brokers": self.broker_cpus,
            "consumers": self.consumer_cpus,
            "ClickHouse": self.clickhouse_cpus,
            "alerts": self.alert_cpus,
        }
        return max(parts, key=lambda name: parts[name])

    def lines(self) -> Iterator[tuple[str, object]]:
        """Each line of the table: what it is, and how much."""
        fleet, a_day = self.fleet, DAY_S / _GB
        yield "flow rows a second", round(fleet.rows("flow"))
        yield "rows a second", round(fleet.all_rows)
        yield "records a second", round(fleet.records)
        yield "an agent, % of a CPU", round(self.agent_percent, 2)
        yield "an agent, MB", round(self.of["agent_mb"])
        yield "into Kafka, Mbit/s", round(8 * self.kafka_bytes / _MB, 1)
        yield "brokers", self.brokers
        yield "partitions of a topic", self.partitions
        yield "brokers' CPUs in all, at most", round(self.broker_cpus, 2)
        kept = self.kafka_bytes * DAY_S * KAFKA_DAYS * self.copies
        yield "copies of a record", self.copies
        yield f"Kafka's disks in all, GB for {KAFKA_DAYS} day", round(kept / _GB)
        yield "`--max-age`, seconds", round(self.age_s("ledger"), 1)
        yield "`--flow-max-age`, seconds", round(self.age_s("flow"), 1)
        yield "consumers' CPUs in all", round(self.consumer_cpus, 2)
        yield "consumers", self.consumers
        yield "a consumer, MB", round(self.consumer_mb)
        yield "inserts a second, at most", round(self.inserts, 1)
        yield "ClickHouse, CPUs to insert", round(self.clickhouse_cpus, 2)
        yield "ClickHouse, million rows a day", round(fleet.all_rows * DAY_S / 1e6)
        yield "ClickHouse, GB a day", round(self.disk_bytes * a_day, 1)
        yield f"ClickHouse, GB for {TABLE_DAYS} days", round(self.disk_bytes * a_day * TABLE_DAYS)
        yield "alert service, CPUs", round(self.alert_cpus, 2)
        yield "most CPUs are taken by", self.most_cpus


FLEETS = (
    Fleet(10),
    Fleet(1000),
    Fleet(1000, 5.0),
    Fleet(10_000),
    Fleet(10_000, 5.0),
)


def tables(results: Mapping[str, Any]) -> dict[str, list[dict]]:
    """What the page shows, by the names of its markers.

    Raises:
        MissingError: see `figures`.
    """
    of = figures(results)
    inputs = [
        [source.meaning, f"`{source.subject}`", round(of[name], 2)]
        for name, source in SOURCES.items()
    ]
    return {
        "inputs": [table("What is computed from", ["what", "subject", "measured"], inputs)],
        "capacity": [computed(FLEETS, of)],
    }


def computed(fleets: tuple[Fleet, ...], of: Figures) -> dict:
    plans = [dict(Plan.computed(fleet, of).lines()) for fleet in fleets]
    heads = [f"{one.nodes:,} nodes, {one.interval_s:g} s" for one in fleets]
    return table(
        "Computed",
        ["", *heads],
        [[name, *(plan[name] for plan in plans)] for name in plans[0]],
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.capacity",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--interval", type=float, default=1.0, help="seconds (default: 1)")
    parser.add_argument(
        "--flows", type=float, default=mean_rows("flow"), help="of a node in a second, on average"
    )
    parser.add_argument("--results", type=Path, help="default: the newest of bench/results/")
    arguments = parser.parse_args()
    folder = Path(__file__).parent / "results"
    path = arguments.results or max(folder.glob("*.json"), key=lambda one: one.stat().st_mtime)
    try:
        of = figures(json.loads(path.read_text()))
    except MissingError as error:
        sys.exit(f"{path}: {error}")
    for name, value in Plan.computed(
        Fleet(arguments.nodes, arguments.interval, arguments.flows), of
    ).lines():
        print(f"{name:44} {value:>12,}" if not isinstance(value, str) else f"{name:44} {value:>12}")


if __name__ == "__main__":
    main()
