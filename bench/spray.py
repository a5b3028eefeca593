# SPDX-License-Identifier: Apache-2.0
"""Send frames with the sources of a list as fast as the kernel can, which is how a driver gets them.

The kernel's test run, in its mode for live frames, hands each frame to a program that changes the
source and redirects it to an interface.  The other end of a veth pair takes them in batches of 64, as
XDP frames, and makes packets of those that no XDP program drops.  (A packet socket takes five
microseconds for each here, in which no dropper would be seen.)

Linux v5.18 or later.
"""

import ctypes
import mmap
import os
import struct
import sys
import time
from pathlib import Path

import numpy as np

from agent import libbpf
from bench.frames import FRAMES
from bench.programs import CPUS, Peers
from bench.ruled import DISTANCE, FIRST, LEAP

_FRAME = FRAMES["UDP 64 B"]
_HEADER = slice(14, 34)
_SOURCE_WORDS = (6, 7)
_LIVE_FRAMES = 1 << 1  # BPF_F_TEST_XDP_LIVE_FRAMES
_BATCH = 64


class Spray:
    """Sends from the namespace that it is called in."""

    def __init__(self, peers: Peers, count: int) -> None:
        self._fd = peers.fd("spray_xdp")
        self._count = count
        self._peers = peers  # its maps live as long as it does
        memory = mmap.mmap(peers.map_fd("drives"), mmap.PAGESIZE)
        self._drives = np.frombuffer(memory, np.uint32)[: CPUS * 16].reshape(CPUS, 16)
        words = struct.unpack("=10H", _FRAME[_HEADER])
        self._sum = sum(word for at, word in enumerate(words) if at not in _SOURCE_WORDS)
        self._helper = ksoftirqd(max(os.sched_getaffinity(0)))

    def send(self, ifindex: int, packets: int) -> float:
        """Nanoseconds of CPU a packet, with all that its receiver does: that is on this CPU.

        It runs in our system call, which is time of ours, or in ksoftirqd, whose time is added.
        """
        self._drives[:, :7] = (
            *(0, self._count, FIRST, DISTANCE, LEAP % self._count),
            *(ifindex, self._sum),
        )
        data = ctypes.create_string_buffer(_FRAME, len(_FRAME))
        options = libbpf._TestRunOptions(  # noqa: SLF001  # no agent sends frames
            sz=ctypes.sizeof(libbpf._TestRunOptions),  # noqa: SLF001
            data_in=ctypes.cast(data, ctypes.c_void_p),
            data_size_in=len(_FRAME),
            repeat=packets,
            flags=_LIVE_FRAMES,
            batch_size=_BATCH,
        )
        began = time.process_time_ns() + ran_ns(self._helper)
        libbpf.call("bpf_prog_test_run_opts", "live frames", self._fd, ctypes.byref(options))
        return (time.process_time_ns() + ran_ns(self._helper) - began) / packets


def ksoftirqd(cpu: int) -> Path:
    for one in Path("/proc").glob("[0-9]*/comm"):
        try:
            if one.read_text() == f"ksoftirqd/{cpu}\n":
                return one.parent / "schedstat"
        except OSError:  # it has ended
            continue
    sys.exit(f"there is no ksoftirqd/{cpu}, whose time is to be counted")


def ran_ns(helper: Path) -> int:
    return int(helper.read_text().split()[0])
