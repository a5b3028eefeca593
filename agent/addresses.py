# SPDX-License-Identifier: Apache-2.0
"""List the addresses of this network namespace: route netlink by hand, as in agent/links.py."""

import os
import socket
import struct
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from agent.links import attributes, messages

# include/uapi/linux/netlink.h, rtnetlink.h, if_addr.h
_NEWADDR = 20
_GETADDR = 22
_ERROR = 2
_DONE = 3
_REQUEST_DUMP = 0x301
_IFA_ADDRESS = 1
_IFA_LOCAL = 2
_REQUEST = struct.Struct("IHHIIB7x")  # nlmsghdr, ifaddrmsg
_FAMILY = struct.Struct("B7x")  # ifaddrmsg begins with it
_MAPPED = bytes(10) + b"\xff\xff"
_REPLY_BYTES = 1 << 18
_REPLY_SECONDS = 5.0


def local_addresses() -> NDArray[np.void]:
    """The addresses of this network namespace, 16 bytes each; IPv4 mapped into ::ffff/96.

    Raises:
        OSError: the kernel does not tell.
    """
    return np.frombuffer(b"".join(map(_address, _dump())), "V16")


def _dump() -> Iterator[bytes]:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
        kernel.settimeout(_REPLY_SECONDS)
        kernel.send(_REQUEST.pack(_REQUEST.size, _GETADDR, _REQUEST_DUMP, 1, 0, socket.AF_UNSPEC))
        while True:
            for kind, _, body in messages(kernel.recv(_REPLY_BYTES)):
                if kind == _DONE:
                    return
                if kind == _ERROR:
                    (code,) = struct.unpack_from("i", body)
                    raise OSError(-code, os.strerror(-code), "RTM_GETADDR")
                if kind == _NEWADDR:
                    yield body


def _address(body: bytes) -> bytes:
    """Of one message; nothing where it is of another family than IP."""
    (family,) = _FAMILY.unpack_from(body)
    found = dict(attributes(body[_FAMILY.size :]))
    # On a link with two ends, the address is the other one's.
    address = found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS, b"")
    if family == socket.AF_INET:
        return _MAPPED + address
    return address if family == socket.AF_INET6 else b""
