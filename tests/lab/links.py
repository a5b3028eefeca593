# SPDX-License-Identifier: Apache-2.0
"""Virtual links to observe: one end in this namespace, as on a container host, one in its own.

Names carry our process id, so that what a killed run left behind is known to be nobody's, and a
run beside us keeps its own.  No other link is ever touched.
"""

import ctypes
import os
import secrets
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from tests.lab.waiting import wait_until

PREFIX = "hlt"
_NAMESPACES = Path("/run/netns")
_CLONE_NEWNET = 0x40000000
_OFFLOADS = ("tso", "gso", "gro", "tx", "rx", "sg", "tx-udp-segmentation")
_numbers = count()


@dataclass(frozen=True, slots=True)
class Counters:
    """What an interface counted: packets and bytes, by direction."""

    rx_packets: int
    rx_bytes: int
    tx_packets: int
    tx_bytes: int

    def __sub__(self, other: "Counters") -> "Counters":
        return Counters(
            self.rx_packets - other.rx_packets,
            self.rx_bytes - other.rx_bytes,
            self.tx_packets - other.tx_packets,
            self.tx_bytes - other.tx_bytes,
        )

    @property
    def ingress(self) -> tuple[int, int]:
        return self.rx_packets, self.rx_bytes

    @property
    def egress(self) -> tuple[int, int]:
        return self.tx_packets, self.tx_bytes


@dataclass(frozen=True, slots=True)
class Namespace:
    """A network namespace of ours; a name of "" is the one that this process is in."""

    name: str

    def command(self, *arguments: str) -> list[str]:
        prefix = ["ip", "netns", "exec", self.name] if self.name else []
        return [*prefix, *arguments]

    def run(self, *arguments: str, stdin: str = "") -> str:
        command = self.command(*arguments)
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=60, input=stdin
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(arguments)}: {done.stderr or done.stdout}")
        return done.stdout

    @contextmanager
    def entered(self) -> Iterator[None]:
        """This thread inside the namespace; sockets made there stay there."""
        if not self.name:
            yield
            return
        with Path("/proc/thread-self/ns/net").open() as home, self._path.open() as there:
            _setns(there.fileno())
            try:
                yield
            finally:
                _setns(home.fileno())

    @property
    def _path(self) -> Path:
        return _NAMESPACES / self.name


HERE = Namespace("")


@dataclass(frozen=True, slots=True)
class End:
    """One end of a link."""

    name: str
    namespace: Namespace
    mac: str
    ipv4: str
    ipv6: str

    def counters(self) -> Counters:
        with self.namespace.entered():
            lines = Path("/proc/thread-self/net/dev").read_text().splitlines()
        (line,) = (one for one in lines if one.strip().startswith(f"{self.name}:"))
        numbers = [int(number) for number in line.partition(":")[2].split()]
        return Counters(numbers[1], numbers[0], numbers[9], numbers[8])

    @property
    def ifindex(self) -> int:
        with self.namespace.entered():
            return socket.if_nametoindex(self.name)

    def set_offloads(self, *, on: bool) -> None:
        state = "on" if on else "off"
        wanted = [word for offload in _OFFLOADS for word in (offload, state)]
        self.namespace.run("ethtool", "-K", self.name, *wanted)

    def raw_socket(self) -> socket.socket:
        """A socket that sends whole frames and never touches them."""
        with self.namespace.entered():
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
            sock.bind((self.name, 0))
        return sock

    def send(self, frames: list[bytes]) -> None:
        with self.raw_socket() as sock:
            for frame in frames:
                sock.send(frame)


@dataclass(frozen=True, slots=True)
class Link:
    """A veth pair: *near* is here and is what agents observe, *far* is in its own namespace."""

    near: End
    far: End

    def set_offloads(self, *, on: bool) -> None:
        self.near.set_offloads(on=on)
        self.far.set_offloads(on=on)

    def quiet(self, seconds: float = 0.0) -> Counters:
        """The near end's counters, once both ends agree and nothing moved for *seconds*."""
        return wait_until(lambda: self._settled(seconds), f"{self.near.name} to fall silent")

    def _settled(self, seconds: float) -> Counters | None:
        before = self.near.counters()
        os.sched_yield()
        if seconds:
            time.sleep(seconds)
        near, far = self.near.counters(), self.far.counters()
        is_even = (near.rx_packets, near.tx_packets) == (far.tx_packets, far.rx_packets)
        return near if near == before and is_even else None


