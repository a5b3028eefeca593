# SPDX-License-Identifier: Apache-2.0
"""Virtual links that begin in one namespace and end in others, whose tables nobody else has.

Nothing here touches the namespace that we were started in.
"""

import ctypes
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.link import ip

_NEWNET = 0x40000000  # CLONE_NEWNET
_MAC = "02:00:00:00:00:02"  # that frames are sent to
# Of IP, what a packet comes to that nobody dropped where no route leads on.
_FATES = ("InHdrErrors", "InAddrErrors", "InDelivers", "InNoRoutes", "InCsumErrors")


@dataclass(frozen=True, slots=True)
class End:
    """Where frames arrive: a namespace, its interface, and the name of the end they are sent at."""

    namespace: str
    name: str
    ifindex: int
    sender: str


@contextmanager
def namespace(name: str) -> Iterator[str]:
    ip(f"netns add {name}")
    try:
        yield name
    finally:
        ip(f"netns del {name}")


@contextmanager
def within(name: str) -> Iterator[None]:
    """This thread, and what it starts, in a namespace; /sys stays as it is."""
    with Path("/proc/self/ns/net").open() as home, Path(f"/run/netns/{name}").open() as there:
        _enter(there.fileno())
        try:
            yield
        finally:
            _enter(home.fileno())


def _enter(fd: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(fd, _NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


@contextmanager
def an_end(senders: str, number: int) -> Iterator[End]:
    """A link from the namespace of senders into one of its own."""
    near, far = f"hlb{number}a", f"hlb{number}b"
    with namespace(f"{senders}-{number}") as inside:
        ip(f"link add {near} netns {inside} type veth peer name {far} netns {senders}")
        # Without link-local addresses the kernel sends nothing by itself.
        ip(f"-n {inside} link set {near} address {_MAC} addrgenmode none up")
        # Without, and without an XDP program, an end takes no XDP frames.
        ip(f"netns exec {inside} ethtool -K {near} gro on")
        ip(f"-n {senders} link set {far} addrgenmode none up")
        with within(inside):
            ifindex = socket.if_nametoindex(near)
        yield End(inside, near, ifindex, far)


def passed(end: End) -> int:
    """Packets that IP has seen the last of there: delivered, without a route, or with a fault."""
    with within(end.namespace):
        lines = [
            line
            for name in ("snmp", "netstat")
            for line in Path(f"/proc/self/net/{name}").read_text().splitlines()
            if line.startswith(("Ip:", "IpExt:"))
        ]
    found = 0
    for names, values in zip(lines[::2], lines[1::2], strict=True):
        counts = dict(zip(names.split(), values.split(), strict=True))
        found += sum(int(counts.get(name, 0)) for name in _FATES)
    return found
