# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: RUF009  # option() and secret() return dataclass fields
"""How to reach ClickHouse: the options of whatever stores there, or asks."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from consumer.server import Server
from service.broker import BrokerOptions
from service.options import ConfigError, Dsn, Secret, option, secret
from service.tls import verifying_context

CLICKHOUSE = "ClickHouse"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions(BrokerOptions):
    """The options by which a service finds Kafka and ClickHouse; its own inherit them."""

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

    def check_server(self) -> None:
        """Raises: ConfigError where an option is wrong or they do not go together."""
        _check_dsn(self.clickhouse)
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
