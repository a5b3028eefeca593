# SPDX-License-Identifier: Apache-2.0
"""Ask the machine who has which socket, before the first row is made and as long as it takes.

The kernel tells of sockets by events, but not of those that were there before; so they are listed
once.  Where there are no events, listing them again and again has to do: connections that begin
and end in between stay unknown then.

Everything that reads files or waits for the kernel runs in a thread, which ends with it: one that
lived on would keep the privileges that the agent gives up after its start.  Only sockets of our own
network namespace are listed: to enter another one would take CAP_SYS_ADMIN.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

from agent.addresses import local_addresses
from agent.cgroups import Cgroups
from agent.hierarchy import walk
from agent.owners import OwnerLookup
from agent.processes import Holders, find_holders
from agent.sockdiag import Listed, list_sockets

log = logging.getLogger(__name__)

# Reading /proc takes about 10 microseconds for each open file.
_PROCESSES_SECONDS = 3.0
_LOOK_SECONDS = 1.0
_LIST_SECONDS = 5.0
_ADDRESSES_SECONDS = 10.0
# Of one CPU, listing again takes no more than one part in so many.
_REST = 20

Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Survey:
    """What was found, and when it was true, by CLOCK_MONOTONIC."""

    listed: Listed
    holders: Holders
    seen_ns: int
    took_seconds: float


def survey(processes_seconds: float = _PROCESSES_SECONDS) -> Survey:
    """List all sockets with their processes; blocks.

    Raises:
        OSError: the kernel or /proc does not answer.
    """
    seen_ns = time.monotonic_ns()
    listed = list_sockets()
    holders = find_holders(time.monotonic() + processes_seconds)
    return Survey(listed, holders, seen_ns, (time.monotonic_ns() - seen_ns) / 1e9)


async def first_lookup() -> OwnerLookup:
    """A lookup that knows the sockets there are."""
    lookup = OwnerLookup(Cgroups())
    await _follow_addresses(lookup)
    found = await _asked(survey)
    if found is not None:
        lookup.take_listed(found.listed, found.holders, seen_ns=found.seen_ns, now=time.monotonic())
        _say_what_is_missing(found.holders)
    return lookup


def _say_what_is_missing(holders: Holders) -> None:
    if holders.hidden:
        log.info(
            "sockets older than this agent have no process: it may not look at other processes;"
            " CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH would allow it",
            extra={"processes": holders.hidden},
        )
    if not holders.is_whole:
        log.warning(
            "some sockets older than this agent have no process: there was no time for all",
            extra={"seconds": _PROCESSES_SECONDS},
        )


class Events(Enum):
    """Of which sockets events tell."""

    ALL = "all"
    SOME = "some"
    NONE = "none"


async def keep_informed(lookup: OwnerLookup, events: Events) -> None:
    """Follow addresses and sockets without events, until cancelled."""
    addresses_due = time.monotonic() + _ADDRESSES_SECONDS
    list_due = time.monotonic() + _LIST_SECONDS
    listed_ns = time.monotonic_ns()
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        if time.monotonic() >= addresses_due:
            await _follow_addresses(lookup)
            addresses_due = time.monotonic() + _ADDRESSES_SECONDS
        if events is not Events.ALL and time.monotonic() >= list_due:
            list_due, listed_ns = await _list_again(lookup, events, listed_ns)


async def _list_again(lookup: OwnerLookup, events: Events, before_ns: int) -> tuple[float, int]:
    """Take the sockets there are now; when to do so again, and when it was done last."""
    found = await _asked(survey)
    now = time.monotonic()
    if found is None:
        return now + _LIST_SECONDS, before_ns
    if events is Events.NONE:
        lookup.close_unlisted(found.listed, found.seen_ns)
    lookup.take_listed(
        found.listed, found.holders, before_ns=before_ns, seen_ns=found.seen_ns, now=now
    )
    return now + max(_LIST_SECONDS, _REST * found.took_seconds), found.seen_ns


async def _follow_addresses(lookup: OwnerLookup) -> None:
    addresses = await _asked(local_addresses)
    if addresses is not None:
        lookup.set_local_addresses(addresses)


async def name_cgroups(cgroups: Cgroups) -> None:
    """Find the names of cgroups that no process could tell any more, before rows need them."""
    began = time.monotonic()
    if cgroups.root is None or not cgroups.is_walk_due(began):
        return
    root = cgroups.root
    walked = await _asked(lambda: walk(root))
    now = time.monotonic()
    cgroups.learn(walked or {}, now, now - began)


async def _asked(look: Callable[[], Found]) -> Found | None:
    """What *look* finds, in a thread; None when the kernel does not answer."""
    try:
        return await _in_a_thread(look)
    except OSError as error:
        log.warning("cannot learn who has which socket", extra={"reason": str(error)})
        return None


async def _in_a_thread(look: Callable[[], Found]) -> Found:
    with ThreadPoolExecutor(max_workers=1) as thread:
        return await asyncio.get_running_loop().run_in_executor(thread, look)
