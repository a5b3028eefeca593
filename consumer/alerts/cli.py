# SPDX-License-Identifier: Apache-2.0
"""The command line of the alerting service: `hookline alert`, or `python -m consumer.alerts`."""

import asyncio
import os
from collections.abc import Mapping, Sequence

from consumer.alerts.config import TABLE, Config
from consumer.alerts.outlets.database import QueueError
from consumer.alerts.service import serve
from service.broker import BrokerError
from service.cli import Done, configured, fail
from service.logs import configure
from service.options import ConfigError
from service.start import StartError

DESCRIPTION = "Watch Hookline's topics and say within about a second what is wrong."
EXAMPLES = """\
  hookline alert --kafka kafka-1:9092,kafka-2:9092
  hookline alert --off beacon --off new_peer
  hookline alert --rules /etc/hookline/rules.yaml --clickhouse https://clickhouse:8443
  hookline alert --config /etc/hookline.toml --check
"""


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Run the service; the exit code."""
    try:
        config = configured(
            Config,
            name=TABLE,
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
    except ConfigError as error:
        # A rule can be checked only where ClickHouse answers.
        return fail(TABLE, str(error), code=2)
    except (BrokerError, QueueError, StartError) as error:
        return fail(TABLE, str(error), code=1)
    except OSError as error:
        return fail(TABLE, f"{error.strerror or error}", code=1)
    return 0 if complete else 1
