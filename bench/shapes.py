# SPDX-License-Identifier: Apache-2.0
"""Nanoseconds a packet costs that is not a plain one, by what it has, and tunnels by what is told.

    python -m bench.shapes [--quick | --long]

Times come from the kernel's own test run, net of an empty program of the same type in the same
round.  A plain packet stands beside them, since all features are loaded while it is counted.
"""

import os
import struct

from bench.driver import run
from bench.frames import ethernet, ipv4, ipv6, udp
from bench.programs import Peers, hooks
from bench.rounds import cell, interleave, net, table
from bench.subject import Scale, main

_UDP, _GRE, _FRAGMENT, _DSTOPTS = 17, 47, 44, 60
_PLAIN = ipv4(_UDP, udp(1400))
_RECORD_ROUTE = b"\x07\x07\x04" + bytes(4) + b"\0"
_MORE_FRAGMENTS, _LATER = 0x2000, 0x0100

PLAIN = {"plain UDP": ethernet(0x0800, _PLAIN)}
SHAPES = {
    "two tags": ethernet(0x88A8, struct.pack("!HHHH", 7, 0x8100, 9, 0x0800) + _PLAIN),
    "IPv4 with options": ethernet(0x0800, ipv4(_UDP, udp(1400), options=_RECORD_ROUTE)),
    "IPv6, two extension headers": ethernet(
        0x86DD,
        ipv6(0, bytes([_DSTOPTS, 0, 1, 4, 0, 0, 0, 0, _UDP, 0, 1, 4, 0, 0, 0, 0]) + udp(1400)),
    ),
    "first fragment": ethernet(0x0800, ipv4(_UDP, udp(1400), fragment=_MORE_FRAGMENTS)),
    "later fragment": ethernet(0x0800, ipv4(_UDP, bytes(1400), fragment=_LATER)),
}
_INNER = ethernet(0x0800, ipv4(_UDP, udp(1300)))
TUNNELS = {
    "VXLAN": ethernet(
        0x0800, ipv4(_UDP, udp(0, 4789, b"\x08\0\0\0" + struct.pack("!I", 7 << 8) + _INNER))
    ),
    "GRE": ethernet(0x0800, ipv4(_GRE, struct.pack("!HH", 0, 0x0800) + _PLAIN)),
}


def measure(scale: Scale) -> list[dict]:
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    peers = Peers()
    rounds = scale.pick(9, 5, 31)
    with (
        hooks(tunnels="inner") as inner,
        hooks(tunnels="outer") as outer,
        hooks(tunnels="both") as both,
    ):
        told = {
            **{name: (inner, frame) for name, frame in (PLAIN | SHAPES | TUNNELS).items()},
            **{f"{name}, outer": (outer, frame) for name, frame in TUNNELS.items()},
            **{f"{name}, both": (both, frame) for name, frame in TUNNELS.items()},
        }
        variants = {
            (name, hook): run(loaded.fd(hook), frame)
            for name, (loaded, frame) in told.items()
            for hook in ("hook_xdp", "hook_ingress")
        }
        for hook, empty in (("hook_xdp", "empty_xdp"), ("hook_ingress", "empty_tc")):
            variants["empty", hook] = run(peers.fd(empty), PLAIN["plain UDP"])
        samples = interleave(variants, rounds)
    rows = [
        [
            name,
            *(
                cell(net(samples, (name, hook), ("empty", hook)))
                for hook in ("hook_xdp", "hook_ingress")
            ),
        ]
        for name in told
    ]
    return [
        table("Packets that are not plain, of an existing flow", ["ns a packet", "XDP", "tc"], rows)
    ]


if __name__ == "__main__":
    main(measure, __doc__)
