# SPDX-License-Identifier: Apache-2.0
"""Full flow accounting beside what others do to a packet, from one flow to a million.

Ours has all columns of a flow's row, observes sockets, and has rules on, of which none is there; as by
default, it reports headers too, of each flow's first packet and of one packet in 1000.  Where there are
a million flows each program has maps that hold two, and those of their usual size elsewhere.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.driver import Driver, run
from bench.features import DEFAULT, FULL, KINDS, NEW_RUN, Load, evicting, loaded
from bench.frames import FRAMES
from bench.objects import Program, Wanted, program_of
from bench.programs import Peers, at_once
from bench.rounds import Samples, cell, interleave, net, table

FRAME = FRAMES["TCP 1500 B"]
MILLION = 1_000_000
SLOTS_PER_CPU = 1 << 21  # twice a million, a power of two
OTHERS_FLOWS = 1 << 21
OTHERS_USUAL = 1 << 17

EXISTING = "existing flow"
THOUSAND, MANY = "1,000 flows", "64,000 flows"
NEW, NEW_WIDE, NEW_FULL = "new flow", "new flow, room for 2,097,152", "new flow, no room"
ALL, TOO_MANY = "1,000,000 flows", "1,000,000 flows, room for 131,072"
SPREAD = (THOUSAND, MANY, ALL, TOO_MANY, NEW, NEW_WIDE, NEW_FULL)
TARGETS = {EXISTING: 25, MANY: 150, NEW: 170}

OWN = "hookline, full flow accounting"
BY_DEFAULT = "hookline, all as by default"
_OBJECTS = Path("/usr/lib/x86_64-linux-gnu/bpf")
_XDP_FILTER = {
    "xdp-filter, MAC, IP and ports, nothing listed": "xdpfilt_alw_all.o",
    "xdp-filter, IP, nothing listed": "xdpfilt_alw_ip.o",
    "xdp-filter, IP, only listed may pass: dropped": "xdpfilt_dny_ip.o",
}

Named = tuple[str, str]  # what, and xdp or tc


def measure(peers: Peers, wanted: Sequence[Wanted], rounds: int) -> list[dict]:
    with ExitStack() as stack:
        loads = {
            "usual": loaded(FULL),
            "wide": loaded(FULL, slots_per_cpu=SLOTS_PER_CPU),
            "with headers": loaded(DEFAULT),
        }
        usual, wide, with_headers = at_once(stack, loads).values()
        drivers = {kind: Driver(peers, kind) for kind in KINDS}
        programs: dict[Named, dict[str, Callable[[], float]]] = {
            ("empty program", kind): of_nothing(peers.fd(f"empty_{kind}"), drivers[kind])
            for kind in KINDS
        }
        for kind in KINDS:
            toy, parsing = peers.fd(f"toy_{kind}"), peers.fd(f"parse_only_{kind}")
            programs["toy dropper of ICMP, TCP passes", kind] = {EXISTING: run(toy, FRAME)}
            programs["parsing alone", kind] = {EXISTING: run(parsing, FRAME)}
            programs[OWN, kind] = of_ours(usual, kind, drivers[kind], wide)
            programs[BY_DEFAULT, kind] = of_ours(with_headers, kind, drivers[kind])
        for name, one in stack.enter_context(xdp_filters()).items():
            programs[name, "xdp"] = {EXISTING: run(one.fd, FRAME)}
        lru, wide_lru = Peers(flows=OTHERS_USUAL), Peers(flows=OTHERS_FLOWS)
        for number, (clock, kind) in enumerate((("", "xdp"), ("", "tc"), ("_clock", "tc"))):
            name = f"per-CPU LRU hash, {'clock' if clock else 'jiffies'}"
            fds = [one.fd(f"lru{clock}_{kind}") for one in (lru, wide_lru)]
            programs[name, kind] = of_others(fds[0], fds[1], drivers[kind]) | without_room(
                fds[0], drivers[kind], number * MILLION // 3
            )
        for one in wanted:
            peer, wide_peer = (
                stack.enter_context(program_of(one, flows=flows))
                for flows in (OTHERS_USUAL, OTHERS_FLOWS)
            )
            programs[peer.name, peer.kind] = of_others(peer.fd, wide_peer.fd, drivers[peer.kind])
        samples = interleave(
            {
                (*named, one): work
                for named, works in programs.items()
                for one, work in works.items()
            },
            rounds,
        )
    return [beside(samples, list(programs)), by_flows(samples, programs)]


def of_nothing(fd: int, driver: Driver) -> dict[str, Callable[[], float]]:
    """The drivers' own way, once as warm as each that is compared with it."""
    return {
        EXISTING: run(fd, FRAME),
        **{one: driver.over(fd, 1_000) for one in SPREAD if not one.startswith("new")},
        **{one: driver.onwards(fd, NEW_RUN) for one in SPREAD if one.startswith("new")},
    }


