# SPDX-License-Identifier: Apache-2.0
"""The C of a filter means the packets that the filter means."""

import asyncio
import random
import struct
from ipaddress import IPv6Address, ip_network
from typing import Self

import pytest

from agent import libbpf
from agent.captures import Capture, CaptureError, Captures
from agent.frames import FrameRing
from agent.variants import Compiled, Variants
from schemas.filter.grammar import parse
from tests.bpf.programs import Programs, loaded
from tests.lab.compilers import without_compiler
from tests.schemas.filters import Row, a_filter, a_row, holds

pytestmark = pytest.mark.kernel

RING_BYTES = 1 << 20
FILTERS_AT_ONCE = 20
PLAIN = {
    "interface": "eth0",
    "inner_vlan": 0,
    "tunnel": "none",
    "vni": 0,
    **dict.fromkeys(("outer_src_addr", "outer_dst_addr"), IPv6Address("::")),
}
MACS = bytes.fromhex("02484c00000202484c000001")


def frame_of(row: Row) -> bytes:
    """A frame that a row of `flows` would tell of."""
    tag = struct.pack("!HH", 0x8100, row["vlan"]) if row["vlan"] else b""
    return MACS + tag + struct.pack("!H", row["ethertype"]) + _packet(row)


def _packet(row: Row) -> bytes:
    body = _transport(row).ljust(40, b"\0")
    src, dst = row["src_addr"].packed, row["dst_addr"].packed
    if row["ethertype"] == 0x0800:
        head = (0x45, row["dscp"] << 2, 20 + len(body), 0, 0, 64, row["protocol"], 0)
        return struct.pack("!BBHHHBBH", *head) + src[12:] + dst[12:] + body
    if row["ethertype"] == 0x86DD:
        first = 6 << 28 | row["dscp"] << 22
        return struct.pack("!IHBB", first, len(body), row["protocol"], 64) + src + dst + body
    return body


def _transport(row: Row) -> bytes:
    ports = struct.pack("!HH", row["src_port"], row["dst_port"])
    if row["protocol"] == 6:
        return ports + bytes(8) + bytes([0x50, row["tcp_flags"]]) + bytes(6)
    if row["protocol"] in (1, 58):
        return bytes([row["icmp_type"], row["icmp_code"]])
    return ports


def rows_that_frames_can_have(draw: random.Random, count: int) -> list[Row]:
    found: list[Row] = []
    while len(found) < count:
        row = a_row(draw, len(found))
        # 0 is no ethertype, and in IPv6 no protocol but an extension header.
        if row["ethertype"] and (row["ethertype"] != 0x86DD or row["protocol"]):
            found.append({**row, **PLAIN})
    return found


@pytest.fixture(scope="module")
def programs(lab):
    with loaded() as programs:
        yield programs


class Asked:
    """Captures of several filters each; a frame's tag says which of them it is for.

    So many fit one compilation.
    """

    def __init__(self, programs: Programs, *lists: list[str]) -> None:
        names = ["unknown", "eth0", "eth0", "eth1"]
        normal = Variants(Compiled.reported(programs.report, programs.plan.pins))
        self._captures = Captures(programs.plan, normal, names=lambda: names, swap=self._swap)
        texts = [
            " or ".join(f"(vlan {tag} and ({text}))" for tag, text in enumerate(one, start=1))
            for one in lists
        ]
        self._running = asyncio.run(self._start(texts))
        self._rings = [FrameRing(one.ring_fd, RING_BYTES) for one in self._running]

    def _swap(self, variants: Variants) -> None:
        self._programs = variants.of("").programs

    async def _start(self, texts: list[str]) -> list[Capture]:
        return [
            await self._captures.start(
                parse(text, for_packets=True), snaplen=1500, ring_bytes=RING_BYTES
            )
            for text in texts
        ]

    def run(self, row: Row) -> list[list[bytes]]:
        """The frames that each capture gets of the packet that *row* tells of."""
        libbpf.run_program(self._programs[f"hook_{row['direction']}"], frame_of(row))
        return [[frame.data for frame in ring.drain(10)] for ring in self._rings]

    async def _stop(self) -> None:
        for capture in self._running:
            await self._captures.stop(capture)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run(self._stop())


def test_the_kernel_wants_what_a_row_by_row_reading_wants(programs):
    draw = random.Random(20261124)
    texts = [a_filter(draw) for _ in range(200)]
    texts = [text for text in texts if len(text) < 200]
    lists = texts[:FILTERS_AT_ONCE], texts[FILTERS_AT_ONCE : 2 * FILTERS_AT_ONCE]
    trees = [[parse(text) for text in one] for one in lists]
    differ, wanted = [], 0

    with Asked(programs, *lists) as asked:
        for row in rows_that_frames_can_have(draw, 60):
            for tag in range(1, FILTERS_AT_ONCE + 1):
                tagged = {**row, "vlan": tag}
                got = asked.run(tagged)
                meant = [holds(one[tag - 1], tagged) for one in trees]
                wanted += sum(meant)
                if got != [[frame_of(tagged)] * is_meant for is_meant in meant]:
                    differ.append(([one[tag - 1] for one in lists], tagged, got))

    assert not differ, differ[:3]
    assert 100 < wanted < 60 * 2 * FILTERS_AT_ONCE - 100


def test_networks_that_are_next_to_each_other_are_told_apart(programs):
    row = next(
        row for row in rows_that_frames_can_have(random.Random(3), 200) if row["protocol"] == 6
    )
    address = int(row["src_addr"])
    lengths = (128, 127, 64, 33, 0) if row["ethertype"] == 0x86DD else (32, 31, 9, 1, 0)
    whole = row["src_addr"].ipv4_mapped or row["src_addr"]
    texts = [f"src net {ip_network((whole, length), strict=False)}" for length in lengths]
    distances = [0, *(1 << (lengths[0] - length) for length in lengths[:-1])]

    with Asked(programs, texts) as asked:
        seen = [
            [
                bool(
                    asked.run({**row, "vlan": tag, "src_addr": IPv6Address(address ^ distance)})[0]
                )
                for tag in range(1, len(texts) + 1)
            ]
            for distance in distances
        ]

    # What differs in the last bit that a network fixes is outside, and in every longer one.
    assert seen == [[length >= far for length in range(len(texts))] for far in range(len(texts))]


def test_only_a_filter_that_was_not_asked_before_is_compiled(programs, tmp_path):
    row = rows_that_frames_can_have(random.Random(4), 1)[0]
    wanted, unwanted = {**row, "vlan": 1}, {**row, "vlan": 2}
    texts = [f"src host {row['src_addr'].ipv4_mapped or row['src_addr']}"]
    with Asked(programs, texts):
        pass

    with without_compiler(tmp_path):
        with Asked(programs, texts) as asked:
            assert asked.run(wanted) == [[frame_of(wanted)]]
            assert asked.run(unwanted) == [[]]
        with pytest.raises(CaptureError, match="bcc is missing"):
            Asked(programs, ["tcp port 4712"])
