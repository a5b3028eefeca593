# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: RUF009  # option() and secret() return dataclass fields
"""What can be set on a consumer, with its default, meaning and limits."""

from contextlib import suppress
from dataclasses import dataclass
from math import inf
from urllib.parse import urlsplit

from schemas.clickhouse import RETENTION_DAYS
from service.broker import KAFKA, BrokerOptions
from service.logs import LEVELS
from service.options import ConfigError, Dsn, Secret, host_and_port, option, secret

CLIENT_ID = "hookline-consumer"

CLICKHOUSE = "ClickHouse"
BATCHES = "batches"
PROCESS = "process"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(BrokerOptions):
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

    clickhouse: Dsn = option(
        Dsn("chdb:///var/lib/hookline/clickhouse"),
        "chdb:///DIRECTORY for the embedded engine, http://HOST:PORT or https:// for a server",
        group=CLICKHOUSE,
        metavar="DSN",
    )
    clickhouse_user: str = option("", "user of the server", group=CLICKHOUSE, metavar="NAME")
    clickhouse_password_file: str = option(
        "", "file that holds the server's password", group=CLICKHOUSE, metavar="FILE"
    )
    clickhouse_password: Secret = secret("the server's password", group=CLICKHOUSE)
    retention_days: int = option(
        RETENTION_DAYS, "days after which rows are deleted", group=CLICKHOUSE, metavar="DAYS"
    )
    serve: str = option(
        "",
        "answer ClickHouse's HTTP interface here; embedded engine only",
        group=CLICKHOUSE,
        metavar="HOST:PORT",
    )

    max_rows: int = option(
        200_000, "rows at which a batch is inserted", group=BATCHES, metavar="ROWS"
    )
    max_age: float = option(
        2.0, "seconds after which it is inserted even so", group=BATCHES, metavar="SECONDS"
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
        for name in ("retention_days", "max_rows", "max_age", "start_timeout", "stop_timeout"):
            if not 0 < getattr(self, name) < inf:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be more than 0")
        _check_dsn(self.clickhouse)
        if self.serve and not self.clickhouse.startswith("chdb:"):
            raise ConfigError(f"serve works with chdb:// only, clickhouse is {self.clickhouse!r}")
        for name in ("serve", "metrics_listen"):
            if address := getattr(self, name):
                host_and_port(address, name)
        self.check_broker()


def _check_dsn(dsn: Dsn) -> None:
    with suppress(ValueError):  # no port, or brackets that do not close
        parts = urlsplit(dsn)
        if parts.scheme == "chdb" and not parts.netloc and len(parts.path) > 1:
            return
        if parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0:
            return
    raise ConfigError(
        f"clickhouse is {dsn!r}; write chdb:///absolute/directory, http://host:port or https://…"
    )
