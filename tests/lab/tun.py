# SPDX-License-Identifier: Apache-2.0
"""A tunnel device: its packets are bare IP, without a link header."""

import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.lab.links import HERE, unique_name

_TUNSETIFF = 0x400454CA
_IFF_TUN = 0x0001
_IFF_NO_PI = 0x1000


@dataclass(frozen=True, slots=True)
class Tun:
    name: str
    fd: int

    def receive(self, packet: bytes, *, times: int = 1) -> None:
        """Let *packet* come in from the tunnel."""
        for _ in range(times):
            os.write(self.fd, packet)


def open_tun(name: str) -> int:
    """The descriptor of a new tunnel device in this thread's namespace."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    return fd


@contextmanager
def tun() -> Iterator[Tun]:
    """A tunnel that is up; it goes when its descriptor is closed, so with us."""
    name = unique_name()
    fd = open_tun(name)
    try:
        HERE.run("sysctl", "-qw", f"net.ipv6.conf.{name}.disable_ipv6=1")
        HERE.run("ip", "link", "set", name, "up")
        yield Tun(name, fd)
    finally:
        os.close(fd)
