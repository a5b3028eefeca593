# SPDX-License-Identifier: Apache-2.0
"""What hookline adds to a packet's way through the kernel, on a virtual link with real traffic.

    python -m bench.live [--quick | --long]

Small UDP packets as fast as one CPU sends them, and bulk TCP with iperf3, over one veth pair:
without anything, with an empty program at tcx, and with hookline at tcx, both directions each.
What programs take of those packets is what the kernel's statistics say.  The agent's own share of a CPU
is measured with the real agent, publishing to a real Kafka, and so are other flow agents beside it.
"""

import asyncio
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from agent import libbpf
from bench.bpf_stats import programs_on_live_traffic
from bench.collectors import side_by_side
from bench.link import Link, link
from bench.processes import agent, cpu_ns
from bench.programs import Peers, hooks, know
from bench.rounds import cell, interleave, ratio, table
from bench.sink import sink
from bench.subject import Scale, main
from hookline.kafka import Kafka

PACKETS, SMALL_PACKETS = 100_000, 50_000
FLOWS = 64
IPERF_PORT = 5201
BARE = "nothing attached"


def measure(scale: Scale) -> list[dict]:
    with link() as one, hooks(sample_one_in=1000, sample_first=True) as loaded:
        know(loaded.plan, one.ifindex)
        peers = Peers()
        empty = peers.fd("empty_tc")
        attached = {
            BARE: (),
            # What differs between these two is noise.
            "nothing, once more": (),
            "an empty program at tcx": (empty, empty),
            "hookline at tcx": (loaded.fd("hook_ingress"), loaded.fd("hook_egress")),
        }
        return [
            small_packets(one, attached, scale.pick(9, 3, 15)),
            programs_on_live_traffic(one, loaded, peers, scale.pick(5, 2, 9)),
            bulk(one, attached, scale.pick(3, 2, 7)),
            *asyncio.run(with_kafka(one, scale)),
        ]


@contextmanager
def at_tcx(one: Link, programs: tuple[int, ...]) -> Iterator[None]:
    types = (libbpf.BPF_TCX_INGRESS, libbpf.BPF_TCX_EGRESS)
    links = [
        libbpf.create_link(fd, one.ifindex, kind) for fd, kind in zip(programs, types, strict=False)
    ]
    try:
        yield
    finally:
        for fd in links:
            os.close(fd)


def beside(one: Link, attached: dict, work: Callable[[], float]) -> dict:
    """The same *work* with each of *attached* in place."""

    def with_programs(programs: tuple[int, ...]) -> Callable[[], float]:
        def attach_and_work() -> float:
            with at_tcx(one, programs):
                return work()

        return attach_and_work

    return {name: with_programs(programs) for name, programs in attached.items()}


def small_packets(one: Link, attached: dict, rounds: int) -> dict:
    with (
        sink(one.address) as port,
        one.start("bench.flood", one.address, str(port), str(FLOWS)) as f,
    ):
        samples = interleave(beside(one, attached, lambda: ask(f, SMALL_PACKETS)), rounds)
        f.stdin.close()
    rows = [[name, cell(samples[name]), cell(ratio(samples, name, BARE), 3)] for name in attached]
    return table(
        f"64-byte UDP packets of {FLOWS} flows", ["", "ns of CPU a packet", "times bare"], rows
    )


def ask(process: subprocess.Popen[str], packets: int) -> float:
    process.stdin.write(f"{packets}\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def bulk(one: Link, attached: dict, rounds: int) -> dict:
    server = subprocess.Popen(
        ["iperf3", "-s", "-B", one.address, "-p", str(IPERF_PORT)], stdout=subprocess.DEVNULL
    )
    rates: dict[str, list[float]] = {}

    def transfer(name: str) -> float:
        seconds, gigabytes = iperf(one)
        rates.setdefault(name, []).append(gigabytes * 8)
        return seconds / gigabytes

    try:
        time.sleep(0.5)
        variants = {
            name: beside(one, {name: programs}, lambda name=name: transfer(name))[name]
            for name, programs in attached.items()
        }
        samples = interleave(variants, rounds)
    finally:
        server.terminate()
        server.wait()
    rows = [
        [
            name,
            cell(rates[name][1:], 1),
            cell(samples[name], 3),
            cell(ratio(samples, name, BARE), 3),
        ]
        for name in attached
    ]
    return table("Bulk TCP, one stream", ["", "Gbit/s", "CPU s a GB", "times bare"], rows)


def iperf(one: Link) -> tuple[float, float]:
    """CPU seconds of both ends, and gigabytes moved, in one second."""
    text = one.run("iperf3", "-c", one.address, "-p", str(IPERF_PORT), "-t", "1", "-J")
    end = json.loads(text)["end"]
    used = end["cpu_utilization_percent"]
    seconds = end["sum_received"]["seconds"]
    busy = (used["host_total"] + used["remote_total"]) / 100 * seconds
    return busy, end["sum_received"]["bytes"] / 1e9


async def with_kafka(one: Link, scale: Scale) -> list[dict]:
    with tempfile.TemporaryDirectory(prefix="hookline-bench-") as directory:
        async with Kafka(Path(directory)) as kafka:
            return [
                await asyncio.to_thread(shares, one, kafka.bootstrap, scale),
                await asyncio.to_thread(side_by_side, kafka.bootstrap, scale.pick(4, 2, 9)),
            ]


def shares(one: Link, kafka: str, scale: Scale) -> dict:
    """What the agent itself needs, of one CPU."""
    rows = agent_shares(one, kafka, scale)
    return table("The agent's share of one CPU", ["traffic", "packets a second", "CPU %"], rows)


def agent_shares(one: Link, kafka: str, scale: Scale) -> list[list[object]]:
    seconds = scale.pick(3, 2, 10)
    rows: list[list[object]] = []
    with agent(one.name, kafka) as pid:
        time.sleep(2)
        rows.append(["none", 0, round(share(pid, lambda: time.sleep(seconds)), 2)])
        for flows in (FLOWS, 2_000):
            with (
                sink(one.address) as port,
                one.start("bench.flood", one.address, str(port), str(flows)) as flood,
            ):
                ask(flood, PACKETS)
                rate: list[float] = []
                used = share(pid, lambda f=flood, r=rate: r.append(rate_of(f, seconds)))
                rows.append([f"{flows:,} flows", round(rate[0]), round(used, 2)])
                flood.stdin.close()
    return rows


def share(pid: int, work: Callable[[], object]) -> float:
    cpu, began = cpu_ns(pid), time.monotonic_ns()
    work()
    return (cpu_ns(pid) - cpu) / (time.monotonic_ns() - began) * 100


def rate_of(flood: subprocess.Popen[str], seconds: float) -> float:
    sent, began = 0, time.monotonic()
    while time.monotonic() - began < seconds:
        ask(flood, PACKETS)
        sent += PACKETS
    return sent / (time.monotonic() - began)


if __name__ == "__main__":
    main(measure, __doc__)
