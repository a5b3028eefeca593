# SPDX-License-Identifier: Apache-2.0
"""tc filters on kernels without tcx, through netlink: here alone is pyroute2.

Before Linux v6.6 a tc program is a filter of the clsact qdisc.  It outlives us, so what we add
has a handle made of the agent's name, by which it is removed; other filters, those of other
agents among them, and a qdisc that was there before us, stay.
"""

import errno
import os
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import wraps
from typing import ParamSpec, TypeVar

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

# include/uapi/linux/pkt_sched.h: TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS or _EGRESS)
_PARENTS = {"ingress": 0xFFFFFFF2, "egress": 0xFFFFFFF3}
_CLSACT_HANDLE = 0xFFFF0000
_ETH_P_ALL = 0x0003
# The first to run, since a filter's verdict may end the chain.  Of one priority, the latest is.
_PRIORITY = 1


T = TypeVar("T")
P = ParamSpec("P")


class RefusedError(OSError):
    """The kernel refused a filter; errno and strerror say why."""


def _in_a_thread(function: Callable[P, T]) -> Callable[P, T]:
    """*function* where no event loop runs: pyroute2 runs one of its own.

    A thread starts in the network namespace of the one that starts it.
    """

    @wraps(function)
    def called(*arguments: P.args, **options: P.kwargs) -> T:
        with ThreadPoolExecutor(max_workers=1) as thread:
            return thread.submit(function, *arguments, **options).result()

    return called


@_in_a_thread
def attach(program_fd: int, ifindex: int, direction: str, *, owner: str) -> bool:
    """Add *owner*'s filter for *direction*; returns whether the qdisc had to be made for it.

    Raises:
        RefusedError: EEXIST where *owner* has a filter there already; EINVAL where filters of
            another kind have the first place.
    """
    with IPRoute() as netlink:
        created = _ensure_clsact(netlink, ifindex)
        try:
            netlink.tc("add-filter", "bpf", ifindex, **_filter(program_fd, direction, owner))
        except NetlinkError as error:
            raise RefusedError(error.code, os.strerror(error.code)) from None
        return created


@_in_a_thread
def replace(program_fd: int, ifindex: int, direction: str, *, owner: str) -> None:
    """Put another program in the place of *owner*'s filter, without a packet between.

    Where *owner* has no filter, or the interface has gone, there is nothing to replace.

    Raises:
        RefusedError: the kernel refuses the program.
    """
    with IPRoute() as netlink:
        try:
            netlink.tc("change-filter", "bpf", ifindex, **_filter(program_fd, direction, owner))
        except NetlinkError as error:
            if error.code not in (errno.ENOENT, errno.ENODEV, errno.EINVAL):
                raise RefusedError(error.code, os.strerror(error.code)) from None


def _filter(program_fd: int, direction: str, owner: str) -> dict[str, object]:
    return {
        "handle": _handle(owner),
        "parent": _PARENTS[direction],
        "prio": _PRIORITY,
        "protocol": _ETH_P_ALL,
        "fd": program_fd,
        "name": f"hookline_{direction}",
        "direct_action": True,
        "classid": 1,
    }


def _handle(owner: str) -> int:
    return zlib.crc32(owner.encode()) or 1


def _ensure_clsact(netlink: IPRoute, ifindex: int) -> bool:
    try:
        netlink.tc("add", "clsact", ifindex)
    except NetlinkError as error:
        if error.code == errno.EEXIST:
            return False
        raise RefusedError(error.code, os.strerror(error.code)) from None
    return True


@_in_a_thread
def detach(ifindex: int, direction: str, *, owner: str) -> None:
    """Remove *owner*'s filter for *direction*; one that has gone, or its interface, is fine."""
    with IPRoute() as netlink, suppress(NetlinkError):
        netlink.tc(
            "del-filter",
            "bpf",
            ifindex,
            _handle(owner),
            parent=_PARENTS[direction],
            prio=_PRIORITY,
            protocol=_ETH_P_ALL,
        )


@_in_a_thread
def has_filter(ifindex: int, direction: str, *, owner: str) -> bool:
    """Whether *owner*'s filter for *direction* is on the interface that has this index now."""
    with IPRoute() as netlink, suppress(NetlinkError):
        filters = netlink.get_filters(index=ifindex, parent=_PARENTS[direction])
        return any(one["handle"] == _handle(owner) for one in filters)
    return False


@_in_a_thread
def remove_clsact_if_unused(ifindex: int) -> None:
    """Remove the clsact qdisc that we made, unless somebody has come to use it since."""
    with IPRoute() as netlink, suppress(NetlinkError):
        used = any(
            list(netlink.get_filters(index=ifindex, parent=parent)) for parent in _PARENTS.values()
        )
        if not used:
            netlink.tc("del", "clsact", ifindex)
