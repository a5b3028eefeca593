# SPDX-License-Identifier: Apache-2.0
"""Whether this machine can run an agent: kernel, file systems, rights, libraries, clock."""

import ctypes
import os
import platform
import re
from importlib.util import find_spec
from pathlib import Path

from agent.capabilities import STATUS, missing_capabilities
from agent.filesystems import BPF, CGROUP2, kind_of
from agent.hierarchy import hierarchies
from agent.plan import BPFFS
from hookline.checks.result import Result, fail, ok, warn

OLDEST_KERNEL = (5, 10)
# What a kernel has from a version on, and what is there without.
FEATURES = (
    ((5, 13), "rows about sockets"),
    ((5, 18), "jumbo frames at native XDP"),
    ((6, 6), "tcx; it is clsact filters instead"),
)
MOUNTS = Path("/proc/self/mountinfo")
JIT = Path("/proc/sys/net/core/bpf_jit_enable")
LOCKDOWN = Path("/sys/kernel/security/lockdown")
_TIME_ERROR = 5  # include/uapi/linux/timex.h
_TIMEX_BYTES = 256  # struct timex is smaller


def kernel(release: str = "") -> Result:
    """Whether the kernel is new enough, and what it lacks."""
    release = release or platform.release()
    found = re.match(r"(\d+)\.(\d+)", release)
    version = tuple(map(int, found.groups())) if found else (0, 0)
    if version < OLDEST_KERNEL:
        return fail("kernel", f"Linux {release} is too old", "upgrade it to 5.10 or newer")
    lacking = [what for since, what in FEATURES if version < since]
    if lacking:
        return warn(
            "kernel", f"Linux {release} has no {', no '.join(lacking)}", "a newer one has them"
        )
    return ok("kernel", f"Linux {release}: sockets, jumbo frames, tcx")


def jit(path: Path = JIT) -> Result:
    """Whether the kernel compiles programs to machine code."""
    try:
        is_on = path.read_text().strip() != "0"
    except OSError:
        return ok("bpf jit", "compiled into the kernel")
    if not is_on:
        return warn(
            "bpf jit",
            "the kernel interprets programs, which costs every packet many times as much",
            "switch it on: sysctl -w net.core.bpf_jit_enable=1",
        )
    return ok("bpf jit", "on")


def lockdown(path: Path = LOCKDOWN) -> Result:
    """Whether the kernel refuses what the programs need."""
    try:
        chosen = re.search(r"\[(\w+)\]", path.read_text())
    except OSError:
        return ok("lockdown", "none")
    mode = chosen[1] if chosen else "none"
    if mode == "confidentiality":
        return fail(
            "lockdown",
            "the kernel is locked down to confidentiality and refuses the programs",
            "boot with lockdown=integrity, or without",
        )
    return ok("lockdown", mode)


def bpf_filesystem(path: Path = BPFFS) -> Result:
    """Whether pins have their place."""
    try:
        kind = kind_of(path)
    except OSError:
        return fail(
            "bpf file system", f"{path} is not there", "mount sysfs, or take a kernel with eBPF"
        )
    if kind != BPF:
        return warn(
            "bpf file system",
            f"nothing is mounted at {path}; an agent that may will do it",
            f"mount it: mount -t bpf bpf {path}",
        )
    return ok("bpf file system", f"mounted at {path}")


def cgroups(mountinfo: str = "") -> Result:
    """Whether sockets can be observed, and their units named."""
    root = hierarchies(mountinfo or MOUNTS.read_text()).root
    if root is None or (not mountinfo and kind_of(root) != CGROUP2):
        return warn(
            "cgroups",
            "no cgroup v2 hierarchy is mounted, so sockets are not observed",
            "mount one: mount -t cgroup2 none /sys/fs/cgroup",
        )
    return ok("cgroups", f"version 2 at {root}")


def rights(status: str = "", uid: int | None = None) -> Result:
    """Whether whoever asks could run an agent here."""
    uid = os.geteuid() if uid is None else uid
    missing = missing_capabilities(status or STATUS.read_text())
    if uid != 0:
        return warn(
            "rights",
            f"user {uid} sees neither agents nor pins",
            "run it as root: sudo hookline doctor",
        )
    if missing:
        return fail(
            "rights", f"root without {', '.join(missing)}", "give the container or unit these too"
        )
    return ok("rights", "root, with what an agent needs")


def libraries(library: str = "libbpf.so.1", module: str = "bcc") -> Result:
    """Whether compiler and loader of the kernel programs are there."""
    try:
        ctypes.CDLL(library)
    except OSError:
        return fail("libraries", f"{library} is missing", "install libbpf1")
    if find_spec(module) is None:
        return fail("libraries", f"Python finds no {module}", "install python3-bpfcc")
    return ok("libraries", f"{module} and {library}")


def clock(state: int | None = None) -> Result:
    """Whether anything keeps the clock right, so that rows of several nodes go together."""
    if (kernel_clock_state() if state is None else state) == _TIME_ERROR:
        return warn(
            "clock",
            "nothing synchronises it, so times of several nodes may not go together",
            "run chrony or systemd-timesyncd",
        )
    return ok("clock", "synchronised")


def kernel_clock_state() -> int:
    """What adjtimex() says of the clock; an error where we may not ask."""
    state: int = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    return state
