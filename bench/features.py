# SPDX-License-Identifier: Apache-2.0
"""What each feature costs a packet, by the packet's shape and by how many flows there are."""

import mmap
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from typing import Any

import numpy as np

from agent import libbpf
from agent.buffers import take
from agent.ring import RingBuffer
from bench.driver import Driver, run
from bench.frames import FRAMES
from bench.programs import Hooks, Peers, at_once, hooks
from bench.rounds import Samples, cell, interleave, net, table
from bench.ruled import enforced, put
from bench.shapes import SHAPES, TUNNELS
from schemas.dtype import dtype_from_layout
from schemas.flow import FLOW_EVICTION
from schemas.packet import PACKET_EVENT
from schemas.rules.rule import Rule
from tests.lab.cgroups import a_cgroup

KINDS = {"xdp": ("XDP", "hook_xdp"), "tc": ("tc", "hook_ingress")}
EVENTS = {"packets": PACKET_EVENT, "evictions": FLOW_EVICTION}
# What an agent asks for where it is told nothing, besides sockets.
DEFAULTS = {"sample_one_in": 1000, "sample_first": True}
NAMES = {"dns_ports": (53,), "tls": True}
_UNUSUAL_RUN = 10_000
# So many that the events of one run have room in a buffer.
NEW_RUN = 10_000
# More than twice what there is room for, so that hardly a slot stays empty.
_FULL = 300_000

ELSEWHERE = enforced("r", src=(IPv4Network("203.0.113.0/24"),))


@dataclass(frozen=True, slots=True)
class Feature:
    """Programs loaded with options; sockets observed or not; rules put there, or none ever."""

    options: dict[str, Any] = field(default_factory=dict)
    has_sockets: bool = False
    rules: tuple[Rule, ...] | None = None


# All that a flow's row can have; headers of packets are rows of their own.
FULL = Feature(has_sockets=True, rules=())
DEFAULT = Feature(DEFAULTS, has_sockets=True, rules=())
FEATURES = {
    "flow accounting alone": Feature(),
    "sockets observed": Feature(has_sockets=True),
    "rules on, none there": Feature(rules=()),
    "full flow accounting: both of these": FULL,
    "a rule that means another address": Feature(rules=(ELSEWHERE,)),
    "1 in 1000 sampled": Feature({"sample_one_in": 1000}),
    "first packets": Feature({"sample_first": True}),
    "names, DNS": Feature({"dns_ports": (53,)}),
    "names, TLS": Feature({"tls": True}),
    "tunnels, outer": Feature({"tunnels": "outer"}),
    "tunnels, both": Feature({"tunnels": "both"}),
    "all as by default": DEFAULT,
    "all there is, and that rule": Feature(
        DEFAULTS | NAMES | {"tunnels": "both"}, has_sockets=True, rules=(ELSEWHERE,)
    ),
}


@dataclass(frozen=True, slots=True)
class Load:
    """One load of the programs, the memory of its flow cache and its buffers of events."""

    hooks: Hooks
    slots: np.ndarray
    buffers: tuple[RingBuffer, ...]

    def emptied(self, measured: Callable[[], float]) -> Callable[[], float]:
        """With an empty flow cache each time; nobody else uses it."""

        def empty_and_run() -> float:
            self.slots[:] = 0
            return self.drained(measured)()

        return empty_and_run

    def drained(self, measured: Callable[[], float]) -> Callable[[], float]:
        """With empty buffers after each time, for a full one is cheaper to write to."""

        def run_and_drain() -> float:
            took = measured()
            self.drain()
            return took

        return run_and_drain

    def drain(self) -> None:
        for buffer in self.buffers:
            while len(take(buffer)):
                pass


@contextmanager
def loaded(feature: Feature, **sizes: int) -> Iterator[Load]:
    with ExitStack() as stack:
        options = feature.options | sizes
        if feature.has_sockets:
            cgroup = stack.enter_context(a_cgroup("bench"))
            options["cgroup"] = str(cgroup.directory)
        one = stack.enter_context(hooks(**options))
        if feature.rules is not None:
            put(one, feature.rules)
        pins = one.plan.pins
        with libbpf.opened(pins.map("flow_slots")) as fd:
            memory = mmap.mmap(fd, one.maps.slots.nbytes)
        buffers = [
            RingBuffer(pins.map(name), one.plan.ring_bytes, dtype_from_layout(layout))
            for name, layout in EVENTS.items()
        ]
        yield Load(one, np.frombuffer(memory, np.uint64), tuple(buffers))


