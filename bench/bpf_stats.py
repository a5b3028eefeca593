# SPDX-License-Identifier: Apache-2.0
"""What the kernel's own statistics say a program took, of packets that really came in.

Unlike a test run this has between two packets whatever the kernel does for one, and at a low rate
also what others left in the caches.  Reading the clock is in it, so an empty program stands beside.
"""

import os
import subprocess
from collections.abc import Callable

from agent import libbpf
from bench.link import Link
from bench.programs import Hooks, Peers
from bench.programs_time import clocked_programs, times_of
from bench.rounds import cell, interleave, net, table
from bench.sink import sink

FLOWS = 64
# Packets of one measurement, how many a second (0: as fast as it goes), and how many at once.
LOADS = {"as fast as one CPU sends": (30_000, 0, 32), "10,000 packets a second": (1_500, 10_000, 1)}
EMPTY = "an empty program"


def programs_on_live_traffic(one: Link, loaded: Hooks, peers: Peers, rounds: int) -> dict:
    kinds = {"XDP": ("xdp", "hook_xdp"), "tcx": ("tc", "hook_ingress")}
    with (
        sink(one.address) as port,
        one.start("bench.flood", one.address, str(port), str(FLOWS)) as flood,
        clocked_programs(),
    ):
        variants = {}
        for kind, (suffix, hook) in kinds.items():
            programs = {
                EMPTY: peers.fd(f"empty_{suffix}"),
                "per-CPU LRU hash, jiffies": peers.fd(f"lru_{suffix}"),
                "hookline": loaded.fd(hook),
            }
            for name, fd in programs.items():
                for load, how in LOADS.items():
                    variants[name, kind, load] = attached_run(one, fd, kind, flood, how)
        samples = interleave(variants, rounds)
        flood.stdin.close()
    rows = []
    for kind in kinds:
        nothing = [cell(samples[EMPTY, kind, load], 0) for load in LOADS]
        rows.append([f"{EMPTY}, {kind}, with reading the clock", *nothing])
        for name in list(programs)[1:]:
            nets = [net(samples, (name, kind, one), (EMPTY, kind, one)) for one in LOADS]
            rows.append([f"{name}, {kind}, beyond that", *(cell(values, 0) for values in nets)])
    title = f"What programs take of live packets of {FLOWS} flows, by the kernel's statistics"
    return table(title, ["ns a packet", *LOADS], rows)


def attached_run(
    one: Link, fd: int, kind: str, flood: subprocess.Popen[str], how: tuple[int, int, int]
) -> Callable[[], float]:
    """Nanoseconds that a program takes of a packet where it is attached."""
    place = (
        (libbpf.BPF_XDP, libbpf.XDP_FLAGS_DRV_MODE)
        if kind == "XDP"
        else (libbpf.BPF_TCX_INGRESS, 0)
    )

    def attach_and_run() -> float:
        link = libbpf.create_link(fd, one.ifindex, place[0], flags=place[1])
        try:
            before = times_of(fd)
            flood.stdin.write(" ".join(map(str, how)) + "\n")
            flood.stdin.flush()
            flood.stdout.readline()
            took, count = (b - a for a, b in zip(before, times_of(fd), strict=True))
        finally:
            os.close(link)
        return took / count

    return attach_and_run
