# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: RUF009  # option() and tables() return dataclass fields
"""What can be set on the alerting service, with its default, meaning and limits."""

import socket
from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import inf
from pathlib import Path
from typing import Any

from consumer.alerts.detector import Detector
from consumer.alerts.detectors.table import DETECTORS
from consumer.alerts.mitigation.options import NAME as MITIGATION
from consumer.alerts.mitigation.options import Options as Mitigation
from consumer.alerts.outlets.options import destinations_in
from consumer.alerts.rule_file import rules_in
from consumer.server_options import CLICKHOUSE, ServerOptions
from service.broker import KAFKA
from service.logs import LEVELS
from service.options import (
    ConfigError,
    Dsn,
    Tables,
    host_and_port,
    option,
    options_of,
    tables,
)

CLIENT_ID = "hookline-alert"
TABLE = "alert"
OUTLET = "outlet"

ALERTS = "alerts"
PROCESS = "process"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(ServerOptions):
    """All options of one alerting service; those of detectors and outlets are in `tables`.

    Raises:
        ConfigError: a value is out of its limits, or does not go with another.
    """

    clickhouse: Dsn = option(
        Dsn(""),
        "http://HOST:PORT or https:// of the server that answers SQL rules; none without it",
        group=CLICKHOUSE,
        metavar="DSN",
    )

    group: str = option("hookline-alert", "consumer group", group=KAFKA)
    group_instance: str = option(
        "",
        "a name for this member that survives restarts; no two members may share it",
        group=KAFKA,
        metavar="NAME",
    )

    folder: str = option(
        "/var/lib/hookline-alert",
        "keep what fires, and what outlets have not delivered yet, in this folder",
        group=ALERTS,
        metavar="DIR",
    )
    rules: str = option("", "a file of SQL rules", group=ALERTS, metavar="FILE")
    off: tuple[str, ...] = option(
        (), "a detector that is switched off; may be repeated", group=ALERTS, metavar="DETECTOR"
    )
    catch_up: float = option(
        600.0,
        "after a pause, leave out records that are older than so many seconds; the first start"
        " begins with what comes then",
        group=ALERTS,
        metavar="SECONDS",
    )
    new_per_minute: int = option(
        30,
        "alerts that one detector may begin in a minute; one more says how many others there are",
        group=ALERTS,
        metavar="ALERTS",
    )
    refresh: float = option(
        60.0,
        "seconds after which an alert that still fires is told again",
        group=ALERTS,
        metavar="SECONDS",
    )

    node: str = option(
        socket.gethostname(), "name of this node in rows of alerts", group=PROCESS, metavar="NAME"
    )
    start_timeout: float = option(
        60.0, "seconds to wait for Kafka at the start", group=PROCESS, metavar="SECONDS"
    )
    stop_timeout: float = option(
        20.0, "seconds to tell what has been found at the end", group=PROCESS, metavar="SECONDS"
    )
    metrics_listen: str = option(
        "", "serve Prometheus metrics here", group=PROCESS, metavar="HOST:PORT"
    )
    log_level: str = option(
        "info", "log " + ", ".join(LEVELS), group=PROCESS, metavar="LEVEL", choices=LEVELS
    )

    tables: Tables = tables()

    def __post_init__(self) -> None:
        for name in ("catch_up", "new_per_minute", "refresh", "start_timeout", "stop_timeout"):
            if not 0 < getattr(self, name) < inf:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be more than 0")
        if not self.node or len(self.node.encode()) > 255:
            raise ConfigError(f"node is {self.node!r}; it must have 1 to 255 bytes")
        if self.metrics_listen:
            host_and_port(self.metrics_listen, "metrics_listen")
        self.check_broker()
        self._check_rules()
        for name in self.off:
            if name not in DETECTORS:
                raise ConfigError(f"off is {name!r}; choose among {', '.join(DETECTORS)}")
        for name in self.tables:
            if name not in {*DETECTORS, OUTLET, MITIGATION}:
                raise ConfigError(
                    f"[{TABLE}.{name}] is no table; choose among {OUTLET}, {MITIGATION},"
                    f" {', '.join(DETECTORS)}"
                )
        self.mitigation().check(DETECTORS)
        self.detectors()
        destinations_in(self.tables)

    def _check_rules(self) -> None:
        if not self.rules:
            return
        if not Path(self.rules).is_file():
            raise ConfigError(f"rules is {self.rules}, which is no file")
        if not self.clickhouse.startswith(("http:", "https:")):
            # The embedded engine belongs to one process, which is the consumer.
            raise ConfigError(
                f"rules need a server, clickhouse is {self.clickhouse!r}; write http:// or https://"
            )
        self.check_server()
        rules_in(Path(self.rules), DETECTORS)

    def detectors(self) -> list[Detector]:
        """The detectors that are on, with their options.

        Raises:
            ConfigError: an option is unknown or out of its limits.
        """
        return [
            kind(self._options_of(name, options))
            for name, (kind, options) in DETECTORS.items()
            if name not in self.off
        ]

    def mitigation(self) -> Mitigation:
        """What may be done about alerts.

        Raises:
            ConfigError: an option is unknown or out of its limits.
        """
        made: Mitigation = self._options_of(MITIGATION, Mitigation)
        return made

    def _options_of(self, name: str, options: type[Any]) -> Any:
        where = f"{TABLE}.{name}"
        values = self.tables.get(name, {})
        if not isinstance(values, Mapping):
            raise ConfigError(f"{where} is a list; write [{where}]")
        made = options_of(options, values, where)
        for field in fields(options):
            value = getattr(made, field.name)
            if isinstance(value, int | float) and not 0 < value < inf:
                raise ConfigError(f"{field.name} in [{where}] is {value}; it must be more than 0")
        return made
