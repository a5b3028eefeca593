# SPDX-License-Identifier: Apache-2.0
"""The packets of a capture file as columns: where each lies, how long it is, when and where it was.

Nothing of a packet's content is read here.  A file that is damaged gives all packets before the
damage, and says where that is.
"""

from array import array
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from agent.replay.files import Content

# What tcpdump and tshark take for the longest packet.
MOST_CAPTURED_BYTES = 1 << 18
INBOUND, OUTBOUND = 1, 2  # 0: the file does not say
UNKNOWN_LINK_TYPE = 0xFFFF

# Why packets of a file do not become packets of a replay.
CUT_OFF = "cut off by the end of the file"
NO_INTERFACE = "of an interface that the file does not declare"
TOO_SHORT = "in a block that is too short for them"


@dataclass(frozen=True, slots=True)
class Link:
    """One interface of a capture: its name, "" where the file has none, and its link type."""

    name: str
    link_type: int
    # Of timestamps: units a second, and what to add to them.
    ticks_per_second: int = 1_000_000
    offset_seconds: int = 0


@dataclass(slots=True)
class Packets:
    """Where the packets of a file lie: columns of equal length, in the order of the file."""

    offset: NDArray[np.uint64]
    captured: NDArray[np.uint32]
    length: NDArray[np.uint32]
    time_ns: NDArray[np.int64]
    link: NDArray[np.uint16]
    direction: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.offset)

    def chosen(self, which: NDArray[np.bool_]) -> "Packets":
        return Packets(*(getattr(self, name)[which] for name in Packets.__slots__))


@dataclass(slots=True)
class Capture:
    """A file that was read: its packets, and what became of the rest."""

    content: Content
    packets: Packets
    links: list[Link]
    rejected: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class Walk:
    """Packets as they are found one after another; `columns` when all of them are."""

    offset: "array[int]" = field(default_factory=lambda: array("Q"))
    captured: "array[int]" = field(default_factory=lambda: array("I"))
    length: "array[int]" = field(default_factory=lambda: array("I"))
    ticks: "array[int]" = field(default_factory=lambda: array("Q"))
    link: "array[int]" = field(default_factory=lambda: array("H"))
    direction: "array[int]" = field(default_factory=lambda: array("B"))

    def add(self, packet: tuple[int, int, int, int, int, int]) -> None:
        """Take a packet, whose values are in the order of the columns."""
        offset, captured, length, ticks, link, direction = packet
        self.offset.append(offset)
        self.captured.append(captured)
        self.length.append(length)
        self.ticks.append(ticks)
        self.link.append(link)
        self.direction.append(direction)

    def columns(self, links: list[Link]) -> Packets:
        link = np.array(self.link, np.uint16)
        return Packets(
            np.array(self.offset, np.uint64),
            np.array(self.captured, np.uint32),
            np.array(self.length, np.uint32),
            _times(np.array(self.ticks, np.uint64), link, links),
            link,
            np.array(self.direction, np.uint8),
        )


# Beyond these, nanoseconds no longer fit; who asks whether a time makes sense is told no.
_MOST_SECONDS = 9_000_000_000
NO_TICKS = (1 << 64) - 1
NO_TIME = -(1 << 63)


def _times(
    ticks: NDArray[np.uint64], link: NDArray[np.uint16], links: list[Link]
) -> NDArray[np.int64]:
    times = np.empty(len(ticks), np.int64)
    for number, one in enumerate(links):
        chosen = link == number
        times[chosen] = ns_from_ticks(ticks[chosen], one)
    times[ticks == np.uint64(NO_TICKS)] = NO_TIME
    return times


def ns_from_ticks(ticks: NDArray[np.uint64], link: Link) -> NDArray[np.int64]:
    """Nanoseconds since the epoch."""
    per_second = link.ticks_per_second
    if per_second >= 1 << 64:
        # All ticks are less than a second; Python's numbers are as long as they must be.
        rest_ns = [int(one) * 1_000_000_000 // per_second for one in ticks]
        return _sum_ns(np.zeros(len(ticks), np.int64), np.array(rest_ns, np.int64), link)
    seconds, rest = np.divmod(ticks, np.uint64(per_second))
    while per_second > 1 << 34:  # beyond it the product below overflows
        per_second >>= 1
        rest = rest >> np.uint64(1)
    nanoseconds = rest * np.uint64(1_000_000_000) // np.uint64(per_second)
    bounded = np.minimum(seconds, np.uint64(_MOST_SECONDS)).astype(np.int64)
    return _sum_ns(bounded, nanoseconds.astype(np.int64), link)


def _sum_ns(
    seconds: NDArray[np.int64], nanoseconds: NDArray[np.int64], link: Link
) -> NDArray[np.int64]:
    offset = max(-1 << 40, min(link.offset_seconds, 1 << 40))
    return np.clip(seconds + offset, -_MOST_SECONDS, _MOST_SECONDS) * 1_000_000_000 + nanoseconds


def without_gaps(times: NDArray[np.int64], otherwise_ns: int) -> NDArray[np.int64]:
    """Give packets that have no time that of the packet before, or of the first that has one."""
    is_known = times != NO_TIME
    if is_known.all():
        return times
    if not is_known.any():
        return np.full_like(times, otherwise_ns)
    place = np.where(is_known, np.arange(len(times)), -1)
    np.maximum.accumulate(place, out=place)
    place[place < 0] = int(is_known.argmax())
    return times[place]
