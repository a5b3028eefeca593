# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: RUF009  # option() and secret() return dataclass fields
"""What can be set on a consumer, with its default, meaning and limits."""

from contextlib import suppress
from dataclasses import dataclass
from math import inf
from pathlib import Path
from urllib.parse import urlsplit

from consumer.server import Server
from schemas.clickhouse import RETENTION_DAYS
from service.broker import KAFKA, BrokerOptions
from service.logs import LEVELS
from service.options import ConfigError, Dsn, Secret, host_and_port, option, secret
from service.tls import verifying_context

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
    clickhouse_ca_file: str = option(
        "",
        "certificates that sign the server's (default: the system's)",
        group=CLICKHOUSE,
        metavar="PEM",
    )
    clickhouse_certificate_file: str = option(
        "",
        "our certificate, where the server asks for one; without a password it stands for it",
        group=CLICKHOUSE,
        metavar="PEM",
    )
    clickhouse_key_file: str = option(
        "", "its key, where it is apart", group=CLICKHOUSE, metavar="PEM"
    )
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
        200_000, "rows of a partition at which they are inserted", group=BATCHES, metavar="ROWS"
    )
    max_age: float = option(
        2.0, "seconds after which they are inserted even so", group=BATCHES, metavar="SECONDS"
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
        self._check_certificates()
        if self.serve and not self.clickhouse.startswith("chdb:"):
            raise ConfigError(f"serve works with chdb:// only, clickhouse is {self.clickhouse!r}")
        for name in ("serve", "metrics_listen"):
            if address := getattr(self, name):
                host_and_port(address, name)
        self.check_broker()

    def _check_certificates(self) -> None:
        for name in ("clickhouse_ca_file", "clickhouse_certificate_file", "clickhouse_key_file"):
            if (path := getattr(self, name)) and not self.clickhouse.startswith("https:"):
                raise ConfigError(
                    f"{name} is given, and clickhouse {self.clickhouse!r} is no https:"
                )
            if path and not Path(path).is_file():
                raise ConfigError(f"{name} is {path}, which is no file")
        if self.clickhouse_certificate_file and not self.clickhouse_user:
            raise ConfigError("clickhouse_certificate_file needs clickhouse_user")
        verifying_context(
            "clickhouse",
            ca_file=self.clickhouse_ca_file,
            certificate_file=self.clickhouse_certificate_file,
            key_file=self.clickhouse_key_file,
        )

    def server(self) -> Server:
        """How to come in at the server."""
        return Server(
            user=self.clickhouse_user,
            password=self.clickhouse_password,
            ca_file=self.clickhouse_ca_file,
            certificate_file=self.clickhouse_certificate_file,
            key_file=self.clickhouse_key_file,
        )


def _check_dsn(dsn: Dsn) -> None:
    if "?" in dsn:
        # The client would take arguments from there, and some of them turn checks off.
        raise ConfigError(f"clickhouse is {dsn!r}; leave out what is behind the ?")
    with suppress(ValueError):  # brackets that do not close, or a port that is no number
        parts = urlsplit(dsn)
        if parts.scheme == "chdb" and not parts.netloc and len(parts.path) > 1:
            return
        if parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0:
            return
    raise ConfigError(
        f"clickhouse is {dsn!r}; write chdb:///absolute/directory, http://host:port or https://…"
    )