def unique_name() -> str:
    """A name for a link or namespace that says whose it is; a letter more still fits."""
    return f"{PREFIX}{os.getpid()}-{next(_numbers)}"


@contextmanager
def link(*, mtu: int = 1500, offloads: bool = False, ipv6: bool = False) -> Iterator[Link]:
    """A link that is up, with addresses and fixed neighbours, and silent."""
    stem = unique_name()
    namespace = Namespace(stem)
    subnet = 0xC6120000 + 4 * secrets.randbelow(1 << 15)  # of 198.18.0.0/15, RFC 2544
    site = f"fd48:4c{secrets.randbelow(256):02x}:{secrets.randbelow(65536):x}:1"
    near = _end(f"{stem}a", HERE, 1, subnet, site)
    far = _end(f"{stem}b", namespace, 2, subnet, site)
    try:
        HERE.run("ip", "netns", "add", stem)
        _make(near, far, mtu=mtu)
        _configure(near, far, ipv6=ipv6)
        _configure(far, near, ipv6=ipv6)
        made = Link(near, far)
        made.set_offloads(on=offloads)
        # Joining multicast groups is announced twice within a second each.
        made.quiet(seconds=1.2 if ipv6 else 0.0)
        yield made
    finally:
        _remove(stem)


def _end(name: str, namespace: Namespace, number: int, subnet: int, site: str) -> End:
    ipv4 = socket.inet_ntoa((subnet + number).to_bytes(4, "big"))
    return End(name, namespace, f"02:48:4c:00:00:0{number}", ipv4, f"{site}::{number}")


def _make(near: End, far: End, *, mtu: int) -> None:
    HERE.run(
        *("ip", "link", "add", near.name, "mtu", str(mtu), "address", near.mac),
        *("type", "veth", "peer", "name", far.name, "mtu", str(mtu), "address", far.mac),
        *("netns", far.namespace.name),
    )


def _configure(end: End, other: End, *, ipv6: bool) -> None:
    # Without autoconfiguration: nothing that we have not sent should be on the link.
    settings = {"addr_gen_mode": "1", "accept_ra": "0", "accept_dad": "0"}
    settings["disable_ipv6"] = "0" if ipv6 else "1"
    set_to = (f"net.ipv6.conf.{end.name}.{name}={value}" for name, value in settings.items())
    end.namespace.run("sysctl", "-qw", *set_to)
    orders = ["link set lo up", f"link set {end.name} up"]
    addresses = [(end.ipv4 + "/30", other.ipv4)] + [(end.ipv6 + "/64 nodad", other.ipv6)] * ipv6
    for address, neighbour in addresses:
        orders += [
            f"address add {address} dev {end.name}",
            f"neighbour replace {neighbour} lladdr {other.mac} dev {end.name} nud permanent",
        ]
    # In one process: hundreds of tests have a link of their own.
    end.namespace.run("ip", "-batch", "-", stdin="\n".join(orders))


def remove_leftovers() -> None:
    """Remove what earlier runs left, whose process is no more."""
    for path in _NAMESPACES.glob(f"{PREFIX}*"):
        if is_ours_no_more(path.name):
            _remove(path.name)
    for _, name in socket.if_nameindex():
        if name.startswith(PREFIX) and is_ours_no_more(name):
            subprocess.run(["ip", "link", "del", name], check=False, capture_output=True)


def is_ours_no_more(name: str) -> bool:
    """Whether a thing of that name was made by a test run that has ended."""
    pid = name.removeprefix(PREFIX).partition("-")[0]
    return pid.isdigit() and not Path(f"/proc/{pid}").exists()


def _remove(stem: str) -> None:
    # The far end goes with its namespace a moment later; the near end takes it along at once.
    subprocess.run(["ip", "link", "del", f"{stem}a"], check=False, capture_output=True)
    subprocess.run(["ip", "netns", "del", stem], check=False, capture_output=True)


def _setns(fd: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(fd, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
