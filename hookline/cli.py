# SPDX-License-Identifier: Apache-2.0
"""The command `hookline`: one table of subcommands, each a module of its own.

Such a module offers `add_arguments(parser)` and `run(args)`, which returns the exit code: 0, 1 when
it failed, 2 when the usage or the configuration is wrong.  Only the module that is asked for is
imported.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import NoReturn

# Name, module, and the line that `hookline --help` shows.
SUBCOMMANDS = (
    ("up", "hookline.up", "start everything on this machine and watch its traffic (root)"),
    ("demo", "hookline.demo.command", "watch three hosts that it builds and lets talk (root)"),
    ("replay", "hookline.replay", "load the packets of a capture file like live ones (root)"),
    ("query", "hookline.query", "ask the history in SQL"),
    ("flows", "hookline.flows", "who talked to whom, and how much"),
    ("top", "hookline.top", "what there is most of, over minutes or a year"),
    ("audit", "hookline.audit.command", "do the books of every packet balance?"),
    (
        "dead-letter",
        "hookline.dead_letter.command",
        "what the consumer could not use: list it, see why, replay it",
    ),
    ("doctor", "hookline.doctor", "what works here, what does not, and what mends it"),
    ("drop", "hookline.drop.command", "refuse packets by rules, tried before they act (root)"),
    ("capture", "hookline.capture", "whole packets into a file for Wireshark (root)"),
)
# Services have command lines of their own, `python -m PACKAGE` too: name, package, line of help.
SERVICES = {
    "agent": ("agent", "account this node's packets and publish the flows to Kafka (root)"),
    "consumer": ("consumer", "store what agents publish in ClickHouse"),
    "alert": ("consumer.alerts", "watch what agents publish, and say what is wrong"),
}
EPILOG = """\
examples:
  hookline up --interface eth0 --for 5m
  hookline flows --since 10m --to 10.0.0.0/8
  hookline query "SELECT node, sum(bytes) FROM flows GROUP BY node"

`hookline COMMAND --help` tells more.  Exit codes: 0, 1 (failed), 2 (bad usage or configuration).
"""
INTERRUPTED = 130  # as the shell reports SIGINT


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong; --help says how it is right."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in SERVICES:
        package, _ = SERVICES[words[0]]
        return int(import_module(f"{package}.cli").main(words[1:]))
    args = parser_for(words).parse_args(words)
    try:
        code = int(args.run(args))
        # Now rather than at the very end, where nobody catches what that raises.
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader, such as head, has seen enough; the interpreter must not flush what is left.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def parser_for(words: Sequence[str]) -> argparse.ArgumentParser:
    """A parser with the arguments of the subcommand that *words* name."""
    parser = Parser(
        prog="hookline",
        description="Network flows from the kernel into a history that answers SQL.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"hookline {_version()}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    chosen = next((word for word in words if not word.startswith("-")), None)
    for name, module_name, help_line in SUBCOMMANDS:
        command = commands.add_parser(
            name,
            help=help_line,
            description=f"{help_line[0].upper()}{help_line[1:]}.".replace("?.", "?"),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name == chosen:
            module = import_module(module_name)
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    for name, (_, help_line) in SERVICES.items():
        commands.add_parser(name, help=help_line, add_help=False)
    return parser


def _version() -> str:
    try:
        return version("hookline")
    except PackageNotFoundError:
        return "unknown"
