# SPDX-License-Identifier: Apache-2.0
"""`hookline drop enforce` and `hookline drop observe`: whether rules do what they say."""

import argparse
from dataclasses import dataclass, replace

from hookline.drop import arguments
from hookline.drop.orders import NETWORK, change, installed
from hookline.remote import RemoteError


@dataclass(frozen=True, slots=True)
class _Switch:
    """One of the two actions."""

    verb: str
    is_observed: bool

    @property
    def EPILOG(self) -> str:  # noqa: N802  # as modules of actions have it
        return f"examples:\n  hookline drop {self.verb} no-telnet\n"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("names", nargs="+", metavar="NAME", help="the name of a rule")
        parser.add_argument(
            "--despite-allowed",
            action="store_true",
            help="though they mean packets of the allow list, which pass anyway",
        )
        arguments.add_agent(parser)

    def run(self, args: argparse.Namespace) -> int:
        """Switch them."""
        there = installed(args.agent)
        by_origin: dict[str, list[str]] = {}
        for name in dict.fromkeys(args.names):
            by_origin.setdefault(there.named(name).origin, []).append(name)
        if NETWORK in by_origin:
            raise RemoteError(
                f"{by_origin[NETWORK][0]} came over the network; change it where it came from", 2
            )
        revision: int | None = there.revision
        for origin, names in by_origin.items():
            revision = change(
                args.agent,
                put=[
                    replace(there.named(name).rule, is_observed=self.is_observed) for name in names
                ],
                despite_allowed=args.despite_allowed,
                origin=origin,
                revision=revision,
            )
        for name in dict.fromkeys(args.names):
            print(f"{name} is {'observed' if self.is_observed else 'enforced'}")
        return 0


ENFORCE = _Switch("enforce", is_observed=False)
OBSERVE = _Switch("observe", is_observed=True)
