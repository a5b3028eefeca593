# SPDX-License-Identifier: Apache-2.0
"""Time to replay a capture: reading the file, and counting its packets into batches.

    python -m bench.replay [--quick | --long]

Frames of 100 bytes in 2,000 flows, 20,000 a second, in the formats that take different ways: one
that is fed where it lies, one of blocks, and one whose packets get an Ethernet header each.
"""

import asyncio
import struct
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from agent.config import Config
from agent.plan import remove_all
from agent.programs import load
from agent.replay.run import Player, plan_for
from agent.replay.timeline import Loaded, load_captures
from bench.rounds import cell, table
from bench.subject import Scale, main

FLOWS = 2000
PER_SECOND = 20_000
START_S = 1_600_000_000
INTERVAL_NS = 1_000_000_000
PAYLOAD_BYTES = 86
IP = struct.Struct(">BBHHHBBHII")


def measure(scale: Scale) -> list[dict]:
    packets, rounds = scale.pick(100_000, 20_000, 400_000), scale.pick(3, 2, 5)
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        for name, write in (
            ("pcap, Ethernet", ethernet),
            ("pcapng, Ethernet", blocks),
            ("pcap, Linux cooked 2", cooked),
        ):
            path = Path(directory) / "capture"
            path.write_bytes(write(packets))
            took = [replayed(path, packets) for _ in range(rounds)]
            reading, counting = zip(*took, strict=True)
            rate = [1e9 / (read + count) for read, count in took]
            rows.append([name, cell(reading), cell(counting), cell(rate)])
    columns = ["capture", "reading, ns a packet", "counting, ns a packet", "packets a second"]
    return [table(f"{packets:,} packets, without compiling the programs", columns, rows)]


def replayed(path: Path, packets: int) -> tuple[float, float]:
    """Nanoseconds a packet, to read the file and to make batches of it."""
    began = time.perf_counter()
    loaded = load_captures([path])
    read = time.perf_counter()
    with a_player(loaded) as player:
        ready = time.perf_counter()
        batches = [batch for part in player.play() for batch in part]
        done = time.perf_counter()
    counted = sum(int(one.columns["packets"].sum()) for one in batches if one.kind == "flow")
    assert counted == packets
    return (read - began) * 1e9 / packets, (done - ready) * 1e9 / packets


@contextmanager
def a_player(loaded: Loaded) -> Iterator[Player]:
    config = Config(node="bench", owners="no", sockets="no")
    plan = plan_for(config, loaded, INTERVAL_NS)
    asyncio.run(load(plan))
    try:
        yield Player(plan, loaded, node="bench", interval_ns=INTERVAL_NS)
    finally:
        remove_all(plan.pins.root)


def ethernet(packets: int) -> bytes:
    return pcap(packets, bytes.fromhex("0200000000010200000000020800"), link_type=1)


def cooked(packets: int) -> bytes:
    return pcap(packets, struct.pack(">HHIHBB8x", 0x0800, 0, 3, 1, 0, 6), link_type=276)


def pcap(packets: int, link_header: bytes, *, link_type: int) -> bytes:
    length = len(link_header) + PAYLOAD_BYTES
    records = np.zeros((packets, 16 + length), np.uint8)
    numbers = np.arange(packets)
    head = np.empty((packets, 4), "<u4")
    head[:, 0] = START_S + numbers // PER_SECOND
    head[:, 1] = numbers % PER_SECOND * (1_000_000 // PER_SECOND)
    head[:, 2:] = length
    records[:, :16] = head.view(np.uint8)
    records[:, 16 : 16 + len(link_header)] = np.frombuffer(link_header, np.uint8)
    records[:, 16 + len(link_header) :] = ip_packets(numbers)
    header = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, link_type)
    return header + records.tobytes()


def blocks(packets: int) -> bytes:
    frames = np.frombuffer(ethernet(packets)[24:], np.uint8).reshape(packets, -1)[:, 16:]
    length = frames.shape[1]
    numbers = np.arange(packets)
    ticks = START_S * 1_000_000 + numbers * (1_000_000 // PER_SECOND)
    head = np.empty((packets, 7), "<u4")
    head[:, 0], head[:, 1], head[:, 2] = 6, 32 + length, 0
    head[:, 3], head[:, 4] = ticks >> 32, ticks & 0xFFFFFFFF
    head[:, 5:] = length
    records = np.zeros((packets, 32 + length), np.uint8)
    records[:, :28] = head.view(np.uint8)
    records[:, 28 : 28 + length] = frames
    records[:, -4:] = head[:, 1:2].copy().view(np.uint8)
    section = struct.pack("<IIIHHqI", 0x0A0D0D0A, 28, 0x1A2B3C4D, 1, 0, -1, 28)
    return section + struct.pack("<IIHHII", 1, 20, 1, 0, 0, 20) + records.tobytes()


def ip_packets(numbers: np.ndarray) -> np.ndarray:
    """UDP over IPv4, (n, PAYLOAD_BYTES); the flow is in the source address."""
    one = IP.pack(0x45, 0, PAYLOAD_BYTES, 0, 0, 64, 17, 0, 0, 0xC6120001)
    one += struct.pack(">HHHH", 1024, 4000, PAYLOAD_BYTES - 20, 0)
    packets = np.zeros((len(numbers), PAYLOAD_BYTES), np.uint8)
    packets[:, : len(one)] = np.frombuffer(one, np.uint8)
    source = (0xC6130000 + numbers * 7919 % FLOWS).astype(">u4")
    packets[:, 12:16] = source.view(np.uint8).reshape(-1, 4)
    return packets


if __name__ == "__main__":
    main(measure, __doc__)
