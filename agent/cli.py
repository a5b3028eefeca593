# SPDX-License-Identifier: Apache-2.0
"""The command line of the agent: `hookline agent`, or `python -m agent`."""

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence

from agent.capabilities import missing_capabilities
from agent.config import Config
from agent.detach import detach
from agent.interfaces import InterfaceError
from agent.pipeline import Stop, run
from agent.plan import LoadError
from schemas.rules.rule import RuleError
from service.cli import Done, configured_by, fail, service_parser
from service.logs import configure

NAME = "agent"
DESCRIPTION = "Account every packet of this node's interfaces and publish the flows to Kafka."
EXAMPLES = """\
  hookline agent --interface eth0 --kafka kafka-1:9092,kafka-2:9092
  hookline agent --interface 'veth*' --interface eth1 --sample 0
  hookline agent --interface eth0 --hook xdp --interval 5
  hookline agent --exclude-interface 'docker*' --netns blue --netns 4711
  hookline agent --detach
"""


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Run the agent; the exit code."""
    parser = service_parser(Config, name=NAME, description=DESCRIPTION, examples=EXAMPLES)
    parser.add_argument(
        "--detach",
        action="store_true",
        default=False,
        help="tell what agents of this name have counted, remove everything of them, and exit",
    )
    arguments = parser.parse_args(argv)
    try:
        config = configured_by(arguments, Config, name=NAME, environ=environ)
    except Done as done:
        return done.code
    if missing := missing_capabilities(enters_namespaces=bool(config.netns)):
        what = "--netns" if missing[0] == "CAP_SYS_ADMIN" else "loading eBPF programs"
        reason = f"{what} needs {missing[0]}, which is missing; run it with sudo"
        return fail(NAME, reason, code=1)
    configure(config.log_level)
    try:
        asyncio.run(_detach(config) if arguments.detach else _run(config))
    except (InterfaceError, RuleError) as error:
        return fail(NAME, str(error), code=2)
    except LoadError as error:
        return fail(NAME, str(error), code=1)
    except OSError as error:
        reason = f"{error.strerror or error}: {error.filename or ''}".rstrip(": ")
        return fail(NAME, reason, code=1)
    return 0


async def _run(config: Config) -> None:
    stop = Stop()

    def interrupted() -> None:
        # Somebody sits there, and wants it gone.
        stop.detaches = True
        stop.asked.set()

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.asked.set)
    loop.add_signal_handler(signal.SIGINT, interrupted)
    await run(config, stop)


async def _detach(config: Config) -> None:
    found = await detach(config)
    print(f"agent {config.name}: {'detached' if found else 'nothing is attached'}")
