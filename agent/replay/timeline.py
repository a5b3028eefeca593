# SPDX-License-Identifier: Apache-2.0
"""All packets of one or more captures on one time line, ready to be fed.

Captures hold packets out of order: several queues or interfaces wrote them, or files overlap.  The
flow cache expects time to go on, so packets are put in order; those of one moment keep theirs.
"""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agent.plan import FIRST_POINT, MAX_POINTS
from agent.points import HookPoints
from agent.replay.capture import OUTBOUND, Capture
from agent.replay.files import CaptureError, Content, open_content
from agent.replay.links import Framing, framing_of, is_supported, link_type_name
from agent.replay.pcap import VARIANTS, read_pcap
from agent.replay.pcapng import MAGIC, read_pcapng
from schemas.wire import LATEST_TIME_NS, MAX_NAME_BYTES

BAD_TIME = "with a time before 1970 or after 2199"
_MOST_INTERFACES = (MAX_POINTS - FIRST_POINT) // 2
_INGRESS, _EGRESS = 0, 1  # offset of the hook point from the interface's first


@dataclass(slots=True)
class Timeline:
    """Packets by time, as columns of equal length."""

    address: NDArray[np.uint64]  # of the first byte to feed, in this process
    fed_bytes: NDArray[np.uint32]
    length: NDArray[np.uint32]
    time_ns: NDArray[np.int64]
    point: NDArray[np.uint32]
    link_bytes: NDArray[np.uint8]
    ethertype: NDArray[np.int32]  # of the Ethernet header to put in front; -1: none
    source: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.address)

    def chosen(self, which: NDArray[np.intp] | slice) -> "Timeline":
        return Timeline(*(getattr(self, name)[which] for name in Timeline.__slots__))


@dataclass(frozen=True, slots=True)
class Loaded:
    """What was found in the files: packets, their interfaces, and what was left out, and why."""

    timeline: Timeline
    points: HookPoints
    rejected: Counter[str]
    notes: list[str]
    contents: list[Content] = field(repr=False)  # keeps the packets where they are

    @property
    def packets_read(self) -> int:
        return len(self.timeline) + sum(self.rejected.values())


def load_captures(paths: Sequence[Path]) -> Loaded:
    """Read all files.

    Raises:
        CaptureError: one of them cannot be read, or holds nothing but unknown link types.
    """
    names: dict[str, int] = {}
    rejected: Counter[str] = Counter()
    parts, contents, notes = [], [], []
    for path in paths:
        capture = _read(open_content(path))
        _leave_out(capture)
        parts.append(_part(capture, names))
        rejected += capture.rejected
        contents.append(capture.content)
        notes += [f"{path}: {note}" for note in capture.content.notes]
    return Loaded(_joined(parts), _points(names), rejected, notes, contents)


def _read(content: Content) -> Capture:
    magic = content.bytes[:4].tobytes()
    if magic in VARIANTS:
        return read_pcap(content)
    if magic == MAGIC:
        return read_pcapng(content)
    if not magic:
        raise CaptureError(f"{content.path} is empty: not even the header of a capture is there")
    raise CaptureError(
        f"{content.path} is neither pcap nor pcapng; convert it:"
        f" editcap -F pcapng {content.path} new.pcapng"
    )


def _leave_out(capture: Capture) -> None:
    """Leave out what cannot be fed, with its reason."""
    packets = capture.packets
    unknown = [
        number for number, link in enumerate(capture.links) if not is_supported(link.link_type)
    ]
    if unknown and len(unknown) == len(capture.links):
        raise CaptureError(
            f"{capture.content.path} has link type"
            f" {link_type_name(capture.links[0].link_type)}, which replay cannot read; it reads"
            " Ethernet, raw IP, loopback, Linux cooked, PPP and HDLC"
        )
    is_kept = np.ones(len(packets), np.bool_)
    for number in unknown:
        is_of_it = packets.link == number
        name = link_type_name(capture.links[number].link_type)
        capture.rejected[f"of link type {name}"] += int(is_of_it.sum())
        is_kept &= ~is_of_it
    has_time = (packets.time_ns >= 0) & (packets.time_ns < LATEST_TIME_NS)
    capture.rejected[BAD_TIME] += int((is_kept & ~has_time).sum())
    is_kept &= has_time
    if not is_kept.all():
        capture.packets = packets.chosen(is_kept)


def _part(capture: Capture, names: dict[str, int]) -> Timeline:
    packets = capture.packets
    framing = framing_of(capture)
    interface = _interfaces(capture, framing, names)
    is_known = interface < _MOST_INTERFACES
    direction = np.where(framing.direction == OUTBOUND, _EGRESS, _INGRESS)
    return Timeline(
        packets.offset + framing.skip + np.uint64(capture.content.address),
        packets.captured - framing.skip,
        packets.length,
        packets.time_ns,
        np.where(is_known, FIRST_POINT + 2 * interface + direction, 0).astype(np.uint32),
        framing.link_bytes.astype(np.uint8),
        framing.ethertype,
        framing.source,
    )


def _interfaces(capture: Capture, framing: Framing, names: dict[str, int]) -> NDArray[np.int64]:
    """The number of each packet's interface; *names* learns those that are new."""
    key = capture.packets.link.astype(np.uint64) << np.uint64(32) | framing.ifindex
    keys, inverse = np.unique(key, return_inverse=True)
    numbers = [
        names.setdefault(
            _interface_name(capture, int(one) >> 32, int(one) & 0xFFFFFFFF), len(names)
        )
        for one in keys
    ]
    return np.array(numbers, np.int64)[inverse] if numbers else np.empty(0, np.int64)


def _interface_name(capture: Capture, link: int, ifindex: int) -> str:
    name = capture.links[link].name
    if ifindex:
        name = f"if{ifindex}"
    elif not name:
        # Interfaces without names are told apart by their file, and within it by their number.
        unnamed = [number for number, one in enumerate(capture.links) if not one.name]
        name = stem(capture.content.path)
        name += f":{unnamed.index(link)}" if len(unnamed) > 1 else ""
    return name.encode()[:MAX_NAME_BYTES].decode(errors="ignore")


def stem(path: Path) -> str:
    """The file's name without what tells its format; `stdin` for -."""
    if str(path) == "-":
        return "stdin"
    # What is no UTF-8 cannot be the name of a node or an interface.
    name = os.fsencode(path.name).decode(errors="replace")
    for suffix in (".gz", ".bz2", ".xz", ".pcap", ".pcapng", ".cap", ".dmp"):
        name = name.removesuffix(suffix) or name
    return name


def _points(names: dict[str, int]) -> HookPoints:
    points = HookPoints(FIRST_POINT + 2 * min(len(names), _MOST_INTERFACES))
    for name in names:
        points.take(name)
    return points


def _joined(parts: list[Timeline]) -> Timeline:
    whole = Timeline(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in Timeline.__slots__)
    )
    if (whole.time_ns[1:] >= whole.time_ns[:-1]).all():
        return whole
    return whole.chosen(np.argsort(whole.time_ns, kind="stable"))
