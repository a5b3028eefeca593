# SPDX-License-Identifier: Apache-2.0
"""What names cost: a packet that carries none, one that does, and each row in the agent.

    python -m bench.names [--quick | --long]

Times of packets come from the kernel's own test run, net of an empty program of the same type in
the same round; buffers are emptied between runs.  Times of rows are those of the agent's readers,
from events as they lie in a buffer to columns.
"""

import os
import struct
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from agent import libbpf
from agent.buffers import take
from agent.clock import Anchor
from agent.interfaces import Interface
from agent.names import DnsReader, TlsReader
from agent.points import number_points
from agent.ring import RingBuffer
from bench.frames import FRAMES, ethernet, ipv4, udp
from bench.programs import Hooks, Peers, hooks, instructions_verified
from bench.rounds import cell, interleave, net, table
from bench.subject import Scale, main
from schemas.dns import DNS_EVENT
from schemas.dtype import dtype_from_layout
from schemas.layout import Layout
from schemas.tls import TLS_EVENT

_UDP, _TCP = 17, 6
# Less than a buffer of 16 MB holds of the largest event.
RUN = 10_000
EVENTS = {"dns": DNS_EVENT, "tls": TLS_EVENT}
HOOKS = {"XDP": "hook_xdp", "tc": "hook_ingress"}
SWITCHES: dict[str, dict[str, Any]] = {
    "off": {},
    "DNS": {"dns_ports": (53,)},
    "TLS": {"tls": True},
    "DNS and TLS": {"dns_ports": (53,), "tls": True},
}

QUERY = struct.pack("!6H", 7, 0x0100, 1, 0, 0, 0) + b"\3www\7example\3org\0" + b"\0\1\0\1"


def client_hello(key_bytes: int) -> bytes:
    """A ClientHello with a name, a protocol and a key of that size."""
    name, protocol = b"www.example.org", b"\2h2"
    extensions = struct.pack("!HHHBH", 0, len(name) + 5, len(name) + 3, 0, len(name)) + name
    extensions += struct.pack("!HHH", 16, len(protocol) + 2, len(protocol)) + protocol
    extensions += struct.pack("!HHBHH", 43, 5, 4, 0x0304, 0x0303)
    extensions += struct.pack("!HHHHH", 51, key_bytes + 6, key_bytes + 4, 29, key_bytes)
    extensions += bytes(key_bytes)
    body = b"\3\3" + bytes(32) + b"\x20" + bytes(32) + b"\0\x02\x13\x01\1\0"
    body += struct.pack("!H", len(extensions)) + extensions
    handshake = b"\1" + len(body).to_bytes(3, "big") + body
    return b"\x16\3\1" + struct.pack("!H", len(handshake)) + handshake


def segment(payload: bytes) -> bytes:
    header = struct.pack("!HHIIBBHHH", 40000, 443, 1, 1, 0x50, 0x18, 65535, 0, 0)
    return ethernet(0x0800, ipv4(_TCP, header + payload))


PACKETS = {
    "TCP 1500 B": FRAMES["TCP 1500 B"],
    "UDP, no DNS": ethernet(0x0800, ipv4(_UDP, udp(1400, 9))),
    "DNS query": ethernet(0x0800, ipv4(_UDP, udp(0, 53, QUERY))),
    "ClientHello": segment(client_hello(32)),
    "ClientHello, hybrid key": segment(client_hello(1216)),
}


def measure(scale: Scale) -> list[dict]:
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    return [packets(scale.pick(11, 5, 21)), rows(scale.pick(7, 3, 11)), verified()]


