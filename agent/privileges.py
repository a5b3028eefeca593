# SPDX-License-Identifier: Apache-2.0
"""Give up every privilege of root that the agent needs no more once it has started.

What is given up is gone for good, for this process and for the loaders that it starts later: the
capabilities leave every set, the bounding set included, and no program that we execute gains any.
User 0 remains, because pins under /sys/fs/bpf belong to it.

The kernel keeps capabilities for each thread, and a thread can only lower its own.  So this comes
before any thread that lasts is started; later ones inherit what the main thread has.
"""

import ctypes
import logging
import os
import resource
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from agent.capabilities import (
    STATUS,
    TO_ATTACH,
    TO_ENTER,
    TO_SEE_PROCESSES,
    bits,
    capability_set,
    has,
    names_of,
)
from agent.namespaces import Netns

log = logging.getLogger(__name__)

# include/uapi/linux/prctl.h, capability.h
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_VERSION_3 = 0x20080522

_TASKS = Path("/proc/self/task")
# What a loader of later reads, who compiles for a capture.
_SOURCES = (Path(sys.executable), Path(__file__), Path(__file__).parents[1] / "bpf/flow.bpf.c")
_THREAD_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Need:
    """Capabilities, and in words what for."""

    names: tuple[str, ...]
    purpose: str

    def __str__(self) -> str:
        *others, last = self.names
        return f"{', '.join(others)} and {last}" if others else last


def give_up_privileges(given_netns: Iterable[str], *, lists_sockets: bool) -> None:
    """Keep what an agent needs that observes these namespaces, and say what that is.

    *lists_sockets* says whether it looks again and again who has which socket; where events tell
    of all sockets, once at the start is enough.
    """
    netns = [Netns.given(text) for text in given_netns]
    keep_only(needs_of(netns, lists_sockets=lists_sockets), readable=[one.path for one in netns])


def needs_of(netns: Sequence[Netns], *, lists_sockets: bool) -> list[Need]:
    """What such an agent needs as long as it runs."""
    needs = [Need(TO_ATTACH, "to load and attach programs")]
    if netns:
        needs.append(Need((TO_ENTER,), "to enter network namespaces"))
    if any(not one.may_return for one in netns):
        needs.append(Need(TO_SEE_PROCESSES[:1], "to look at the processes that name namespaces"))
    if lists_sockets:
        needs.append(Need(TO_SEE_PROCESSES, "to see whose sockets are whose"))
    return needs


def keep_only(needs: Sequence[Need], *, readable: Iterable[Path] = ()) -> None:
    """Give up all else.

    The files in *readable*, and our own, stay so: where they are not root's, the right to read
    everything is kept as well, with a warning.
    """
    permitted = capability_set("CapPrm", STATUS.read_text())
    # Maps count as locked memory before Linux 5.11, and those of later captures are not made yet.
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY,) * 2)
    kept = permitted & bits(name for need in needs for name in need.names)
    if not has(permitted, "CAP_BPF") or not has(permitted, "CAP_PERFMON"):
        kept |= permitted & bits(["CAP_SYS_ADMIN"])  # which may do the same
    _await_other_threads()
    _set_capabilities(effective=kept, permitted=permitted)
    if hidden := [path for path in (*_SOURCES, *readable) if not _is_readable(path)]:
        log.warning(
            "capability kept to read what only its owner may read; let root own it",
            extra={"capability": "CAP_DAC_READ_SEARCH", "path": hidden[0]},
        )
        kept |= permitted & bits(["CAP_DAC_READ_SEARCH"])
    # Without CAP_SETPCAP we may not; nor does it matter then, since no program gains anything.
    _set_capabilities(effective=permitted, permitted=permitted)
    with suppress(PermissionError):
        _drop_bounding_set(kept)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    with suppress(OSError):  # a kernel without ambient capabilities
        _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    _set_capabilities(effective=kept, permitted=kept)
    _say(needs, kept)


def _say(needs: Sequence[Need], kept: int) -> None:
    told = [f"{need} {need.purpose}" for need in needs if kept & bits(need.names)]
    log.info("privileges given up", extra={"kept": "; ".join(told)})


def _await_other_threads() -> None:
    """Let threads end that are ending, such as the one that waited for the loader."""
    deadline = time.monotonic() + _THREAD_SECONDS
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join(max(deadline - time.monotonic(), 0))
    others = {task.name for task in _TASKS.iterdir()} - {str(threading.get_native_id())}
    if others:
        log.warning("threads keep the privileges of root", extra={"threads": ",".join(others)})


def _is_readable(path: Path) -> bool:
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    except PermissionError:
        return False
    except OSError:  # gone, which is for others to tell
        return True
    return True


def _drop_bounding_set(kept: int) -> None:
    bounding = capability_set("CapBnd", STATUS.read_text())
    for number in range(bounding.bit_length()):
        if (bounding & ~kept) >> number & 1:
            _prctl(_PR_CAPBSET_DROP, number)


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    # struct __user_cap_data_struct: one for the lower 32 capabilities, one for the upper.
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def _set_capabilities(*, effective: int, permitted: int) -> None:
    """Set those of this thread, and leave none to be inherited."""
    halves = [
        (effective >> shift & 0xFFFFFFFF, permitted >> shift & 0xFFFFFFFF) for shift in (0, 32)
    ]
    sets = (_Sets * 2)(*(_Sets(*half, 0) for half in halves))
    header = _Header(_VERSION_3, 0)
    _check(_libc().capset(ctypes.byref(header), ctypes.byref(sets)), "capset", names_of(effective))


def _prctl(what: int, value: int) -> None:
    zeros = (ctypes.c_ulong(0),) * 3
    _check(_libc().prctl(what, ctypes.c_ulong(value), *zeros), "prctl", what)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int, call: str, subject: object) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}", str(subject))
