# SPDX-License-Identifier: Apache-2.0
"""The packets of one capture on their way from the kernel's ring buffer into a file."""

import time
from dataclasses import dataclass
from typing import BinaryIO

from agent.clock import wall_offset_ns
from agent.frames import Books, Counted, Frame, FrameRing
from hookline.pcapng import (
    EGRESS,
    INGRESS,
    LINK_ETHERNET,
    LINK_RAW_IP,
    UNKNOWN,
    PcapngWriter,
    Statistics,
)
from hookline.remote import Order, RemoteError
from schemas.protocols import WITH_PORTS

Key = tuple[bytes, bytes, int, int, int, int]  # addresses, ports, protocol, hook point

# Flows whose owners are kept; more begin anew.
_MOST_OWNERS = 100_000
# Flows asked about at once: a question has to fit into a message, and so does its answer.
_MOST_ASKED = 1024
_UNKNOWN_NAME = "unknown"
_DIRECTIONS = {"ingress": INGRESS, "egress": EGRESS}


@dataclass(slots=True)
class Point:
    """A hook point as the file tells of it."""

    interface: int
    direction: int
    delivered: int = 0


class Recording:
    """Writes what the kernel delivers for one order."""

    def __init__(
        self, order: Order, out: BinaryIO, *, ring_bytes: int, snaplen: int, chosen_by: str
    ) -> None:
        answer = order.answer
        ring_fd, books_fd = order.fds
        self._ring = FrameRing(ring_fd, ring_bytes)
        self._books = Books(
            books_fd, slot=answer["slot"], cpus=answer["cpus"], hook_points=answer["hook_points"]
        )
        self._writer = PcapngWriter(out, application="hookline capture")
        self._points: dict[int, Point] = {}
        # Of interfaces that have gone, or have other points by now, too.
        self._all_points: list[tuple[int, Point]] = []
        self.interfaces: list[str] = []
        self._snaplen = snaplen
        self._chosen_by = chosen_by
        self.introduce(answer["points"])
        self._start_ns = time.time_ns()
        self._order = order
        self._asks = True
        self._owners: dict[Key, str] = {}
        self.packets = 0
        self._writer.flush()

    def introduce(self, points: list[dict[str, str | int]]) -> None:
        """Take the hook points as they are now: an interface may have come, or another name."""
        for point in points:
            link = LINK_ETHERNET if point["link_bytes"] else LINK_RAW_IP
            direction = _DIRECTIONS[str(point["direction"])]
            self._introduce(int(point["point"]), str(point["interface"]), direction, link)

    def _introduce(self, number: int, name: str, direction: int, link: int) -> Point:
        if name not in self.interfaces:
            self.interfaces.append(name)
            self._writer.interface(
                name, link=link, snaplen=self._snaplen, chosen_by=self._chosen_by
            )
        interface = self.interfaces.index(name)
        point = self._points.get(number)
        if point is None or point.interface != interface:
            point = self._points[number] = Point(interface, direction)
            self._all_points.append((number, point))
        return point

    def take(self, limit: int) -> int:
        """Write at most *limit* packets; returns how many there were."""
        frames = self._ring.drain(limit)
        if not frames:
            return 0
        offset_ns = wall_offset_ns()
        self._ask_for_owners(frames, offset_ns)
        for frame in frames:
            self._write(frame, frame.seen_ns + offset_ns)
        self._writer.flush()
        self.packets += len(frames)
        return len(frames)

    def _ask_for_owners(self, frames: list[Frame], offset_ns: int) -> None:
        """Learn whose the packets are, of flows that were not asked for yet."""
        if not self._asks:
            return
        keys = ((_key(frame), frame) for frame in frames if frame.protocol in WITH_PORTS)
        new = {key: frame for key, frame in keys if key not in self._owners}
        if not new:
            return
        if len(self._owners) > _MOST_OWNERS:
            self._owners.clear()
        flows = [self._told(frame, offset_ns) for frame in new.values()]
        owners: list[str] = []
        try:
            for start in range(0, len(flows), _MOST_ASKED):
                asked = flows[start : start + _MOST_ASKED]
                owners += self._order.ask("owners", flows=asked)["owners"]
        except RemoteError:
            # It has ended.  The packets are here all the same.
            self._asks = False
        self._owners |= zip(new, owners, strict=False)

    def _told(self, frame: Frame, offset_ns: int) -> list[object]:
        point = self._points.get(frame.point)
        is_egress = point is not None and point.direction == EGRESS
        return [*_key(frame)[:5], "egress" if is_egress else "ingress", frame.seen_ns + offset_ns]

    def end(self) -> None:
        """Have the programs only count again; what is in the buffer is all that comes.

        Raises:
            RemoteError: the agent has ended.
        """
        self._asks = False
        self._order.ask("stop")

    def look_around(self) -> None:
        """Ask which interfaces there are by now, and once more for owners that nobody knew.

        Raises:
            RemoteError: the agent has ended.
        """
        self.introduce(self._order.ask("points")["points"])
        self._owners = {key: owner for key, owner in self._owners.items() if owner}

    def _write(self, frame: Frame, time_ns: int) -> None:
        point = self._points.get(frame.point)
        if point is None:  # of an interface that went before we were told of it
            point = self._introduce(frame.point, _UNKNOWN_NAME, UNKNOWN, LINK_ETHERNET)
        self._writer.packet(
            point.interface,
            time_ns,
            frame.data,
            original_bytes=frame.original_bytes,
            direction=point.direction,
            comment=self._owners.get(_key(frame), ""),
        )
        point.delivered += 1

    def close(self) -> Counted:
        """Write what is known of each interface; returns what the kernel has counted."""
        counted = self._books.counted()
        for number in range(len(self.interfaces)):
            self._writer.statistics(number, self._statistics(number, counted))
        self._writer.flush()
        return counted

    def _statistics(self, interface: int, counted: Counted) -> Statistics:
        mine = [(one, point) for one, point in self._all_points if point.interface == interface]
        points = {one for one, _ in mine}
        return Statistics(
            start_ns=self._start_ns,
            end_ns=time.time_ns(),
            received=sum(counted.seen[one] for one in points),
            accepted=sum(counted.matched[one] for one in points),
            dropped=sum(counted.lost[one] for one in points),
            delivered=sum(point.delivered for _, point in mine),
        )


def _key(frame: Frame) -> Key:
    ports = frame.src_port, frame.dst_port
    return frame.src_addr, frame.dst_addr, *ports, frame.protocol, frame.point
