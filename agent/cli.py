# SPDX-License-Identifier: Apache-2.0
"""The command line of the agent: `python -m agent`."""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from agent.config import Config
from agent.interfaces import InterfaceError
from agent.pipeline import run
from agent.plan import LoadError
from service.logs import configure
from service.options import ConfigError, add_flags, build

DESCRIPTION = "Account every packet of this node's interfaces and publish the flows to Kafka."
EPILOG = """\
Every option may also be set in the environment, as HOOKLINE_ and its name in capitals, or in a
TOML file, in its table [agent] or above all tables; a flag wins over the environment, and the
environment over the file.

examples:
  python -m agent --interface eth0 --kafka kafka-1:9092,kafka-2:9092
  python -m agent --interface 'veth*' --interface eth1 --sample 0
  python -m agent --interface eth0 --hook xdp --interval 5

exit codes: 0 stopped as asked, 1 failed, 2 bad usage or configuration
"""


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Run the agent; the exit code."""
    arguments = _parser().parse_args(argv)
    try:
        config = _config(arguments, environ)
    except ConfigError as error:
        return _fail(str(error), code=2)
    if arguments.check:
        print(f"configuration is valid: {config}")
        return 0
    if os.geteuid() != 0:
        return _fail("loading eBPF programs needs root; run it with sudo", code=1)
    configure(config.log_level)
    try:
        left = asyncio.run(_run(config))
    except InterfaceError as error:
        return _fail(str(error), code=2)
    except LoadError as error:
        return _fail(str(error), code=1)
    except OSError as error:
        return _fail(f"{error.strerror or error}: {error.filename or ''}".rstrip(": "), code=1)
    if left:
        return _fail(f"{left} rows could not be published before the deadline and are lost", code=1)
    return 0


async def _run(config: Config) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return await run(config, stop)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m agent",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("--config", metavar="FILE", help="a TOML file with options")
    parser.add_argument(
        "--check", action="store_true", default=False, help="validate the configuration and exit"
    )
    parser.add_argument("--version", action="version", version=f"hookline {version('hookline')}")
    add_flags(parser, Config)
    return parser


def _config(arguments: argparse.Namespace, environ: Mapping[str, str]) -> Config:
    flags = vars(arguments)
    file = flags.get("config") or environ.get("HOOKLINE_CONFIG")
    return build(
        Config, table="agent", flags=flags, environ=environ, file=Path(file) if file else None
    )


def _fail(reason: str, *, code: int) -> int:
    sys.stderr.write(f"agent: {reason}\n")
    return code
