# SPDX-License-Identifier: Apache-2.0
"""Ask the kernel for its interfaces, and hear of those that change: route netlink by hand.

Few messages are all we need, many times a second on a host of containers.  pyroute2 takes a third
of a millisecond for one of them, and 18 MB of the agent.

A socket belongs to the network namespace in which it was made, whoever uses it later.
"""

import array
import errno
import fcntl
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import Self

from agent.interfaces import Interface, LinkCounters

# include/uapi/linux/netlink.h, rtnetlink.h, if_link.h
_NEWLINK = 16
_DELLINK = 17
_GETLINK = 18
_ERROR = 2
_DONE = 3
_REQUEST = 0x1
_DUMP = 0x300
_DUMP_INTERRUPTED = 0x10
_GROUP_LINK = 1
_IFLA_ADDRESS = 1
_IFLA_IFNAME = 3
_IFLA_MTU = 4
_IFLA_LINKINFO = 18
_IFLA_INFO_KIND = 1
_IFLA_STATS64 = 23
_IFLA_XDP = 43
_IFLA_XDP_PROGRAM_IDS = (4, 5, 6, 7)  # the only one; of the driver, of the stack, of the card
_TYPE_MASK = 0x3FFF  # two bits are flags

_HEADER = struct.Struct("IHHII")
_INFORMATION = struct.Struct("BxHiII")
_ATTRIBUTE = struct.Struct("HH")

# include/uapi/linux/if.h, if_arp.h, sockios.h, ethtool.h
_IFF_UP = 0x1
_ARPHRD_ETHER = 1
_ARPHRD_LOOPBACK = 772
_ETHERNET_BYTES = 14
_SIOCETHTOOL = 0x8946
_ETHTOOL_GDRVINFO = 0x3

_SO_RCVBUFFORCE = 33
_RECEIVE_BYTES = 1 << 20
_REPLY_BYTES = 1 << 18
_REPLY_SECONDS = 5.0
_INTERRUPTED_DUMPS = 5

PHYSICAL = "physical"


