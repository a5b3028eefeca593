# SPDX-License-Identifier: Apache-2.0
"""Runs a program again and again, or behind one that changes the source address before each call."""

import mmap
from collections.abc import Callable

import numpy as np

from agent import libbpf
from bench.frames import FRAMES
from bench.programs import CPUS, Peers

# One run must not fill a buffer, for a full one is cheaper to write to.
RUN = 50_000
# Where sources of flows begin that were never seen; two drivers may drive at one table.
_UNUSED = {"tc": 1 << 24, "xdp": 5 << 24}
_FRAME = FRAMES["TCP 1500 B"]


def run(fd: int, frame: bytes, repeat: int = RUN) -> Callable[[], float]:
    """The same packet again and again: nanoseconds of one run."""
    return lambda: float(libbpf.run_program(fd, frame, repeat=repeat)[1])


class Driver:
    """Runs a program behind `drive_tc` or `drive_xdp`, whichever has its type."""

    def __init__(self, peers: Peers, kind: str = "tc", frame: bytes = _FRAME) -> None:
        """*frame* is an IPv4 one without a tag."""
        self._fd = peers.fd(f"drive_{kind}")
        self._driven = peers.map_fd(f"driven_{kind}")
        self._frame = frame
        self._peers = peers  # its maps live as long as it does
        memory = mmap.mmap(peers.map_fd("drives"), mmap.PAGESIZE)
        self._drives = np.frombuffer(memory, np.uint32)[: CPUS * 16].reshape(CPUS, 16)
        self._unused = _UNUSED[kind]

    def over(self, fd: int, flows: int) -> Callable[[], float]:
        """The same *flows* again and again."""
        return self.across(fd, first=10 << 24, flows=flows)

    def across(
        self, fd: int, *, first: int, flows: int, distance: int = 1, leap: int = 1
    ) -> Callable[[], float]:
        """The same *flows*, whose sources are so far apart, with *leap* of them from one to the next."""

        def warm_and_run() -> float:
            self._aim(fd, first=first, flows=flows, distance=distance, leap=leap)
            libbpf.run_program(self._fd, self._frame, repeat=flows)
            return self._run(RUN)

        return warm_and_run

    def around(
        self, fd: int, flows: int, packets: int = RUN, *, begin: int = 0
    ) -> Callable[[], float]:
        """The same *flows*, each once before it comes again, however many runs that takes.

        So each was forgotten by the caches, where they cannot hold all.  Where two share a table that
        cannot, they *begin* far from each other, so that none finds what the other has just entered.
        """
        at, is_filled = begin, False

        def run_on() -> float:
            nonlocal at, is_filled
            if not is_filled:
                self.fill(fd, flows)
                is_filled = True
            self._aim(fd, first=10 << 24, flows=flows, at=at)
            at = (at + packets) % flows
            return self._run(packets)

        return run_on

    def fill(self, fd: int, flows: int) -> None:
        """One packet for each of the flows that `over` and `around` have."""
        self._aim(fd, first=10 << 24, flows=flows)
        self._run(flows)

    def onwards(self, fd: int, packets: int = RUN) -> Callable[[], float]:
        """Every packet a flow that was never seen."""

        def run_on() -> float:
            self._unused += packets
            self._aim(fd, first=self._unused, flows=1 << 31)
            return self._run(packets)

        return run_on

    def each_once(self, fd: int, flows: int, block: int) -> None:
        """One packet for each of *flows* flows, whose addresses no other *block* has."""
        self._aim(fd, first=(10 << 24) + (block << 20), flows=flows)
        self._run(flows)

    def _aim(
        self, fd: int, *, first: int, flows: int, distance: int = 1, leap: int = 1, at: int = 0
    ) -> None:
        self._drives[:, :5] = at, flows, first, distance, leap
        libbpf.update_element(self._driven, 0, fd.to_bytes(4, "little"))

    def _run(self, repeat: int) -> float:
        return float(libbpf.run_program(self._fd, self._frame, repeat=repeat)[1])
