# SPDX-License-Identifier: Apache-2.0
"""Flow agents side by side on live links: CPU time of all they do for a packet, wherever it is spent.

Each has a link of its own with the same traffic in both directions, of which it tells flows.  What it
does in the kernel is in the sender's time, since both ends are on one CPU; beside that come its
processes.  Where the table is the kernel's own there is no process, and nobody reads it.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.ends import within
from bench.link import ROOT, Link, link
from bench.processes import agent
from bench.rounds import Samples, cell, interleave, table
from bench.sink import sink

BARE = "nothing"
FLOWS = 64
PACKETS, RATE = 25_000, 100_000  # each way, and how many a second
_SETTLE_S = 3.0  # until all have started for good, and have sent their first reports
_IDLE_S = 3.0
_OWN = "hookline"
_PMACCT = """\
daemonize: false
pcap_interface: {interface}
plugins: print[a]
aggregate[a]: src_host, dst_host, src_port, dst_port, proto, tcpflags
print_refresh_time[a]: 1
print_output[a]: csv
print_output_file[a]: {directory}/flows.csv
plugin_pipe_size[a]: 16777216
"""
_FLOW_COUNTERS = """\
table ip hlb {
  set flows {
    type ipv4_addr . ipv4_addr . inet_service . inet_service
    size 65536; flags dynamic; timeout 1m
  }
  chain i {
    type filter hook input priority 0;
    update @flows { ip saddr . ip daddr . udp sport . udp dport counter }
  }
  chain o {
    type filter hook output priority 0;
    update @flows { ip saddr . ip daddr . udp sport . udp dport counter }
  }
}
"""
# Asking for the state is what makes the kernel track.
_CONNTRACK = """\
table ip hlb {
  chain i {
    type filter hook input priority 0;
    ct state new counter
  }
}
"""


@dataclass(frozen=True, slots=True)
class Watched:
    """A link with something that counts its flows, and whose process that is: 0 for none."""

    link: Link
    pid: int
    floods: tuple[subprocess.Popen[str], ...]


def side_by_side(kafka: str, rounds: int) -> dict:
    """CPU of a packet, beyond a link that nobody watches."""
    with ExitStack() as stack:
        watched = {}
        skipped: dict[str, str] = {}
        for name, (tool, start) in _collectors(kafka).items():
            if tool and shutil.which(tool) is None:
                skipped[name] = f"{tool} is not installed"
                continue
            one = stack.enter_context(link())
            pid = stack.enter_context(start(one))
            watched[name] = Watched(one, pid, stack.enter_context(_floods(one)))
        time.sleep(_SETTLE_S)
        idle = idle_percent(watched)
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in watched}
        samples = interleave(
            {name: _measured(one, found[name]) for name, one in watched.items()}, rounds
        )
    return _table(samples, {name: pairs[1:] for name, pairs in found.items()}, idle, skipped)


def idle_percent(watched: dict[str, Watched]) -> dict[str, float]:
    """What each takes of one CPU while there is no traffic."""
    before = {name: _cpu_ns(one.pid) for name, one in watched.items()}
    time.sleep(_IDLE_S)
    return {
        name: round((_cpu_ns(one.pid) - before[name]) / _IDLE_S / 1e7, 1)
        for name, one in watched.items()
    }


def _collectors(kafka: str) -> dict[str, tuple[str, Callable[[Link], object]]]:
    """By name: which tool it needs, and how it starts at a link."""
    return {
        BARE: ("", _none),
        _OWN: ("", lambda one: agent(one.name, kafka)),
        "pmacctd, libpcap": ("pmacctd", _pmacctd),
        "softflowd, libpcap": ("softflowd", _softflowd),
        "nftables, a set of flows with counters": ("nft", lambda one: _nft(one, _FLOW_COUNTERS)),
        "conntrack with accounting": ("nft", lambda one: _nft(one, _CONNTRACK)),
    }


@contextmanager
def _none(_: Link) -> Iterator[int]:
    yield 0


@contextmanager
def _nft(one: Link, rules: str) -> Iterator[int]:
    """In the namespace of the other end, so that nothing else is tracked."""
    inside = ["ip", "netns", "exec", one.namespace]
    accounting = [*inside, "sysctl", "-qw", "net.netfilter.nf_conntrack_acct=1"]
    subprocess.run(accounting, check=True)
    subprocess.run([*inside, "nft", "-f", "-"], input=rules, text=True, check=True)
    yield 0


@contextmanager
def _pmacctd(one: Link) -> Iterator[int]:
    with tempfile.TemporaryDirectory(prefix="hookline-bench-") as directory:
        path = Path(directory) / "pmacctd.conf"
        path.write_text(_PMACCT.format(interface=one.name, directory=directory))
        with _running("pmacctd", "-f", str(path)) as pid:
            yield pid


@contextmanager
def _softflowd(one: Link) -> Iterator[int]:
    with tempfile.TemporaryDirectory(prefix="hookline-bench-") as directory:
        # It exports to a port of ours where nobody listens.
        files = ("-p", f"{directory}/pid", "-c", f"{directory}/ctl")
        with _running(
            "softflowd", "-d", "-i", one.name, "-n", "127.0.0.1:9", "-v", "9", *files
        ) as pid:
            yield pid


@contextmanager
def _running(*command: str) -> Iterator[int]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(1)
        if process.poll() is not None:
            sys.exit(f"bench: {command[0]} ended with {process.returncode}")
        yield process.pid
    finally:
        process.terminate()
        process.wait()


@contextmanager
def _floods(one: Link) -> Iterator[tuple[subprocess.Popen[str], ...]]:
    """A sender at each end."""
    with ExitStack() as stack:
        port = stack.enter_context(sink(one.address))
        with within(one.namespace):
            far_port = stack.enter_context(sink(one.peer))
        there = one.start("bench.flood", one.address, str(port), str(FLOWS))
        here = subprocess.Popen(
            [sys.executable, "-m", "bench.flood", one.peer, str(far_port), str(FLOWS)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        with there, here:
            yield there, here
            there.stdin.close()
            here.stdin.close()


def _measured(one: Watched, found: list[tuple[float, float]]) -> Callable[[], float]:
    """The sender's and the processes' nanoseconds a packet, which go to *found*; their sum."""

    def send_both_ways() -> float:
        before = _cpu_ns(one.pid)
        sent = []
        for flood in one.floods:
            flood.stdin.write(f"{PACKETS} {RATE}\n")
            flood.stdin.flush()
            sent.append(float(flood.stdout.readline()))
        pair = (sum(sent) / 2, (_cpu_ns(one.pid) - before) / (2 * PACKETS))
        found.append(pair)
        return sum(pair)

    return send_both_ways


def _cpu_ns(pid: int) -> int:
    """Of a process and those that it has started, also those that have ended."""
    if not pid:
        return 0
    own = sum(
        int((task / "schedstat").read_text().split()[0])
        for task in Path(f"/proc/{pid}/task").iterdir()
    )
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ended = (int(fields[13]) + int(fields[14])) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return own + ended + sum(_cpu_ns(int(child)) for child in children)


def _table(
    samples: Samples,
    found: dict[str, list[tuple[float, float]]],
    idle: dict[str, float],
    skipped: dict[str, str],
) -> dict:
    bare = [sender for sender, _ in found[BARE]]
    rows: list[list[object]] = [[f"{BARE}, all of it", cell(bare, 0), *[""] * 4]]
    own = [a - b for a, b in zip(samples[_OWN], samples[BARE], strict=True)]
    for name, pairs in found.items():
        if name == BARE:
            continue
        kernel = [sender - other for (sender, _), other in zip(pairs, bare, strict=True)]
        more = [a - b for a, b in zip(samples[name], samples[BARE], strict=True)]
        times = [a / max(b, 1.0) for a, b in zip(more, own, strict=True)]
        processes = cell([process for _, process in pairs], 0)
        rows.append([name, cell(kernel, 0), processes, cell(more, 0), cell(times, 2), idle[name]])
    rows += [[name, reason, *[""] * 4] for name, reason in skipped.items()]
    return table(
        f"Flow agents on a live link, {RATE:,} packets a second of {FLOWS} flows, both directions",
        [
            "CPU ns a packet",
            *("in the kernel", "in its processes", "together", "times hookline"),
            "% of a CPU without traffic",
        ],
        rows,
    )
