# SPDX-License-Identifier: Apache-2.0
"""What tcpdump saw on a link and tshark makes of it: an oracle that shares no code with us."""

import signal
import struct
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.lab.links import Counters, End
from tests.lab.waiting import wait_until

_FIELDS = (
    *("frame.len", "ip.src", "ip.dst", "ipv6.src", "ipv6.dst"),
    *("ip.proto", "ipv6.nxt", "tcp.srcport", "tcp.dstport", "udp.srcport", "udp.dstport"),
)

FiveTuple = tuple[str, str, int, int, int]


@contextmanager
def capturing(end: End, path: Path, *, direction: str = "inout") -> Iterator[Path]:
    """Write what passes *end* to *path*; complete once the block is left.

    *direction* is "in", "out" or "inout", as *end* sees it.  The end must be without offloads:
    that nothing is missing is known by its counters.
    """
    before = end.counters()
    process = subprocess.Popen(
        end.namespace.command(
            *("tcpdump", "-i", end.name, "-Q", direction, "-B", "65536"),
            *("-n", "-s", "0", "-U", "--immediate-mode", "-w", str(path), "-Z", "root"),
        ),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        # It says so once its socket is open; nothing sent after this is missed.
        said = process.stderr.readline()
        while said and "listening on" not in said:
            said = process.stderr.readline()
        try:
            yield path
            expected = _passed(end, before, direction)
            wait_until(lambda: len(frames_of(path)) >= expected, f"{expected} packets in {path}")
        finally:
            process.send_signal(signal.SIGINT)
            said = process.stderr.read()
            process.wait()
    assert "0 packets dropped by kernel" in said, said


def _passed(end: End, before: Counters, direction: str) -> int:
    grown = end.counters() - before
    return {"in": grown.rx_packets, "out": grown.tx_packets}.get(
        direction, grown.rx_packets + grown.tx_packets
    )


def frames_of(path: Path) -> list[bytes]:
    """Every whole frame in a capture, in order."""
    content, at, frames = path.read_bytes(), 24, []
    while at + 16 <= len(content):
        start, at = at + 16, at + 16 + int.from_bytes(content[at + 8 : at + 12], "little")
        if at <= len(content):
            frames.append(content[start:at])
    return frames


def write_capture(path: Path, frames: Iterable[bytes]) -> Path:
    """A capture of these Ethernet frames, one a microsecond."""
    with path.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 1 << 18, 1))
        for number, frame in enumerate(frames):
            seconds, microseconds = divmod(number, 1_000_000)
            file.write(struct.pack("<IIII", seconds, microseconds, len(frame), len(frame)) + frame)
    return path


def five_tuples(path: Path) -> dict[FiveTuple, tuple[int, int]]:
    """Packets and bytes of every five-tuple in a capture, as tshark dissects it."""
    totals: dict[FiveTuple, tuple[int, int]] = {}
    for line in tshark_fields(path, *_FIELDS):
        length, v4_src, v4_dst, v6_src, v6_dst, v4_proto, v6_proto, *ports = line
        src_port, dst_port = ports[0] or ports[2], ports[1] or ports[3]
        key = (
            *(v4_src or v6_src, v4_dst or v6_dst),
            *(int(src_port or 0), int(dst_port or 0), int(v4_proto or v6_proto or 0)),
        )
        packets, in_bytes = totals.get(key, (0, 0))
        totals[key] = packets + 1, in_bytes + int(length)
    return totals


def total(path: Path) -> tuple[int, int]:
    """Packets and bytes in a capture."""
    lengths = [int(length) for (length,) in tshark_fields(path, "frame.len")]
    return len(lengths), sum(lengths)


def tshark_fields(
    path: Path, *fields: str, occurrence: str = "f", only: str = "", options: Sequence[str] = ()
) -> list[list[str]]:
    """*fields* of the packets that the filter *only* wants, as text.

    Of each field the first *occurrence*, or with "a" all of them.
    """
    wanted = [argument for field in fields for argument in ("-e", field)]
    kept = ["-Y", only] if only else []
    how = ["-T", "fields", "-E", f"occurrence={occurrence}"]
    done = subprocess.run(
        ["tshark", "-n", "-r", str(path), *how, *kept, *options, *wanted],
        check=True,
        capture_output=True,
        text=True,
    )
    return [line.split("\t") for line in done.stdout.splitlines()]
