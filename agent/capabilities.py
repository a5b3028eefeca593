# SPDX-License-Identifier: Apache-2.0
"""Tell whether this process may load and attach the kernel programs."""

from pathlib import Path

# include/uapi/linux/capability.h; BPF and PERFMON were split off SYS_ADMIN in Linux v5.8.
_NUMBERS = {"CAP_NET_ADMIN": 12, "CAP_PERFMON": 38, "CAP_BPF": 39}
_SYS_ADMIN = 21
_COVERED_BY_SYS_ADMIN = {"CAP_PERFMON", "CAP_BPF"}
_STATUS = Path("/proc/self/status")


def missing_capabilities(status: str = "", *, enters_namespaces: bool = False) -> list[str]:
    """What is missing of the three capabilities that the agent needs, and of one that others do.

    Entering other network namespaces needs SYS_ADMIN.  *status* is the text of /proc/PID/status, by default this process's own.
    """
    lines = (status or _STATUS.read_text()).splitlines()
    (effective,) = (int(line.split()[1], 16) for line in lines if line.startswith("CapEff:"))
    has_sys_admin = bool(effective >> _SYS_ADMIN & 1)
    missing = [
        name
        for name, number in _NUMBERS.items()
        if not effective >> number & 1 and not (has_sys_admin and name in _COVERED_BY_SYS_ADMIN)
    ]
    if enters_namespaces and not has_sys_admin:
        missing.append("CAP_SYS_ADMIN")
    return missing
