# SPDX-License-Identifier: Apache-2.0
"""What an interface is, and which of those that there are shall be observed."""

import operator
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from fnmatch import fnmatchcase

_GLOB = frozenset("*?[")


class InterfaceError(Exception):
    """An interface that was asked for cannot be observed; the text says which and why."""


@dataclass(frozen=True, slots=True)
class LinkCounters:
    """What an interface itself has counted since it was made."""

    ingress_packets: int = 0
    ingress_bytes: int = 0
    egress_packets: int = 0
    egress_bytes: int = 0

    def __add__(self, other: "LinkCounters") -> "LinkCounters":
        return LinkCounters(*map(operator.add, astuple(self), astuple(other)))

    def __sub__(self, other: "LinkCounters") -> "LinkCounters":
        """Never less than nothing: some drivers bring their counters up to date now and then."""
        pairs = zip(astuple(self), astuple(other), strict=True)
        return LinkCounters(*(max(one - less, 0) for one, less in pairs))


@dataclass(frozen=True, slots=True)
class Interface:
    """One network interface as it was when asked."""

    name: str
    ifindex: int
    is_up: bool
    link_bytes: int  # length of its link header: 14 for Ethernet, 0 for bare IP
    is_hardware: bool
    mac: str = ""
    kind: str = ""
    mtu: int = 0
    xdp_programs: tuple[int, ...] = ()  # the ids of those attached, of whomever
    counters: LinkCounters = LinkCounters()
    netns: str = ""  # label of its network namespace, empty for our own

    @property
    def full_name(self) -> str:
        """As rows call it."""
        return f"{self.netns}/{self.name}" if self.netns else self.name


@dataclass(frozen=True, slots=True)
class Choice:
    """Which interfaces shall be observed, now and when they appear.

    A pattern with a slash is compared with `netns/name`, any other with the name in whatever
    network namespace.  Without patterns all are chosen, `lo` excluded.
    """

    included: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()

    def takes(self, one: Interface) -> bool:
        if _matches(one, self.excluded):
            return False
        return _matches(one, self.included) if self.included else one.name != "lo"

    def check(self, interfaces: Iterable[Interface]) -> None:
        """Refuse names that cannot be observed; a pattern may wait for what will match it.

        Raises:
            InterfaceError: a name is not there, is down, or is excluded as well.
        """
        interfaces = list(interfaces)
        for pattern in self.included:
            if not _GLOB & set(pattern):
                self._check_name(pattern, interfaces)

    def _check_name(self, name: str, interfaces: Sequence[Interface]) -> None:
        matching = [one for one in interfaces if _matches(one, (name,))]
        if not matching:
            names = ", ".join(one.full_name for one in interfaces)
            raise InterfaceError(f"no interface matches {name!r}; there are: {names}")
        if not any(self.takes(one) for one in matching):
            raise InterfaceError(
                f"interface {name} is excluded as well; change --exclude-interface"
            )
        if not any(one.is_up for one in matching):
            raise InterfaceError(f"interface {name} is down; bring it up: ip link set {name} up")


def _matches(one: Interface, patterns: Iterable[str]) -> bool:
    return any(
        fnmatchcase(one.full_name if "/" in pattern else one.name, pattern) for pattern in patterns
    )
