# SPDX-License-Identifier: Apache-2.0
"""What may be done about alerts: the table `[alert.mitigation]`.

Without it nothing is done: an alert carries its proposal, and people decide.
"""

from collections.abc import Collection
from dataclasses import dataclass

from service.options import ConfigError, option

NAME = "mitigation"
PROPOSE, OBSERVE, ENFORCE = "propose", "observe", "enforce"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options of `[alert.mitigation]`."""

    key: str = option("", "file of the private key that agents trust", group="", metavar="FILE")
    nodes: tuple[str, ...] = option(
        ("*",), "nodes that rules are for, with `*` and `?`", group="", metavar="GLOB"
    )
    observe: tuple[str, ...] = option(
        (), "detectors whose proposals become rules that only count", group="", metavar="DETECTOR"
    )
    enforce: tuple[str, ...] = option(
        (), "detectors whose proposals become rules that refuse", group="", metavar="DETECTOR"
    )
    most_rules: int = option(20, "rules that may stand at once", group="", metavar="RULES")
    most_addresses: int = option(
        256,
        "addresses of IPv4, or /64 of IPv6, that a rule may be about, on its narrower side",
        group="",
        metavar="ADDRESSES",
    )
    most_seconds: float = option(
        3600.0, "how long a rule may stand without being renewed", group="", metavar="SECONDS"
    )
    most_connections: int = option(
        1,
        "established connections of before that a rule may hit until it is taken back",
        group="",
        metavar="CONNECTIONS",
    )

    @property
    def acts(self) -> bool:
        """Whether anything may become a rule."""
        return bool(self.observe or self.enforce)

    def check(self, detectors: Collection[str]) -> None:
        """Raises: ConfigError where a name is none of *detectors*, or the key is missing."""
        for policy in (OBSERVE, ENFORCE):
            for name in getattr(self, policy):
                if name not in detectors:
                    raise ConfigError(
                        f"{policy} in [alert.{NAME}] is {name!r}; choose among"
                        f" {', '.join(detectors)}"
                    )
        if both := set(self.observe) & set(self.enforce):
            raise ConfigError(f"[alert.{NAME}] names {min(both)} in observe and in enforce")
        if (self.observe or self.enforce) and not self.key:
            raise ConfigError(
                f"[alert.{NAME}] needs key, with which rules are signed; make one:"
                " hookline drop keygen"
            )

    def policy_of(self, detector: str) -> str:
        """What becomes of its proposals."""
        if detector in self.enforce:
            return ENFORCE
        return OBSERVE if detector in self.observe else PROPOSE
