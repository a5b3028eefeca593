# SPDX-License-Identifier: Apache-2.0
"""Flow rows at a given rate, through all of a chain, and what each part of it takes for one.

The kernel's test run sends the packets, through the programs of the running agent: a sender and a
network stack would take more of two CPUs than what is measured.  Every second each flow gets one
packet, so each is a row of that second.  The programs are told that loopback, where test runs
come in, is the agent's interface.
"""

import os
import time
from dataclasses import dataclass

from agent import libbpf
from agent.plan import Pins, root_of
from bench.chain import PROCESSES, Chain, Seconds
from bench.driver import Driver
from bench.programs import LOOPBACK, Peers, know_at

TICK_S = 1.0
POLL_S = 0.1
GIVE_UP_S = 60.0
# Room in the flow cache for the highest rate, and no flow that makes way for another.
FLAGS = ("--flow-slots", str(1 << 20))


@dataclass(frozen=True, slots=True)
class Carried:
    """What became of so many seconds of packets."""

    rows: int
    behind_s: float  # from the last packet until a query finds all of them
    used: Seconds

    def microseconds(self, process: str) -> float:
        """CPU time of a row."""
        return self.used[process] / self.rows * 1e6

    @property
    def all_microseconds(self) -> float:
        return sum(map(self.microseconds, PROCESSES))


class Load:
    """Packets for the agent of one chain."""

    def __init__(self, one: Chain) -> None:
        root = root_of(one.agent_name)
        [program] = root.glob("*/programs/hook_ingress")
        know_at(Pins(root, program.parents[1].name), LOOPBACK)
        self._chain = one
        self._fd = libbpf.open_pinned(program)
        self._driver = Driver(Peers())

    def carry(self, rows_a_second: int, seconds: int) -> Carried:
        """Send *seconds* of packets, and wait until all of them are rows."""
        before = self._counted()
        (behind_s, after), used = self._chain.used(lambda: self._carry(rows_a_second, seconds))
        return Carried(after[0] - before[0], behind_s, used)

    def _carry(self, rows_a_second: int, seconds: int) -> tuple[float, tuple[int, int]]:
        wanted = self._counted()[1] + rows_a_second * seconds
        began = time.monotonic()
        for number in range(seconds):
            time.sleep(max(0.0, began + number * TICK_S - time.monotonic()))
            self._send(rows_a_second)
        ended = time.monotonic()
        while (now := self._counted())[1] < wanted:
            assert time.monotonic() < ended + GIVE_UP_S, f"{wanted - now[1]} packets never came"
            time.sleep(POLL_S)
        return time.monotonic() - ended, now

    def _send(self, flows: int) -> None:
        cpus = os.sched_getaffinity(0)
        for cpu in sorted(cpus):
            os.sched_setaffinity(0, {cpu})
            self._driver.each_once(self._fd, flows // len(cpus), cpu)
        os.sched_setaffinity(0, cpus)

    def _counted(self) -> tuple[int, int]:
        """Rows and packets that a query finds."""
        rows, packets = self._chain.ask("SELECT count(), sum(packets) FROM hookline.flows")[
            0
        ].split("\t")
        return int(rows), int(packets)

    def close(self) -> None:
        os.close(self._fd)
