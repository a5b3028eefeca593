# SPDX-License-Identifier: Apache-2.0
"""The command line of the consumer: `python -m consumer`."""

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from consumer.config import Config
from consumer.migrations import MigrationError
from consumer.service import StartError, serve
from consumer.sink import SinkError
from service.broker import BrokerError
from service.logs import configure
from service.options import ConfigError, add_flags, build

DESCRIPTION = "Read Hookline's records from Kafka and store them in ClickHouse."
EPILOG = """\
Every option may also be set in the environment, as HOOKLINE_ and its name in capitals, or in a
TOML file, in its table [consumer] or above all tables; a flag wins over the environment, and
the environment over the file.  Passwords come from the environment or from their files only.

examples:
  python -m consumer --clickhouse chdb:///var/lib/hookline/clickhouse --serve 127.0.0.1:8123
  python -m consumer --kafka kafka-1:9092,kafka-2:9092 --clickhouse https://clickhouse:8443
  HOOKLINE_KAFKA_PASSWORD=... python -m consumer --kafka-security sasl_ssl --kafka-user hookline
  python -m consumer --config /etc/hookline.toml --check

exit codes: 0 stopped as asked, 1 failed, 2 bad usage or configuration
"""


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Run the consumer; the exit code."""
    arguments = _parser().parse_args(argv)
    try:
        config = _config(arguments, environ)
    except ConfigError as error:
        return _fail(str(error), code=2)
    if arguments.check:
        print(f"configuration is valid: {config}")
        return 0
    configure(config.log_level)
    try:
        complete = asyncio.run(serve(config))
    except (BrokerError, MigrationError, SinkError, StartError) as error:
        return _fail(str(error), code=1)
    except OSError as error:
        return _fail(f"{error.strerror or error}", code=1)
    if not complete:
        _exit_now(1)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m consumer",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("--config", metavar="FILE", help="a TOML file with options")
    parser.add_argument(
        "--check", action="store_true", default=False, help="validate the configuration and exit"
    )
    parser.add_argument("--version", action="version", version=f"hookline consumer {_version()}")
    add_flags(parser, Config)
    return parser


def _config(arguments: argparse.Namespace, environ: Mapping[str, str]) -> Config:
    flags = vars(arguments)
    file = flags.get("config") or environ.get("HOOKLINE_CONFIG")
    return build(
        Config, table="consumer", flags=flags, environ=environ, file=Path(file) if file else None
    )


def _version() -> str:
    try:
        return version("hookline")
    except PackageNotFoundError:
        return "(not installed)"


def _fail(reason: str, *, code: int) -> int:
    sys.stderr.write(f"consumer: {reason}\n")
    return code


def _exit_now(code: int) -> None:
    # An insert that hangs keeps its thread, and Python would wait for that for ever.
    logging.shutdown()
    os._exit(code)