def packets(rounds: int) -> dict:
    peers = Peers()
    empty = {"XDP": peers.fd("empty_xdp"), "tc": peers.fd("empty_tc")}
    variants: dict[object, Callable[[], float]] = {
        ("empty", hook, name): run(fd, frame)
        for hook, fd in empty.items()
        for name, frame in PACKETS.items()
    }
    with (
        hooks() as off,
        hooks(**SWITCHES["DNS"]) as dns,
        hooks(**SWITCHES["TLS"]) as tls,
        hooks(**SWITCHES["DNS and TLS"]) as both,
    ):
        for switch, loaded in zip(SWITCHES, (off, dns, tls, both), strict=True):
            buffers = [
                buffer_of(loaded, kind, layout)
                for kind, layout in EVENTS.items()
                if loaded.plan.pins.map(kind).exists()
            ]
            for hook, program in HOOKS.items():
                for name, frame in PACKETS.items():
                    variants[switch, hook, name] = emptied(buffers, loaded.fd(program), frame)
        samples = interleave(variants, rounds)
    lines = [
        [
            f"{switch}, {hook}",
            *(cell(net(samples, (switch, hook, one), ("empty", hook, one))) for one in PACKETS),
        ]
        for switch in SWITCHES
        for hook in HOOKS
    ]
    return table("A packet, by what is wanted", ["ns a packet", *PACKETS], lines)


def buffer_of(loaded: Hooks, kind: str, layout: Layout) -> RingBuffer:
    return RingBuffer(loaded.plan.pins.map(kind), loaded.plan.ring_bytes, dtype_from_layout(layout))


def run(fd: int, frame: bytes) -> Callable[[], float]:
    return lambda: float(libbpf.run_program(fd, frame, repeat=RUN)[1])


def emptied(buffers: list[RingBuffer], fd: int, frame: bytes) -> Callable[[], float]:
    measured = run(fd, frame)

    def run_and_empty() -> float:
        took = measured()
        for buffer in buffers:
            take(buffer)
        return took

    return run_and_empty


def rows(rounds: int) -> dict:
    """What the agent's readers take for each row, from many connections."""
    points = number_points([Interface("lo", 1, is_up=True, link_bytes=14, is_hardware=False)])
    anchor = Anchor(jiffies=0, monotonic_ns=1 << 60, wall_ns=1 << 60, tick_ns=1)
    taken = {
        "DNS query": ("dns", lambda: DnsReader(lambda _: None)),
        "ClientHello": ("tls", lambda: TlsReader(lambda _: None)),
        "ClientHello, hybrid key": ("tls", lambda: TlsReader(lambda _: None)),
    }
    variants: dict[object, Callable[[], float]] = {}
    with hooks(**SWITCHES["DNS and TLS"]) as loaded:
        for name, (kind, reader) in taken.items():
            buffer = buffer_of(loaded, kind, EVENTS[kind])
            run(loaded.fd("hook_ingress"), PACKETS[name])()
            events = take(buffer)
            chance = np.random.default_rng(1)
            events["src_port_be"] = chance.integers(0, 1 << 16, len(events))
            events["sequence" if kind == "tls" else "message_bytes"] = np.arange(len(events))

            def read(events: Any = events, reader: Any = reader) -> float:
                began = time.perf_counter_ns()
                reader().columns(events, points, anchor)
                return (time.perf_counter_ns() - began) / len(events)

            variants[name] = read
        samples = interleave(variants, rounds)
    lines = [[name, cell(samples[name])] for name in taken]
    return table(f"A row in the agent, {RUN:,} at a time", ["ns a row", "in all"], lines)


def verified() -> dict:
    lines = []
    for switch, options in SWITCHES.items():
        with hooks(**options) as loaded:
            programs = ["hook_xdp", "hook_ingress", "unusual_tc"]
            counts = [instructions_verified(loaded.fd(name)) for name in programs]
            own = instructions_verified(loaded.fd("names_tc")) if options else 0
            lines.append([switch, *counts, own])
    columns = ["", "hook_xdp", "hook_ingress", "unusual_tc", "names_tc"]
    return table("Instructions the verifier walked through", columns, lines)


if __name__ == "__main__":
    main(measure, __doc__)
