# SPDX-License-Identifier: Apache-2.0
"""What a packet costs in the hooks, as a multiple of parsing it, so that it holds on a busy machine.

    python -m tests.bpf.costs TIMES

measures all of it so many times, and says what was least, in the middle and most.  Bounds of
test_cost.py come from that.
"""

import mmap
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median, quantiles

import numpy as np

from agent import libbpf
from agent.images import Image
from bench.driver import Driver, run
from bench.frames import FRAMES
from bench.programs import Hooks, Peers, hooks, instructions_verified

HOOKS = ("hook_xdp", "hook_ingress", "hook_egress")
EXISTING_XDP, EXISTING_TC = "an existing flow, XDP", "an existing flow, tc"
MANY, NEW = "one of 64,000 flows, tc", "a new flow, tc"

# Those that the verifier puts its own instructions in place of, for maps that are arrays.
INLINED = {1: "map_lookup_elem", 8: "get_smp_processor_id", 118: "jiffies64"}
_NAMES = {
    2: "map_update_elem",
    3: "map_delete_elem",
    4: "probe_read",
    5: "ktime_get_ns",
    7: "get_prandom_u32",
    12: "tail_call",
    26: "skb_load_bytes",
    113: "probe_read_kernel",
    130: "ringbuf_output",
    131: "ringbuf_reserve",
    132: "ringbuf_submit",
    188: "xdp_get_buff_len",
    189: "xdp_load_bytes",
}
_INSTRUCTION = np.dtype([("code", "u1"), ("registers", "u1"), ("offset", "<i2"), ("imm", "<i4")])
_CALL, _HELPER = 0x85, 0  # BPF_JMP | BPF_CALL, and in its source register that a helper is called
_FLOWS = 64_000
_FRAME = FRAMES["TCP 1500 B"]
# Less than a millisecond each, so that a hook and what it is compared with see one speed of the machine.
_RUN = 5_000
# The kernel takes 16 ms before and after each run of an XDP program, in which it waits.
_XDP_RUN = 20_000
_PAIRS = {EXISTING_XDP: 60, EXISTING_TC: 300, MANY: 150, NEW: 150}
# New flows take a third of the slots before the cache is emptied again.
_RUNS_TO_FULL = 8

Run = Callable[[], float]


class Costs:
    """Pairs to compare: a hook, and parsing alone of the same packets."""

    def __init__(self, loaded: Hooks) -> None:
        self.loaded = loaded
        peers = Peers()
        xdp, tc = loaded.fd("hook_xdp"), loaded.fd("hook_ingress")
        parse_xdp, parse_tc = peers.fd("parse_only_xdp"), peers.fd("parse_only_tc")
        driver = Driver(peers)
        with libbpf.opened(loaded.plan.pins.map("flow_slots")) as fd:
            self._slots = mmap.mmap(fd, loaded.maps.slots.nbytes)
        self._pairs: dict[str, tuple[Run, Run]] = {
            EXISTING_XDP: (run(xdp, _FRAME, _XDP_RUN), run(parse_xdp, _FRAME, _XDP_RUN)),
            EXISTING_TC: (run(tc, _FRAME, _RUN), run(parse_tc, _FRAME, _RUN)),
            MANY: tuple(driver.around(one, _FLOWS, _RUN) for one in (tc, parse_tc)),
            NEW: (self._emptied(driver.onwards(tc, _RUN)), driver.onwards(parse_tc, _RUN)),
        }

    def of(self, name: str) -> float:
        """How many times parsing alone it is: the lower quartile over pairs.

        Whatever else runs here makes a run longer and never shorter.  The least of all would be one
        lucky pair, of a hook that saw the machine fast and a parser that saw it slow.
        """
        hook, parse = self._pairs[name]
        hook(), parse()
        times = [hook() / parse() for _ in range(_PAIRS[name])]
        return quantiles(times, n=4)[0]

    def _emptied(self, measured: Run) -> Run:
        words, number = np.frombuffer(self._slots, np.uint64), 0

        def run_in_room() -> float:
            nonlocal number
            if number % _RUNS_TO_FULL == 0:
                words[:] = 0
            number += 1
            return measured()

        return run_in_room


def calls(loaded: Hooks, name: str) -> Counter[str]:
    """How many calls of which helpers are in a program, but for those that are inlined."""
    code = np.frombuffer(Image.from_text(loaded.report.images[name]).code, _INSTRUCTION)
    helpers = code["imm"][(code["code"] == _CALL) & (code["registers"] >> 4 == _HELPER)]
    numbers = Counter(int(one) for one in helpers if one not in INLINED)
    return Counter({_NAMES.get(one, f"helper {one}"): count for one, count in numbers.items()})


@contextmanager
def costs() -> Iterator[Costs]:
    """Of programs of their own, on one CPU."""
    cpus = os.sched_getaffinity(0)
    with hooks() as loaded:
        os.sched_setaffinity(0, {max(cpus)})
        try:
            yield Costs(loaded)
        finally:
            os.sched_setaffinity(0, cpus)


def main() -> None:
    with costs() as one:
        for name in HOOKS:
            fd = one.loaded.fd(name)
            print(name, instructions_verified(fd), dict(calls(one.loaded, name)))
        found = {name: [] for name in _PAIRS}
        for _ in range(int(sys.argv[1])):
            for name, times in found.items():
                times.append(one.of(name))
    for name, times in found.items():
        print(f"{name}: {min(times):.2f} {median(times):.2f} {max(times):.2f}")


if __name__ == "__main__":
    main()
