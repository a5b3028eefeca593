# SPDX-License-Identifier: Apache-2.0
"""What rules cost a packet, by their number, and beside other programs that drop packets.

    python -m bench.rules [--quick | --long]

Times of programs come from the kernel's own test run and are net of an empty one of the same type in
the same round.  Sources of a list are spread over it by a program that changes the address before
each packet; those times are net of that program in front of an empty one.  Each source is a flow of
its own then, which the flow cache pays for: so what rules add is told beside the whole.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache

import numpy as np

from agent import libbpf
from bench.changes import changes
from bench.driver import Driver, run
from bench.droppers import live
from bench.ends import an_end, namespace
from bench.frames import FRAMES
from bench.programs import Peers, at_once
from bench.rounds import Samples, cell, interleave, net, table
from bench.ruled import BETWEEN, DISTANCE, FIRST, LEAP, enforced, listed, ruled
from bench.subject import Scale, main
from bench.xdp_filter import MOST, why_not, xdp_filter
from schemas.rules.limit import Limit
from schemas.rules.rule import Rule

HOOKS = {"xdp": "hook_xdp", "tc": "hook_ingress"}
DROPS = {"xdp": 1, "tc": 2}
COUNTS = (10, 1_000, 100_000)
SINGLE_COUNTS = (10, 1_000, MOST)
BITS, SINGLE_BITS = 24, 32

FRAME, SYN, ICMP = FRAMES["UDP 64 B"], FRAMES["SYN 64 B"], FRAMES["ICMP 98 B"]
# Where they are in a frame.
_SOURCE, _DST_PORT = 26, 36


def measure(scale: Scale) -> list[dict]:
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cpus)})
    tables = [
        one_packet(scale.pick(9, 5, 15)),
        spread(scale.pick(7, 3, 11)),
        singles(scale.pick(7, 3, 11)),
        live(COUNTS, scale.pick(5, 3, 9)),
    ]
    # An agent starts where we are.
    os.sched_setaffinity(0, cpus)
    return [*tables, changes(scale.pick(6, 3, 30))]


@dataclass(frozen=True, slots=True)
class Case:
    """Rules in force, and a packet that asks about them."""

    title: str
    rules: tuple[Rule, ...]
    frame: bytes
    is_dropped: bool = False


def one_packet(rounds: int) -> dict:
    """The same packet again and again."""
    variants: dict[object, Callable[[], float]] = {}
    frames = {"toy dropper of ICMP, dropped": ICMP}
    with ExitStack() as stack:
        for count in COUNTS:
            peers = with_trie(count, BITS)
            title = f"one lookup among {count:,} prefixes, dropped"
            frames[title] = in_list(count)
            for kind in HOOKS:
                variants[title, kind] = run(peers.fd(f"trie_{kind}"), frames[title])
        for kind in HOOKS:
            variants["toy dropper of ICMP, dropped", kind] = run(peers.fd(f"toy_{kind}"), ICMP)
        put = at_once(stack, {case.rules: ruled(*case.rules) for case in cases()})
        for case in cases():
            title = f"hookline, {case.title}{', dropped' * case.is_dropped}"
            frames[title] = case.frame
            for kind, hook in HOOKS.items():
                fd = put[case.rules].fd(hook)
                check(fd, case, kind)
                variants[title, kind] = run(fd, case.frame)
        for frame in {*frames.values()}:
            for kind in HOOKS:
                variants[frame, kind] = run(peers.fd(f"empty_{kind}"), frame)
        samples = interleave(variants, rounds)
    rows = [
        [
            title,
            *(cell(net(samples, (title, kind), (frame, kind))) for kind in HOOKS),
            *(quietest(samples, (title, kind), (frame, kind)) for kind in HOOKS),
        ]
        for title, frame in frames.items()
    ]
    columns = ["ns a packet", "XDP", "tc", "XDP at its quietest", "tc at its quietest"]
    return table("Rules and one packet", columns, rows)


def cases() -> list[Case]:
    lists = [
        case
        for count in COUNTS
        for rules in [(enforced("r", src=listed(count)),)]
        for case in (
            Case(f"{count:,} prefixes, the source between two", rules, in_list(count, BETWEEN)),
            Case(f"{count:,} prefixes, the source in one", rules, in_list(count), is_dropped=True),
        )
    ]
    many = combined(64)
    return [
        Case("without rules", (), FRAME),
        Case("1 rule, another address", (enforced("r", "src host 203.0.113.9"),), FRAME),
        Case("1 rule, another port", (enforced("r", "udp and dst port 99"),), FRAME),
        *lists,
        Case("64 combined rules, none matches", many, to_port(80)),
        Case("64 combined rules, the last one matches", many, to_port(443), is_dropped=True),
        Case("a limit, within it", (limited("1000G/s"),), FRAME),
        Case("a limit, beyond it", (limited("1/s"),), FRAME, is_dropped=True),
        Case(
            "an observed rule that matches",
            (enforced("r", "src host 10.0.0.1", is_observed=True),),
            FRAME,
        ),
    ]


def in_list(count: int, beside: int = 0) -> bytes:
    """A packet whose source is in the middle of a list, or so far *beside* that."""
    source = FIRST + count // 2 * DISTANCE + beside
    return FRAME[:_SOURCE] + source.to_bytes(4, "big") + FRAME[_SOURCE + 4 :]


def to_port(port: int) -> bytes:
    return SYN[:_DST_PORT] + port.to_bytes(2, "big") + SYN[_DST_PORT + 2 :]


def combined(count: int) -> tuple[Rule, ...]:
    """Rules that differ in their port alone; the last one's is 443."""
    parts = "tcp and flag syn and src net 10.0.0.0/8 and dst net 10.0.0.0/24"
    return tuple(
        enforced(f"c{number:02}", f"{parts} and dst port {444 - count + number}")
        for number in range(count)
    )


