# SPDX-License-Identifier: Apache-2.0
"""List the sockets of this network namespace, as the kernel knows them at one moment.

The kernel answers a sock_diag request with a message for each socket.  They are read as arrays:
a parser that makes objects of them would hold the interpreter for seconds on a busy server.
"""

import errno
import socket
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.tuples import TCP, UDP, UDP_LITE, Keys, keys_of

# include/uapi/linux/netlink.h, sock_diag.h, inet_diag.h
_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST_DUMP = 0x301
_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_CGROUP_ID = 21  # since Linux v5.9
_ALL_STATES = 0xFFFFFFFF
_HEADER = struct.Struct("=IHHII")  # nlmsghdr
_REQUEST = struct.Struct("=BBBxI48x")  # inet_diag_req_v2
_RECEIVE_BYTES = 1 << 18
_TIMEOUT_SECONDS = 5.0
_MOST_ATTRIBUTES = 16

_MESSAGE = np.dtype(  # nlmsghdr and inet_diag_msg
    {
        "names": ["length", "family", "sport", "dport", "src", "dst", "uid", "inode"],
        "formats": ["<u4", "u1", ">u2", ">u2", "(16,)u1", "(16,)u1", "<u4", "<u4"],
        "offsets": [0, 16, 20, 22, 24, 40, 80, 84],
        "itemsize": 88,
    }
)


@dataclass(frozen=True, slots=True)
class Listed:
    """Sockets that a process has, in no order; *cgroup* is 0 where the kernel does not tell it."""

    keys: Keys
    inode: NDArray[np.uint64]
    uid: NDArray[np.uint32]
    cgroup: NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.inode)


def list_sockets() -> Listed:
    """Every TCP and UDP socket of this namespace, except those no process has any more.

    Raises:
        OSError: the kernel does not answer.
    """
    parts = [
        _parsed(_dump(family, protocol), protocol)
        for protocol in (TCP, UDP, UDP_LITE)
        for family in (socket.AF_INET, socket.AF_INET6)
    ]
    return Listed(
        np.concatenate([part.keys for part in parts]),
        np.concatenate([part.inode for part in parts]),
        np.concatenate([part.uid for part in parts]),
        np.concatenate([part.cgroup for part in parts]),
    )


def _dump(family: int, protocol: int) -> bytes:
    """The messages of all sockets of a kind, one behind the other."""
    request = _REQUEST.pack(family, protocol, 0, _ALL_STATES)
    head = _HEADER.pack(
        _HEADER.size + len(request), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST_DUMP, 1, 0
    )
    found: list[bytes] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as kernel:
        kernel.settimeout(_TIMEOUT_SECONDS)
        kernel.send(head + request)
        while True:
            answer = kernel.recv(_RECEIVE_BYTES)
            _, kind, _, _, _ = _HEADER.unpack_from(answer)
            if kind == _NLMSG_DONE:
                return b"".join(found)
            if kind == _NLMSG_ERROR:
                _refuse(answer)
                return b""
            found.append(answer)


def _refuse(answer: bytes) -> None:
    (code,) = struct.unpack_from("=i", answer, _HEADER.size)
    # A kernel without a protocol, or without a module that tells of it, has nothing to list.
    if -code not in (errno.ENOENT, errno.EOPNOTSUPP, errno.EINVAL, errno.EPROTONOSUPPORT):
        raise OSError(-code, "sock_diag")


def _parsed(data: bytes, protocol: int) -> Listed:
    starts = np.array(_starts(data), np.intp)
    raw = np.frombuffer(data + bytes(_MESSAGE.itemsize), np.uint8)
    rows: NDArray[Any] = raw[starts[:, None] + np.arange(_MESSAGE.itemsize)].view(_MESSAGE)[:, 0]
    has_inode = rows["inode"] != 0
    rows, starts = rows[has_inode], starts[has_inode]
    is_ipv4 = rows["family"] == socket.AF_INET
    keys = keys_of(
        local_addr=_mapped(rows["src"], is_ipv4),
        local_port=rows["sport"],
        remote_addr=_mapped(rows["dst"], is_ipv4),
        remote_port=rows["dport"],
        protocol=np.full(len(rows), protocol, np.uint8),
    )
    cgroup = _cgroups(raw, starts, rows["length"])
    return Listed(keys, rows["inode"].astype(np.uint64), rows["uid"].copy(), cgroup)


def _starts(data: bytes) -> list[int]:
    starts, at = [], 0
    while at < len(data):
        length, kind, _, _, _ = _HEADER.unpack_from(data, at)
        if kind == _SOCK_DIAG_BY_FAMILY:
            starts.append(at)
        at += (max(length, _HEADER.size) + 3) & ~3
    return starts


def _mapped(addresses: NDArray[np.uint8], is_ipv4: NDArray[np.bool_]) -> NDArray[np.uint8]:
    mapped = np.ascontiguousarray(addresses)
    mapped[is_ipv4, 12:] = mapped[is_ipv4, :4]
    mapped[is_ipv4, :10] = 0
    mapped[is_ipv4, 10:12] = 0xFF
    return mapped


def _cgroups(
    raw: NDArray[np.uint8], starts: NDArray[np.intp], length: NDArray[np.uint32]
) -> NDArray[np.uint64]:
    """The attribute of each message that tells the cgroup: a step along the list for all at once."""
    words = raw[: len(raw) // 4 * 4].view(np.uint32)
    found = np.zeros(len(starts), np.uint64)
    row = np.arange(len(starts))
    at, end = starts + _MESSAGE.itemsize, starts + length
    for _ in range(_MOST_ATTRIBUTES):
        is_inside = at + 4 <= end
        row, at, end = row[is_inside], at[is_inside], end[is_inside]
        head = words[at // 4]
        is_cgroup = head >> 16 == _CGROUP_ID
        place = at[is_cgroup] // 4
        found[row[is_cgroup]] = words[place + 1] | words[place + 2].astype(np.uint64) << np.uint64(
            32
        )
        at = at + ((np.maximum(head & 0xFFFF, 4) + 3) & ~np.uint32(3))
    return found
