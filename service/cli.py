# SPDX-License-Identifier: Apache-2.0
"""The command line that every service has: its options as flags, --config, --check, --version."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from service.options import ConfigError, add_flags, build
from service.secrets import exposed

Config = TypeVar("Config")

EPILOG = """\
Every option may also be set in the environment, as HOOKLINE_ and its name in capitals, or in a
TOML file, in its table [{name}] or above all tables; a flag wins over the environment, and the
environment over the file.  Passwords come from the environment or from their files only.

examples:
{examples}
exit codes: 0 stopped as asked, 1 failed, 2 bad usage or configuration
"""


class Done(Exception):  # noqa: N818 - it is no error
    """There is nothing to run; the process should exit with *code*."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def configured(
    cls: type[Config],
    *,
    name: str,
    description: str,
    examples: str,
    argv: Sequence[str] | None,
    environ: Mapping[str, str],
) -> Config:
    """The configuration of the service *name*.

    Raises:
        Done: it is wrong, which has been said, or was only to be checked.
    """
    parser = service_parser(cls, name=name, description=description, examples=examples)
    return configured_by(parser.parse_args(argv), cls, name=name, environ=environ)


def configured_by(
    arguments: argparse.Namespace, cls: type[Config], *, name: str, environ: Mapping[str, str]
) -> Config:
    """The configuration of the service *name*, by what `service_parser` has parsed.

    Raises:
        Done: it is wrong, which has been said, or was only to be checked.
    """
    flags = vars(arguments)
    path = flags.get("config") or environ.get("HOOKLINE_CONFIG")
    try:
        config = build(
            cls, table=name, flags=flags, environ=environ, file=Path(path) if path else None
        )
    except ConfigError as error:
        raise Done(fail(name, str(error), code=2)) from None
    for warning in exposed(config):
        sys.stderr.write(f"{name}: warning: {warning}\n")
    if arguments.check:
        print(f"configuration is valid: {config}")
        raise Done(0)
    return config


def fail(name: str, reason: str, *, code: int) -> int:
    """Say in one line why the service ends, and with which exit code."""
    sys.stderr.write(f"{name}: {reason}\n")
    return code


def service_parser(
    cls: type[Any], *, name: str, description: str, examples: str
) -> argparse.ArgumentParser:
    """What a service understands, to which it may add words of its own."""
    parser = argparse.ArgumentParser(
        prog=f"hookline {name}",
        description=description,
        epilog=EPILOG.format(name=name, examples=examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("--config", metavar="FILE", help="a TOML file with options")
    parser.add_argument(
        "--check", action="store_true", default=False, help="validate the configuration and exit"
    )
    parser.add_argument("--version", action="version", version=f"hookline {name} {_version()}")
    add_flags(parser, cls)
    return parser


def _version() -> str:
    try:
        return version("hookline")
    except PackageNotFoundError:
        return "(not installed)"
