# SPDX-License-Identifier: Apache-2.0
"""Which Kafka cluster a command means: that of the services' options, or of `hookline up`.

A cluster that is named wins, as a flag, in the environment or in a file.  Where none is, it is the
one of the `hookline up` that runs on this machine.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hookline import history
from hookline.settings import DEFAULT_DATA
from service.broker import KAFKA, Broker, BrokerOptions, BrokerUnavailable
from service.options import ConfigError, add_flags, build, option

_NOBODYS = "127.0.0.1:9092"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(BrokerOptions):
    """The options of the services, in which it may be left open where Kafka is."""

    kafka: str = option(
        "",
        f"brokers to start from (default: those of `hookline up`, else {_NOBODYS})",
        group=KAFKA,
        metavar="HOST:PORT[,HOST:PORT]",
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where Kafka is."""
    place = add_kafka_arguments(parser)
    place.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help=f"the Kafka of the `hookline up` that runs there (default: {DEFAULT_DATA})",
    )


def add_kafka_arguments(parser: argparse.ArgumentParser) -> Any:
    """Add those of them that name a cluster; the group of what says where they are said."""
    add_flags(parser, Options)
    place = parser.add_argument_group("where these are said")
    place.add_argument("--config", metavar="FILE", help="a TOML file with options")
    return place


def broker_beside(
    args: argparse.Namespace, environ: Mapping[str, str], *, table: str, client_id: str
) -> Broker | None:
    """The brokers that are named, or those of the `hookline up` that holds the history.

    Raises:
        ConfigError: an option is wrong.
        BrokerUnavailable: it is not known whether one runs.
    """
    options = _options(args, environ, table)
    if options.kafka:
        options.check_broker()
        return options.broker(client_id)
    running = None if args.url else _running(args.data)
    return _of_up(running).broker(client_id) if running else None


def chosen_broker(
    args: argparse.Namespace, environ: Mapping[str, str], *, table: str, client_id: str
) -> Broker:
    """The brokers that the command line means; *table* is the command's in the file.

    Raises:
        ConfigError: an option is wrong, or two of them name different clusters.
        BrokerUnavailable: no `hookline up` runs where one should.
    """
    options = _options(args, environ, table)
    if args.data is not None and args.kafka is not None:
        raise ConfigError("--kafka and --data name two clusters; give one of them")
    is_open = args.data is not None or not options.kafka
    if is_open and (running := _running(args.data or DEFAULT_DATA)) is not None:
        return _of_up(running).broker(client_id)
    if args.data is not None:
        raise BrokerUnavailable(f"no hookline up runs on {args.data}: start it, or give --kafka")
    named = replace(options, kafka=options.kafka or _NOBODYS)
    named.check_broker()
    return named.broker(client_id)


def _options(args: argparse.Namespace, environ: Mapping[str, str], table: str) -> Options:
    path = args.config or environ.get("HOOKLINE_CONFIG")
    return build(
        Options, table=table, flags=vars(args), environ=environ, file=Path(path) if path else None
    )


def _of_up(running: history.Running) -> BrokerOptions:
    if not running.kafka:
        raise BrokerUnavailable("the hookline up that runs is of an older version: restart it")
    # It listens on loopback without encryption, whatever the environment says of another one.
    return BrokerOptions(kafka=running.kafka)


def _running(data: Path) -> history.Running | None:
    try:
        return history.running_at(data)
    except history.HistoryError as error:
        raise BrokerUnavailable(str(error)) from None
