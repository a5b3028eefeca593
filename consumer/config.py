# SPDX-License-Identifier: Apache-2.0
"""What can be set on a consumer, with its default, meaning and limits."""

from dataclasses import dataclass
from math import inf

from consumer.server_options import CLICKHOUSE, ServerOptions
from schemas.clickhouse import RETENTION_DAYS
from schemas.rollup_sql import ROLLUP_DAYS
from service.broker import KAFKA
from service.logs import LEVELS
from service.options import ConfigError, host_and_port, option

CLIENT_ID = "hookline-consumer"

BATCHES = "batches"
PROCESS = "process"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(ServerOptions):
    """All options of one consumer.

    Raises:
        ConfigError: a value is out of its limits, or does not go with another.
    """

    group: str = option("hookline-consumer", "consumer group", group=KAFKA)
    group_instance: str = option(
        "",
        "a name for this member that survives restarts, so that a restart moves no partitions;"
        " no two consumers may share it",
        group=KAFKA,
        metavar="NAME",
    )

    retention_days: int = option(
        RETENTION_DAYS, "days after which rows are deleted", group=CLICKHOUSE, metavar="DAYS"
    )
    rollup_days: int = option(
        ROLLUP_DAYS,
        "days after which the sums in rollups are deleted",
        group=CLICKHOUSE,
        metavar="DAYS",
    )
    rollups: str = option(
        "yes",
        "keep sums beside the rows, which takes CPU for each of them; no makes none, and leaves"
        " those that are there to their views",
        group=CLICKHOUSE,
        choices=("yes", "no"),
    )
    serve: str = option(
        "",
        "answer ClickHouse's HTTP interface here; embedded engine only",
        group=CLICKHOUSE,
        metavar="HOST:PORT",
    )

    max_rows: int = option(
        200_000, "rows of a partition at which they are inserted", group=BATCHES, metavar="ROWS"
    )
    max_age: float = option(
        2.0, "seconds after which they are inserted even so", group=BATCHES, metavar="SECONDS"
    )
    flow_max_age: float = option(
        0.5, "the same for flows, where that is sooner", group=BATCHES, metavar="SECONDS"
    )

    start_timeout: float = option(
        60.0,
        "seconds to wait for Kafka and ClickHouse at the start",
        group=PROCESS,
        metavar="SECONDS",
    )
    stop_timeout: float = option(
        20.0, "seconds to store what is pending at the end", group=PROCESS, metavar="SECONDS"
    )
    metrics_listen: str = option(
        "", "serve Prometheus metrics here", group=PROCESS, metavar="HOST:PORT"
    )
    log_level: str = option(
        "info", "log " + ", ".join(LEVELS), group=PROCESS, metavar="LEVEL", choices=LEVELS
    )

    def __post_init__(self) -> None:
        for name in (
            *("retention_days", "rollup_days", "max_rows", "max_age", "flow_max_age"),
            *("start_timeout", "stop_timeout"),
        ):
            if not 0 < getattr(self, name) < inf:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be more than 0")
        self.check_server()
        if self.serve and not self.clickhouse.startswith("chdb:"):
            raise ConfigError(f"serve works with chdb:// only, clickhouse is {self.clickhouse!r}")
        for name in ("serve", "metrics_listen"):
            if address := getattr(self, name):
                host_and_port(address, name)
        self.check_broker()