def limited(limit: str) -> Rule:
    return enforced("r", "udp", action="limit", limit=Limit.parse(limit))


def check(fd: int, case: Case, kind: str) -> None:
    """What is measured does what its row says."""
    # A limit lets the first one pass.
    verdict, _ = libbpf.run_program(fd, case.frame, repeat=3)
    assert (verdict == DROPS[kind]) == case.is_dropped, (case.title, verdict)


def quietest(samples: Samples, name: object, baseline: object) -> int:
    """With the least that each program ever took."""
    return round(min(samples[name]) - min(samples[baseline]))


def spread(rounds: int) -> dict:
    """Sources all over lists of prefixes."""
    variants: dict[object, Callable[[], float]] = {}
    with ExitStack() as stack:
        loads = {count: ruled(enforced("r", src=listed(count))) for count in COUNTS}
        without, *of_counts = at_once(stack, {0: ruled(), **loads}).values()
        for count, loaded in zip(COUNTS, of_counts, strict=True):
            peers = with_trie(count, BITS)
            for kind, hook in HOOKS.items():
                fds = {
                    "empty": peers.fd(f"empty_{kind}"),
                    "lookup": peers.fd(f"trie_{kind}"),
                    "without": without.fd(hook),
                    "rules": loaded.fd(hook),
                }
                for name, fd in fds.items():
                    variants[name, kind, count] = stream(peers, kind, fd, count)
                variants["between", kind, count] = stream(
                    peers, kind, loaded.fd(hook), count, BETWEEN
                )
        samples = interleave(variants, rounds)
    of = Spread(samples, [(kind, count) for kind in HOOKS for count in COUNTS])
    rows = [
        ["one lookup of the source, dropped", *of.nets("lookup")],
        ["hookline without rules", *of.nets("without")],
        ["hookline, the source between two", *of.nets("between")],
        ["hookline, dropped", *of.nets("rules")],
        ["of that, what the rule adds", *of.nets("rules", "without")],
        ["what it adds, times one lookup", *of.ratios("rules", "without", "lookup")],
        ["all of it, times one lookup", *of.ratios("rules", "empty", "lookup")],
    ]
    titles = [f"{name}, {count:,}" for name in ("XDP", "tc") for count in COUNTS]
    return table("Sources all over a list of prefixes", ["ns a packet", *titles], rows)