def of_ours(
    usual: Load, kind: str, driver: Driver, wide: Load | None = None
) -> dict[str, Callable[[], float]]:
    """With as many slots as usual, and *wide* with more."""
    fd = usual.hooks.fd(KINDS[kind][1])
    works = {
        EXISTING: run(fd, FRAME),
        THOUSAND: usual.drained(driver.over(fd, 1_000)),
        MANY: usual.drained(driver.over(fd, 64_000)),
        TOO_MANY: usual.drained(driver.around(fd, MILLION, NEW_RUN)),
        NEW: usual.emptied(driver.onwards(fd, NEW_RUN)),
        NEW_FULL: evicting(usual, driver, fd),
    }
    if wide:
        wide_fd = wide.hooks.fd(KINDS[kind][1])
        works[ALL] = wide.drained(driver.around(wide_fd, MILLION))
        works[NEW_WIDE] = wide.drained(driver.onwards(wide_fd, NEW_RUN))
    return works


def of_others(fd: int, wide_fd: int, driver: Driver) -> dict[str, Callable[[], float]]:
    """With room for as many as ours usually has, and *wide_fd* with room for more."""
    return {
        EXISTING: run(fd, FRAME),
        THOUSAND: driver.over(fd, 1_000),
        MANY: driver.over(fd, 64_000),
        ALL: driver.around(wide_fd, MILLION),
        NEW_WIDE: driver.onwards(wide_fd, NEW_RUN),
    }


def without_room(fd: int, driver: Driver, begin: int) -> dict[str, Callable[[], float]]:
    """Of a table that forgets flows where there is no room."""
    return {
        TOO_MANY: driver.around(fd, MILLION, NEW_RUN, begin=begin),
        NEW_FULL: driver.onwards(fd, NEW_RUN),
    }


@contextmanager
def xdp_filters() -> Iterator[dict[str, Program]]:
    """Those of its programs that are here."""
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(program_of(Wanted(name, _OBJECTS / file, "xdp")))
            for name, file in _XDP_FILTER.items()
            if (_OBJECTS / file).exists()
        }


def beside(samples: Samples, programs: list[Named]) -> dict:
    """What one packet of a known flow takes, and how many times ours that is."""
    rows: list[list[object]] = [["target of hookline", TARGETS[EXISTING], "", ""]]
    for name, kind in programs:
        nothing = cell(samples["empty program", kind, EXISTING])
        if name == "empty program":
            rows.append([f"{name}, {KINDS[kind][0]}, all of it", nothing, "", ""])
            continue
        found = net(samples, (name, kind, EXISTING), ("empty program", kind, EXISTING))
        ours = net(samples, (OWN, kind, EXISTING), ("empty program", kind, EXISTING))
        times = [a / max(b, 1) for a, b in zip(found, ours, strict=True)]
        least = min(samples[name, kind, EXISTING]) - min(samples["empty program", kind, EXISTING])
        rows.append([f"{name}, {KINDS[kind][0]}", cell(found), round(least), cell(times, 2)])
    return table(
        "Full flow accounting, a TCP packet of an existing flow",
        ["ns a packet", "net of an empty program", "at its quietest", "times hookline"],
        rows,
    )


def by_flows(samples: Samples, programs: dict[Named, dict[str, Callable[[], float]]]) -> dict:
    rows: list[list[object]] = [["target of hookline", *(TARGETS.get(one, "") for one in SPREAD)]]
    for (name, kind), works in programs.items():
        if name == "empty program" or MANY not in works:
            continue
        cells = [
            cell(net(samples, (name, kind, one), ("empty program", kind, one)))
            if one in works
            else ""
            for one in SPREAD
        ]
        rows.append([f"{name}, {KINDS[kind][0]}", *cells])
    return table("Full flow accounting by the number of flows", ["ns a packet", *SPREAD], rows)
