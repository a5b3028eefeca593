# SPDX-License-Identifier: Apache-2.0
"""Give way: whoever serves on this node wakes up before us, not after our burst of rows.

Since Linux v6.6 the scheduler lets whoever runs go on for a slice, some 3 ms, though another wakes
up.  One with a shorter slice does not have to wait, so ours is longer than the usual one (settable
since v6.12).  Being a batch process, we in turn do not interrupt anybody when we wake up.

SCHED_IDLE would give way sooner still, but has three thousandths of a CPU that others want: then
the buffers overflow, and detail is lost.  At nice 10 there is a tenth beside each that is busy,
more than twice what an agent takes by default.
"""

import ctypes
import os
import struct
from contextlib import suppress
from pathlib import Path

# include/uapi/linux/sched.h, sched/types.h: sched_attr, its size first
_SCHED_BATCH = 3
_ATTRIBUTES = struct.Struct("=IIQiIQQQ")
_SYS_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}
# Longer than the 3 ms of others; who is not asleep but waits may have to wait for all of it.
SLICE_NS = 8_000_000


def give_way(nice: int) -> None:
    """Let others go first, from here on, in all threads and those that they start; 0: do not.

    Raises:
        OSError: the kernel, or a filter of system calls, does not let us.
    """
    # Whoever started us under another policy, be it a batch process or SCHED_IDLE, knows why.
    if not nice or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return
    # Who was started with more keeps it.
    nice = max(nice, os.getpriority(os.PRIO_PROCESS, 0))
    for task in Path("/proc/self/task").iterdir():
        with suppress(ProcessLookupError):  # a thread that has ended meanwhile
            _set(int(task.name), nice)


def _set(task: int, nice: int) -> None:
    number = _SYS_SCHED_SETATTR.get(os.uname().machine)
    if number is None:
        os.setpriority(os.PRIO_PROCESS, task, nice)
        return
    wanted = _ATTRIBUTES.pack(_ATTRIBUTES.size, _SCHED_BATCH, 0, nice, 0, SLICE_NS, 0, 0)
    if ctypes.CDLL(None, use_errno=True).syscall(number, task, wanted, 0):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