class LinkSocket:
    """The interfaces of the network namespace in which this is made; *netns* is its label.

    Raises:
        OSError: the kernel refuses a socket, or an answer.
    """

    def __init__(self, netns: str = "") -> None:
        self._netns = netns
        self._requests = _route_socket(groups=0)
        self._requests.settimeout(_REPLY_SECONDS)
        self._changes = _route_socket(groups=_GROUP_LINK)
        self._changes.setblocking(False)
        self._driver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for sock in (self._requests, self._changes, self._driver):
            sock.close()

    def fileno(self) -> int:
        """Readable when there are changes."""
        return self._changes.fileno()

    def all(self) -> list[Interface]:
        """Every interface of the namespace."""
        for _ in range(_INTERRUPTED_DUMPS):
            found, is_whole = self._ask(0, _REQUEST | _DUMP)
            if is_whole:
                break
        return found

    def one(self, ifindex: int) -> Interface | None:
        """The interface of that index; None where there is none."""
        try:
            found, _ = self._ask(ifindex, _REQUEST)
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
            return None
        return found[0]

    def changed(self) -> dict[int, Interface | None] | None:
        """The indexes of interfaces that have changed, with the last words of those that went.

        It only says where to look.  None when the kernel had more to say than we had room for.
        """
        changed: dict[int, Interface | None] = {}
        is_complete = True
        while True:
            try:
                received = self._changes.recv(_REPLY_BYTES)
            except BlockingIOError:
                return changed if is_complete else None
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                is_complete = False
                continue
            for kind, _, body in messages(received):
                if kind in (_NEWLINK, _DELLINK):
                    family, _, ifindex, _, _ = _INFORMATION.unpack_from(body)
                    # A bridge says that it has lost a port with the message of one that is gone.
                    is_gone = kind == _DELLINK and family == socket.AF_UNSPEC
                    changed[ifindex] = self._interface(body) if is_gone else changed.get(ifindex)

    def _ask(self, ifindex: int, flags: int) -> tuple[list[Interface], bool]:
        """The interfaces of an answer, and whether none changed while it was written."""
        self._sequence += 1
        body = _INFORMATION.pack(socket.AF_UNSPEC, 0, ifindex, 0, 0)
        header = _HEADER.pack(_HEADER.size + len(body), _GETLINK, flags, self._sequence, 0)
        self._requests.send(header + body)
        found: list[Interface] = []
        is_whole = True
        while True:
            for kind, message_flags, body in messages(
                self._requests.recv(_REPLY_BYTES), self._sequence
            ):
                is_whole &= not message_flags & _DUMP_INTERRUPTED
                if kind == _DONE:
                    return found, is_whole
                if kind == _ERROR:
                    (code,) = struct.unpack_from("i", body)
                    raise OSError(-code, "RTM_GETLINK", f"ifindex {ifindex}")
                found.append(self._interface(body))
                if not flags & _DUMP:
                    return found, is_whole

    def _interface(self, body: bytes) -> Interface:
        _, hardware_type, ifindex, flags, _ = _INFORMATION.unpack_from(body)
        found = dict(attributes(body[_INFORMATION.size :]))
        name = _text(found.get(_IFLA_IFNAME, b""))
        kind = dict(attributes(found.get(_IFLA_LINKINFO, b""))).get(_IFLA_INFO_KIND)
        if kind is not None:
            called = _text(kind)
        else:
            called = "loopback" if hardware_type == _ARPHRD_LOOPBACK else PHYSICAL
        is_ethernet = hardware_type in (_ARPHRD_ETHER, _ARPHRD_LOOPBACK)
        (mtu,) = struct.unpack("I", found.get(_IFLA_MTU, bytes(4)))
        return Interface(
            name=name,
            ifindex=ifindex,
            is_up=bool(flags & _IFF_UP),
            link_bytes=_ETHERNET_BYTES if is_ethernet else 0,
            is_hardware=called == PHYSICAL and self._is_on_a_bus(name),
            mac=found.get(_IFLA_ADDRESS, b"").hex(":"),
            kind=called,
            mtu=mtu,
            xdp_programs=_xdp_programs(found.get(_IFLA_XDP, b"")),
            counters=_counters(found.get(_IFLA_STATS64, b"")),
            netns=self._netns,
        )

    def _is_on_a_bus(self, name: str) -> bool:
        """Whether a driver names the bus its device sits on; virtio and tun name one as well."""
        # struct ethtool_drvinfo: cmd, driver[32], version[32], fw_version[32], bus_info[32], ...
        information = array.array("B", struct.pack("I192x", _ETHTOOL_GDRVINFO))
        address, _ = information.buffer_info()
        try:
            fcntl.ioctl(self._driver, _SIOCETHTOOL, struct.pack("16sP16x", name.encode(), address))
        except OSError:
            return False
        driver, _, _, bus = struct.unpack_from("32s32s32s32s", information.tobytes(), 4)
        bus_name = bus.split(b"\0")[0]
        return (
            bool(bus_name)
            and bus_name != b"N/A"
            and not driver.startswith((b"virtio", b"veth", b"tun"))
        )


def _route_socket(*, groups: int) -> socket.socket:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    # Who has not the right gets on with less.
    with suppress(PermissionError):
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BYTES)
    sock.bind((0, groups))
    return sock


def messages(received: bytes, sequence: int | None = None) -> Iterator[tuple[int, int, bytes]]:
    """Type, flags and body of each message; of one *sequence* only, where that is given."""
    at = 0
    while at + _HEADER.size <= len(received):
        length, kind, flags, number, _ = _HEADER.unpack_from(received, at)
        if length < _HEADER.size:
            return
        if sequence in (None, number):
            yield kind, flags, received[at + _HEADER.size : at + length]
        at += (length + 3) & ~3


def attributes(content: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _ATTRIBUTE.size <= len(content):
        length, kind = _ATTRIBUTE.unpack_from(content, at)
        if length < _ATTRIBUTE.size:
            return
        yield kind & _TYPE_MASK, content[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3


def _text(content: bytes) -> str:
    return content.rstrip(b"\0").decode(errors="replace")


def _xdp_programs(content: bytes) -> tuple[int, ...]:
    ids = {
        struct.unpack("I", value)[0]
        for kind, value in attributes(content)
        if kind in _IFLA_XDP_PROGRAM_IDS
    }
    return tuple(sorted(ids - {0}))


def _counters(content: bytes) -> LinkCounters:
    # struct rtnl_link_stats64 begins with packets and bytes, received before sent.
    rx_packets, tx_packets, rx_bytes, tx_bytes = struct.unpack_from("4Q", content.ljust(32, b"\0"))
    return LinkCounters(rx_packets, rx_bytes, tx_packets, tx_bytes)
