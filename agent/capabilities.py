# SPDX-License-Identifier: Apache-2.0
"""What a process may do, as the kernel tells of it in /proc/PID/status.

Loading and attaching the kernel programs needs three of the kernel's capabilities, and entering
other network namespaces a fourth.
"""

from collections.abc import Iterable
from pathlib import Path

# include/uapi/linux/capability.h; BPF and PERFMON were split off SYS_ADMIN in Linux v5.8.
NUMBERS = {
    "CAP_DAC_READ_SEARCH": 2,
    "CAP_NET_ADMIN": 12,
    "CAP_SYS_PTRACE": 19,
    "CAP_SYS_ADMIN": 21,
    "CAP_PERFMON": 38,
    "CAP_BPF": 39,
}
TO_ATTACH = ("CAP_NET_ADMIN", "CAP_PERFMON", "CAP_BPF")
TO_ENTER = "CAP_SYS_ADMIN"
TO_SEE_PROCESSES = ("CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH")
_COVERED_BY_SYS_ADMIN = {"CAP_PERFMON", "CAP_BPF"}
STATUS = Path("/proc/self/status")


def missing_capabilities(status: str = "", *, enters_namespaces: bool = False) -> list[str]:
    """What is missing of the three capabilities that the agent needs, and of one that others do.

    Entering other network namespaces needs SYS_ADMIN.  *status* is the text of /proc/PID/status, by default this process's own.
    """
    effective = capability_set("CapEff", status or STATUS.read_text())
    has_sys_admin = has(effective, "CAP_SYS_ADMIN")
    missing = [
        name
        for name in TO_ATTACH
        if not has(effective, name) and not (has_sys_admin and name in _COVERED_BY_SYS_ADMIN)
    ]
    if enters_namespaces and not has_sys_admin:
        missing.append(TO_ENTER)
    return missing


def status_field(name: str, status: str) -> str:
    """One field of the text of /proc/PID/status; empty where the kernel has none."""
    fields = (line.split() for line in status.splitlines() if line.startswith(f"{name}:"))
    return next((field[1] for field in fields), "")


def capability_set(name: str, status: str) -> int:
    """The set *name* in the text of /proc/PID/status: CapEff, CapPrm, CapInh, CapBnd or CapAmb."""
    return int(status_field(name, status) or "0", 16)


def has(capabilities: int, name: str) -> bool:
    return bool(capabilities >> NUMBERS[name] & 1)


def bits(names: Iterable[str]) -> int:
    """The set of these."""
    return sum(1 << NUMBERS[name] for name in set(names))


def names_of(capabilities: int) -> list[str]:
    """The names in a set, and the number of what has none here."""
    known = {number: name for name, number in NUMBERS.items()}
    numbers = [number for number in range(64) if capabilities >> number & 1]
    return [known.get(number, f"CAP_{number}") for number in numbers]