def tables(peers: Peers, shape_rounds: int, flow_rounds: int) -> list[dict]:
    with ExitStack() as stack:
        loads = at_once(stack, {name: loaded(one) for name, one in FEATURES.items()})
        return [
            existing_flow(peers, loads, shape_rounds),
            not_plain(peers, loads, shape_rounds),
            by_flows(peers, loads, flow_rounds),
        ]


def existing_flow(peers: Peers, loads: dict[str, Load], rounds: int) -> dict:
    programs = programs_of(peers, loads)
    samples = interleave(
        {
            (*named, shape): run(fd, frame)
            for named, fd in programs.items()
            for shape, frame in FRAMES.items()
        },
        rounds,
    )
    rows = [
        [
            f"{name}, {KINDS[kind][0]}",
            *(cell(net(samples, (name, kind, one), ("empty", kind, one))) for one in FRAMES),
        ]
        for kind in KINDS
        for name, other in programs
        if other == kind and name != "empty"
    ]
    return table("Features, an existing flow", ["ns a packet", *FRAMES], rows)


def not_plain(peers: Peers, loads: dict[str, Load], rounds: int) -> dict:
    """At tc; bench.shapes has both hooks, without features."""
    frames = SHAPES | TUNNELS
    fds = {"empty": peers.fd("empty_tc")}
    fds |= {name: one.hooks.fd("hook_ingress") for name, one in loads.items()}
    samples = interleave(
        {
            (name, shape): run(fd, frame, _UNUSUAL_RUN)
            for name, fd in fds.items()
            for shape, frame in frames.items()
        },
        rounds,
    )
    return table(
        "Features, packets that are not plain, at tc",
        ["ns a packet", *frames],
        [
            [name, *(cell(net(samples, (name, one), ("empty", one))) for one in frames)]
            for name in loads
        ],
    )


def programs_of(peers: Peers, loads: dict[str, Load]) -> dict[tuple[str, str], int]:
    """Descriptors by what it is, and xdp or tc."""
    found = {}
    for kind, (_, hook) in KINDS.items():
        found["empty", kind] = peers.fd(f"empty_{kind}")
        found["parsing alone", kind] = peers.fd(f"parse_only_{kind}")
        found |= {(name, kind): one.hooks.fd(hook) for name, one in loads.items()}
    return found


def by_flows(peers: Peers, loads: dict[str, Load], rounds: int) -> dict:
    """TCP at tc: a cache of 131,072 slots in which flows are known, new, or without room."""
    driver = Driver(peers)
    columns = ("64,000 flows", "new flow, room", "new flow, full")
    empty = peers.fd("empty_tc")
    variants: dict[object, Callable[[], float]] = {
        ("empty", columns[0]): driver.over(empty, 64_000),
        **{("empty", one): driver.onwards(empty, NEW_RUN) for one in columns[1:]},
    }
    for name, one in loads.items():
        fd = one.hooks.fd("hook_ingress")
        variants[name, columns[0]] = one.drained(driver.over(fd, 64_000))
        variants[name, columns[1]] = one.emptied(driver.onwards(fd, NEW_RUN))
        variants[name, columns[2]] = evicting(one, driver, fd)
    samples = interleave(variants, rounds)
    return table(
        "Features, TCP 1500 B at tc, by what the flow cache holds",
        ["ns a packet", *columns],
        [[name, *cells(samples, name, columns)] for name in loads],
    )


def evicting(one: Load, driver: Driver, fd: int) -> Callable[[], float]:
    """New flows in a cache without an empty slot."""
    measured = one.drained(driver.onwards(fd, NEW_RUN))

    def fill_and_run() -> float:
        driver.fill(fd, _FULL)
        one.drain()
        return measured()

    return fill_and_run


def cells(samples: Samples, name: str, columns: tuple[str, ...]) -> list[dict[str, float]]:
    return [cell(net(samples, (name, one), ("empty", one))) for one in columns]
