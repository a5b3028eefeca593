# SPDX-License-Identifier: Apache-2.0
"""Which network interfaces there are, what they are, and what they have counted.

Everything is asked of the network namespace that this process is in: by ioctl and through
/proc/net, since /sys may still show another namespace's interfaces.
"""

import array
import fcntl
import socket
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

# include/uapi/linux/sockios.h, if.h, if_arp.h, ethtool.h
_SIOCGIFFLAGS = 0x8913
_SIOCGIFHWADDR = 0x8927
_SIOCETHTOOL = 0x8946
_ETHTOOL_GDRVINFO = 0x3
_IFF_UP = 0x1
_ARPHRD_ETHER = 1
_ARPHRD_LOOPBACK = 772
_ETHERNET_BYTES = 14

_PROC_NET_DEV = Path("/proc/net/dev")


class InterfaceError(Exception):
    """An interface that was asked for cannot be observed; the text says which and why."""


@dataclass(frozen=True, slots=True)
class Interface:
    """One network interface as it was when asked."""

    name: str
    ifindex: int
    is_up: bool
    link_bytes: int  # length of its link header: 14 for Ethernet, 0 for bare IP
    is_hardware: bool


@dataclass(frozen=True, slots=True)
class LinkCounters:
    """What an interface itself has counted since it was made."""

    ingress_packets: int
    ingress_bytes: int
    egress_packets: int
    egress_bytes: int


def list_interfaces() -> list[Interface]:
    """Every interface of this namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        found = []
        for ifindex, name in socket.if_nameindex():
            try:
                found.append(_interface(sock, name, ifindex))
            except OSError:  # it vanished while we asked
                continue
    return found


def _interface(sock: socket.socket, name: str, ifindex: int) -> Interface:
    (flags,) = struct.unpack_from("H", _ioctl(sock, _SIOCGIFFLAGS, name), 16)
    (hardware_type,) = struct.unpack_from("H", _ioctl(sock, _SIOCGIFHWADDR, name), 16)
    return Interface(
        name=name,
        ifindex=ifindex,
        is_up=bool(flags & _IFF_UP),
        link_bytes=_ETHERNET_BYTES if hardware_type in (_ARPHRD_ETHER, _ARPHRD_LOOPBACK) else 0,
        is_hardware=_is_hardware(sock, name),
    )


def _ioctl(sock: socket.socket, request: int, name: str) -> bytes:
    return fcntl.ioctl(sock, request, struct.pack("16s24x", name.encode()))


def _is_hardware(sock: socket.socket, name: str) -> bool:
    """Whether a driver names the bus its device sits on; virtio and tun name one as well."""
    # struct ethtool_drvinfo: cmd, driver[32], version[32], fw_version[32], bus_info[32], ...
    information = array.array("B", struct.pack("I192x", _ETHTOOL_GDRVINFO))
    address, _ = information.buffer_info()
    try:
        fcntl.ioctl(sock, _SIOCETHTOOL, struct.pack("16sP16x", name.encode(), address))
    except OSError:
        return False
    driver, _, _, bus = struct.unpack_from("32s32s32s32s", information.tobytes(), 4)
    bus_name = bus.split(b"\0")[0]
    return (
        bool(bus_name)
        and bus_name != b"N/A"
        and not driver.startswith((b"virtio", b"veth", b"tun"))
    )


def select(interfaces: Iterable[Interface], patterns: Iterable[str]) -> list[Interface]:
    """The interfaces that match *patterns*; without any, all that are up, `lo` excluded.

    Raises:
        InterfaceError: a pattern matches nothing, or names an interface that is down.
    """
    interfaces = list(interfaces)
    patterns = list(patterns)
    if not patterns:
        chosen = [one for one in interfaces if one.is_up and one.name != "lo"]
        if not chosen:
            raise InterfaceError("no interface is up besides lo; name one with --interface")
        return chosen
    for pattern in patterns:
        _check_matches(pattern, interfaces)
    return [
        one
        for one in interfaces
        if one.is_up and any(fnmatchcase(one.name, pattern) for pattern in patterns)
    ]


def _check_matches(pattern: str, interfaces: list[Interface]) -> None:
    matching = [one for one in interfaces if fnmatchcase(one.name, pattern)]
    if not matching:
        names = ", ".join(one.name for one in interfaces)
        raise InterfaceError(f"no interface matches {pattern!r}; there are: {names}")
    if not any(one.is_up for one in matching):
        raise InterfaceError(
            f"interface {matching[0].name} is down; bring it up: ip link set {matching[0].name} up"
        )


def read_counters() -> Mapping[str, LinkCounters]:
    """What every interface of this namespace has counted, by its name."""
    lines = _PROC_NET_DEV.read_text().splitlines()[2:]
    return dict(_parse_counters(line) for line in lines)


def _parse_counters(line: str) -> tuple[str, LinkCounters]:
    name, _, numbers = line.rpartition(":")
    fields = [int(number) for number in numbers.split()]
    return name.strip(), LinkCounters(
        ingress_bytes=fields[0],
        ingress_packets=fields[1],
        egress_bytes=fields[8],
        egress_packets=fields[9],
    )
