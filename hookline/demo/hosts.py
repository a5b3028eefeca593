# SPDX-License-Identifier: Apache-2.0
"""Build hosts in network namespaces, joined by a bridge in a namespace of its own.

Nothing is added to the machine's own network: not an interface, not an address.  Removing the
namespaces removes everything.
"""

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

PREFIX = "hldemo"
SWITCH = f"{PREFIX}-switch"


class HostError(Exception):
    """A namespace or link cannot be made; the text is one line for a human."""


@dataclass(frozen=True, slots=True)
class Host:
    """One host: a namespace with one interface, whose other end is a port of the switch.

    Its addresses are from the ranges that are kept for documentation (RFC 5737, RFC 3849).
    """

    name: str
    number: int

    @property
    def namespace(self) -> str:
        return f"{PREFIX}-{self.name}"

    @property
    def port(self) -> str:
        """The interface of the switch that leads to the host."""
        return f"to-{self.name}"

    @property
    def ipv4(self) -> str:
        return f"198.51.100.{self.number}"

    @property
    def ipv6(self) -> str:
        return f"2001:db8::{self.number}"


WEB = Host("web", 10)
STORE = Host("store", 20)
LAPTOP = Host("laptop", 30)
HOSTS = (WEB, STORE, LAPTOP)


def inside(namespace: str, command: Sequence[str]) -> list[str]:
    """The command line that runs *command* in a namespace.

    `ip netns exec` would hide the cgroups, and thereby the sockets, behind a /sys of its own.
    """
    return ["nsenter", f"--net=/run/netns/{namespace}", "--", *command]


@contextmanager
def hosts() -> Iterator[None]:
    """The hosts while the context lasts.

    Raises:
        HostError: they cannot be made, or are there already.
    """
    _refuse_leftovers()
    try:
        _build()
        yield
    finally:
        for namespace in _existing():
            _ip("netns", "delete", namespace)


def _refuse_leftovers() -> None:
    if left := _existing():
        raise HostError(
            f"namespace {left[0]} exists: another demo runs, or was killed;"
            f" if so, remove it: ip netns delete {left[0]}"
        )


def _existing() -> list[str]:
    lines = _ip("netns", "list").splitlines()
    names = [line.split()[0] for line in lines if line]
    return [name for name in names if name in {SWITCH, *(host.namespace for host in HOSTS)}]


def _build() -> None:
    _ip("netns", "add", SWITCH)
    _ip("-n", SWITCH, "link", "set", "lo", "up")
    _ip("-n", SWITCH, "link", "add", "switch", "type", "bridge")
    _ip("-n", SWITCH, "link", "set", "switch", "up")
    for host in HOSTS:
        _join(host)


def _join(host: Host) -> None:
    _ip("netns", "add", host.namespace)
    peer = ("peer", "name", "eth0", "netns", host.namespace)
    _ip("-n", SWITCH, "link", "add", host.port, "type", "veth", *peer)
    _ip("-n", SWITCH, "link", "set", host.port, "master", "switch", "up")
    # Counters of virtual links count a super-packet as one, hooks count what a wire would carry.
    # Without super-packets both can be compared.
    _ip("-n", host.namespace, "link", "set", "eth0", "gso_max_segs", "1")
    _ip("-n", host.namespace, "address", "add", f"{host.ipv4}/24", "dev", "eth0")
    _ip("-n", host.namespace, "address", "add", f"{host.ipv6}/64", "dev", "eth0", "nodad")
    for interface in ("lo", "eth0"):
        _ip("-n", host.namespace, "link", "set", interface, "up")


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise HostError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout
