# SPDX-License-Identifier: Apache-2.0
"""The command line of the consumer: `hookline consumer`, or `python -m consumer`."""

import asyncio
import logging
import os
from collections.abc import Mapping, Sequence

from consumer.config import Config
from consumer.migrations import MigrationError
from consumer.service import serve
from consumer.sink import SinkError
from service.broker import BrokerError
from service.cli import Done, configured, fail
from service.logs import configure
from service.start import StartError

NAME = "consumer"
DESCRIPTION = "Read Hookline's records from Kafka and store them in ClickHouse."
EXAMPLES = """\
  hookline consumer --clickhouse chdb:///var/lib/hookline/clickhouse --serve 127.0.0.1:8123
  hookline consumer --kafka kafka-1:9092,kafka-2:9092 --clickhouse https://clickhouse:8443
  HOOKLINE_KAFKA_PASSWORD=... hookline consumer --kafka-security sasl_ssl --kafka-user hookline
  hookline consumer --config /etc/hookline.toml --check
"""


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Run the consumer; the exit code."""
    try:
        config = configured(
            Config,
            name=NAME,
            description=DESCRIPTION,
            examples=EXAMPLES,
            argv=argv,
            environ=environ,
        )
    except Done as done:
        return done.code
    configure(config.log_level)
    try:
        complete = asyncio.run(serve(config))
    except (BrokerError, MigrationError, SinkError, StartError) as error:
        return fail(NAME, str(error), code=1)
    except OSError as error:
        return fail(NAME, f"{error.strerror or error}", code=1)
    if not complete:
        _exit_now(1)
    return 0


def _exit_now(code: int) -> None:
    # An insert that hangs keeps its thread, and Python would wait for that for ever.
    logging.shutdown()
    os._exit(code)
