# SPDX-License-Identifier: Apache-2.0
"""Find the cgroup whose sockets to observe, and attach the socket programs to it.

They see the sockets of all processes below it.  Whoever else has programs there keeps them: the
kernel runs all.
"""

import os
from pathlib import Path

from agent import filesystems, libbpf
from agent.hierarchy import hierarchies
from agent.kernel import Loaded
from agent.plan import LoadError, Pins
from agent.sources import Source

_MOUNTS = Path("/proc/self/mountinfo")

# Types of programs, and enum bpf_attach_type of include/uapi/linux/bpf.h.  hook_tcp comes last: a
# connection that it reports has met the hooks that know its process.
_HOOKS = {
    "hook_release": ("CGROUP_SOCK", 34),  # since Linux v5.9
    "hook_bound4": ("CGROUP_SOCK", 12),
    "hook_bound6": ("CGROUP_SOCK", 13),
    "hook_connect4": ("CGROUP_SOCK_ADDR", 10),
    "hook_connect6": ("CGROUP_SOCK_ADDR", 11),
    "hook_send4": ("CGROUP_SOCK_ADDR", 14),
    "hook_send6": ("CGROUP_SOCK_ADDR", 15),
    "hook_receive4": ("CGROUP_SOCK_ADDR", 19),
    "hook_receive6": ("CGROUP_SOCK_ADDR", 20),
    "hook_peer4": ("CGROUP_SOCK_ADDR", 29),  # since Linux v5.8
    "hook_peer6": ("CGROUP_SOCK_ADDR", 30),
    "hook_tcp": ("SOCK_OPS", 3),
}
SOCKETS = Source(
    "socket.bpf.c",
    {name: kind for name, (kind, _) in _HOOKS.items()},
    ("sockets", "socket_totals"),
    {},
    {name: attach_type for name, (_, attach_type) in _HOOKS.items()},
)


def chosen_cgroup(asked: str, mounts: str = "") -> Path | None:
    """The cgroup that was asked for; else the root of the hierarchy, None where there is none.

    *mounts* is the text of /proc/self/mountinfo.

    Raises:
        LoadError: what was asked for is no cgroup.
    """
    if not asked:
        return hierarchies(mounts or _MOUNTS.read_text()).root
    try:
        kind = filesystems.kind_of(Path(asked))
    except OSError as error:
        raise LoadError(f"cannot find cgroup {asked}: {error.strerror}") from None
    if kind != filesystems.CGROUP2 or not Path(asked).is_dir():
        raise LoadError(f"{asked} is no folder of cgroup v2; name one with --cgroup")
    return Path(asked)


def attach_sockets(loaded: Loaded, cgroup: Path, pins: Pins) -> None:
    """Attach every socket program to *cgroup*, and pin what holds it there.

    Where an agent that is no more had attached its own to the same cgroup, they take their places
    one by one, and no event is missed in between.

    Raises:
        LoadError: the cgroup has gone, or the kernel refuses.
    """
    try:
        cgroup_fd = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise LoadError(f"cannot open cgroup {cgroup}: {error.strerror}") from None
    try:
        for name, attach_type in SOCKETS.attach_types.items():
            _attach(loaded.programs[name], cgroup_fd, attach_type, pins.cgroup_link(name))
    finally:
        os.close(cgroup_fd)


def _attach(program_fd: int, cgroup_fd: int, attach_type: int, pin: Path) -> None:
    if pin.exists():
        with libbpf.opened(pin) as link_fd:
            if libbpf.link_target(link_fd) == os.fstat(cgroup_fd).st_ino:
                libbpf.update_link(link_fd, program_fd)
                return
        libbpf.detach_link(pin)
    try:
        fd = libbpf.create_cgroup_link(program_fd, cgroup_fd, attach_type)
    except OSError as error:
        raise LoadError(f"cannot attach {pin.name} to the cgroup: {error.strerror}") from None
    libbpf.pin(fd, pin)
