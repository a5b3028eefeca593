# SPDX-License-Identifier: Apache-2.0
"""`hookline doctor`: what works here, what does not, and what mends it.

One line for each thing that was looked at.  Nothing is changed, and nothing has to run: without an
agent, a broker or a server the rest is looked at all the same.
"""

import argparse
import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from agent.config import Config as AgentConfig
from consumer.config import CLIENT_ID, Config
from hookline.checks import machine, servers
from hookline.checks.result import Result, State, fail, ok, warn
from hookline.history import HistoryError, running_at
from hookline.settings import DEFAULT_DATA
from service.broker import Broker, BrokerOptions
from service.options import ConfigError, Dsn, add_flags, build, environment_name, is_secret
from service.secrets import exposed

INSTALLED = Path("/etc/hookline/hookline.toml")
OPTIONS = tuple(
    field.name
    for field in dataclasses.fields(Config)
    if not is_secret(field)
    and (field.name.startswith("clickhouse") or field in dataclasses.fields(BrokerOptions))
)
SERVICES: dict[str, type[AgentConfig | Config]] = {"agent": AgentConfig, "consumer": Config}
_EMBEDDED = "chdb:"
EPILOG = """\
Passwords come from the environment or from their files, as the services take them.

examples:
  sudo hookline doctor
  sudo hookline doctor --config /etc/hookline/hookline.toml
  hookline doctor --kafka kafka-1:9092 --clickhouse https://clickhouse:8443 --json

Exit codes: 0 nothing fails, 1 something does, 2 bad usage.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    parser.epilog = EPILOG
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help=f"a TOML file with options, as the services take it (default: {INSTALLED}, if it is"
        " there)",
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=DEFAULT_DATA,
        metavar="DIR",
        help="directory of a `hookline up` whose servers to look at (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    add_flags(parser, Config, OPTIONS)


def run(arguments: argparse.Namespace) -> int:
    """Print what was found; the exit code."""
    failed = False
    for result in findings(arguments):
        failed |= result.state is State.FAIL
        print(_as_json(result) if arguments.json else _as_line(result), flush=True)
    return int(failed)


def findings(arguments: argparse.Namespace) -> Iterator[Result]:
    """Everything there is to say, as soon as it is known."""
    yield machine.kernel()
    yield machine.jit()
    yield machine.lockdown()
    yield machine.bpf_filesystem()
    yield machine.cgroups()
    yield machine.rights()
    yield machine.clock()
    yield (libraries := machine.libraries())
    # Who is not root sees nothing of them, which has been said.
    if libraries.state is State.OK and os.geteuid() == 0:
        yield from _of_agents()
    yield from _of_servers(arguments)


def _of_agents() -> Iterator[Result]:
    # These need the library that was looked for.
    from hookline.checks import agents  # noqa: PLC0415

    yield from agents.agents()
    yield from agents.leftovers()
    yield agents.foreign_xdp()


def _of_servers(arguments: argparse.Namespace) -> Iterable[Result]:
    flags = {name: getattr(arguments, name) for name in OPTIONS}
    file = _file(arguments)
    is_silent = not file and not any(
        flags[name] or os.environ.get(environment_name(name)) for name in ("kafka", "clickhouse")
    )
    if is_silent and (running := _running(arguments.data)):
        yield ok("configuration", f"hookline up of {arguments.data}")
        yield from _servers_of({"consumer": running})
        return
    configs: dict[str, AgentConfig | Config] = {}
    refusals: dict[str, str] = {}
    for service, cls in SERVICES.items():
        try:
            configs[service] = build(cls, table=service, flags=flags, environ=os.environ, file=file)
        except ConfigError as error:
            refusals[service] = str(error)
    yield from _about_configuration(file, configs, refusals)
    yield from _servers_of(configs)


def _file(arguments: argparse.Namespace) -> Path | None:
    if named := arguments.config or os.environ.get("HOOKLINE_CONFIG"):
        return Path(named)
    return INSTALLED if INSTALLED.is_file() else None


def _about_configuration(
    file: Path | None, configs: Mapping[str, AgentConfig | Config], refusals: Mapping[str, str]
) -> Iterable[Result]:
    source = f"{file}" if file else "defaults, the environment and flags"
    if configs:
        yield ok("configuration", f"{source}, for {' and '.join(configs)}")
    for service, reason in refusals.items():
        # A node may have the credentials of one of them only.
        told = warn if configs and reason.startswith("cannot read") else fail
        yield told("configuration", f"{service}: {reason}", "mend it where that service runs")
    for warning in dict.fromkeys(one for config in configs.values() for one in exposed(config)):
        text, _, fix = warning.partition("; ")
        yield warn("configuration", text, fix)


def _servers_of(configs: Mapping[str, AgentConfig | Config]) -> Iterable[Result]:
    brokers: dict[Broker, list[str]] = {}
    for service, config in configs.items():
        brokers.setdefault(config.broker(CLIENT_ID), []).append(service)
    for broker, services in brokers.items():
        found = servers.kafka(broker)
        if len(brokers) > 1:
            found = [replace(one, text=f"{' and '.join(services)}: {one.text}") for one in found]
        yield from found
    consumer = configs.get("consumer")
    if not isinstance(consumer, Config):
        return
    if consumer.clickhouse.startswith(_EMBEDDED):
        yield _embedded(consumer.clickhouse)
    else:
        yield from servers.clickhouse(consumer)


def _running(data: Path) -> Config | None:
    """The consumer of a `hookline up`, whose parts are on loopback and want no password."""
    try:
        running = running_at(data)
    except HistoryError:
        return None
    return Config(kafka=running.kafka, clickhouse=Dsn(running.http)) if running else None


def _embedded(dsn: Dsn) -> Result:
    directory = dsn.removeprefix(f"{_EMBEDDED}//")
    return ok("clickhouse", f"embedded, in {directory}; whoever has it open looks after it")


def _as_line(result: Result) -> str:
    mended = f"; {result.fix}" if result.fix else ""
    return f"{result.state.value:<4}  {result.check:<16} {result.text}{mended}"


def _as_json(result: Result) -> str:
    return json.dumps({**dataclasses.asdict(result), "state": result.state.value})