def singles(rounds: int) -> dict:
    """Single addresses, beside xdp-filter, which holds no others.

    One source: its program may not stand in one array with that which would change the source.
    """
    title = "One source of a list of single addresses, at XDP"
    columns = ["ns a packet", *(f"{count:,}" for count in SINGLE_COUNTS)]
    variants: dict[object, Callable[[], float]] = {}
    if reason := why_not():
        return table(title, columns, [[reason, *[""] * len(SINGLE_COUNTS)]])
    with ExitStack() as stack:
        loads = {
            count: ruled(enforced("r", src=listed(count, SINGLE_BITS))) for count in SINGLE_COUNTS
        }
        without, *of_counts = at_once(stack, {0: ruled(), **loads}).values()
        sender = stack.enter_context(namespace(f"hlb{os.getpid()}"))
        end = stack.enter_context(an_end(sender, 0))
        # It has one set of maps on a machine: the longest list is in each column.
        other = stack.enter_context(xdp_filter(end, MOST))
        for count, loaded in zip(SINGLE_COUNTS, of_counts, strict=True):
            peers = with_trie(count, SINGLE_BITS)
            fds = {
                "empty": peers.fd("empty_xdp"),
                "lookup": peers.fd("trie_xdp"),
                "xdp-filter": other,
                "without": without.fd("hook_xdp"),
                "rules": loaded.fd("hook_xdp"),
            }
            for name, fd in fds.items():
                variants[name, "xdp", count] = run(fd, in_list(count))
        samples = interleave(variants, rounds)
    of = Spread(samples, [("xdp", count) for count in SINGLE_COUNTS])
    rows = [
        ["one lookup of the source in a trie, dropped", *of.nets("lookup")],
        [f"xdp-filter with {MOST:,} addresses, dropped", *of.nets("xdp-filter")],
        ["hookline, dropped", *of.nets("rules")],
        ["of that, what the rule adds", *of.nets("rules", "without")],
        ["what it adds, times xdp-filter", *of.ratios("rules", "without", "xdp-filter")],
        ["all of it, times xdp-filter", *of.ratios("rules", "empty", "xdp-filter")],
    ]
    return table(title, columns, rows)


class Spread:
    """Cells of a table, each of a type of program and a length of the list."""

    def __init__(self, samples: Samples, columns: Sequence[tuple[str, int]]) -> None:
        self._samples = samples
        self._columns = columns

    def nets(self, name: str, baseline: str = "empty") -> list:
        return [cell(self._net(name, baseline, *column)) for column in self._columns]

    def ratios(self, name: str, baseline: str, other: str) -> list:
        """What *name* takes above *baseline*, times what *other* takes above an empty program."""
        return [
            cell(
                [
                    a / b
                    for a, b in zip(
                        self._net(name, baseline, *column),
                        self._net(other, "empty", *column),
                        strict=True,
                    )
                ],
                2,
            )
            for column in self._columns
        ]

    def _net(self, name: str, baseline: str, kind: str, count: int) -> list[float]:
        return net(self._samples, (name, kind, count), (baseline, kind, count))


def stream(peers: Peers, kind: str, fd: int, count: int, beside: int = 0) -> Callable[[], float]:
    """Packets from sources of a list, far apart from one to the next."""
    driver = Driver(peers, kind, FRAME)
    first, leap = FIRST + beside, LEAP % count
    return driver.across(fd, first=first, flows=count, distance=DISTANCE, leap=leap)


@cache
def with_trie(count: int, bits: int) -> Peers:
    """The programs to compare with, whose trie holds a list."""
    peers = Peers(prefixes=count)
    keys = np.empty((count, 2), np.uint32)
    keys[:, 0] = bits
    keys[:, 1] = (FIRST + DISTANCE * np.arange(count)).astype(">u4").view(np.uint32)
    libbpf.update_elements(peers.map_fd("prefixes"), keys, np.ones((count, 1), np.uint64))
    return peers


if __name__ == "__main__":
    main(measure, __doc__)
