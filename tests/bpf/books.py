# SPDX-License-Identifier: Apache-2.0
"""What frames came to: rows and counters, as the oracle and as the kernel with the agent have them."""

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from typing import NamedTuple

import numpy as np

from agent.buffers import take
from agent.clock import KernelClock
from agent.columns import flow_columns, packet_columns
from agent.flowcache import FlowCache
from agent.interfaces import Interface
from agent.points import number_points
from schemas.fields import TUNNELS
from tests.bpf.dissect import Dissector, Row
from tests.bpf.programs import Programs

COUNTERS = (
    "truncated_packets",
    "fragment_packets",
    "unmatched_fragment_packets",
    "tunnel_packets",
)
_TUNNEL_NAMES = {number: name for name, number in TUNNELS.items()}
# Names for every hook point that a test may give the loopback interface in turn.
_POINTS = number_points(
    [
        Interface(f"lo{number}", number, is_up=True, link_bytes=14, is_hardware=False)
        for number in range(1, 9)
    ]
)


class Measures(NamedTuple):
    """What the packets of a row came to."""

    packets: int = 0
    bytes: int = 0
    inner_packets: int = 0
    inner_bytes: int = 0
    tcp_flags: int = 0
    min_bytes: int = 1 << 16
    max_bytes: int = 0

    def and_also(self, other: "Measures") -> "Measures":
        *sums, flags, least, most = other
        return Measures(
            *(mine + theirs for mine, theirs in zip(self[:4], sums, strict=True)),
            self.tcp_flags | flags,
            min(self.min_bytes, least),
            max(self.max_bytes, most),
        )


COLUMNS = (*Row._fields, *Measures._fields)


@dataclass(slots=True)
class Books:
    """Rows with their measures, and counters."""

    rows: dict[Row, Measures] = field(default_factory=lambda: defaultdict(Measures))
    counters: Counter[str] = field(default_factory=Counter)

    def add(self, row: Row, measures: Measures) -> None:
        self.rows[row] = self.rows[row].and_also(measures)

    def without_marks(self) -> "Books":
        """The sums alone: what flags and extremes are depends on what a flow met before."""
        rows = {row: Measures(*measures[:4]) for row, measures in self.rows.items()}
        return Books(rows, self.counters)

    def differences(self, other: "Books") -> list[str]:
        """What is not the same in *other*, in lines."""
        rows = [
            f"{text_of(row)}: {mine} {theirs}"
            for row in {*self.rows, *other.rows}
            if (mine := self.rows.get(row)) != (theirs := other.rows.get(row))
        ]
        return rows + [
            f"{name}: {self.counters[name]} {other.counters[name]}"
            for name in COUNTERS
            if self.counters[name] != other.counters[name]
        ]


def text_of(row: Row) -> str:
    """What is set in *row*."""
    return " ".join(
        f"{name}={IPv6Address(value) if isinstance(value, bytes) else value}"
        for name, value in row._asdict().items()
        if value not in (0, bytes(16), "none")
    )


def books_of_oracle(dissector: Dissector, frames: Iterable[bytes]) -> Books:
    """What *dissector* makes of *frames*."""
    books = Books()
    for frame in frames:
        size, reading = len(frame), dissector.read(frame)
        books.add(reading.row, Measures(1, size, 0, 0, reading.tcp_flags, size, size))
        if reading.inside:
            measures = Measures(0, 0, 1, size, reading.inside_tcp_flags, size, size)
            books.add(reading.inside, measures)
        is_opened = reading.row.tunnel != "none" or reading.inside is not None
        odd = (reading.is_truncated, reading.is_fragment, reading.is_unmatched, is_opened)
        books.counters.update(dict(zip(COUNTERS, map(int, odd), strict=True)))
    return books


class KernelBooks:
    """Reads what loaded programs have counted, with the agent's own code."""

    def __init__(self, programs: Programs) -> None:
        self._programs = programs
        maps = programs.maps
        self._contexts = maps.contexts
        self._cache = FlowCache(maps.slots, maps.origins, maps.contexts)
        self._clock = KernelClock(programs.plan.pins, maps.clock)
        self._before: dict[int, Counter[str]] = defaultdict(Counter)

    def take(self, point: int) -> Books:
        """What was counted since the last time, which was all at hook point *point*."""
        books = Books()
        counted = [self._cache.snapshot(), self._cache.settle(take(self._programs.evictions))]
        for part in counted:
            columns = flow_columns(part, _POINTS, self._contexts, self._clock.anchor())
            for row, measures in rows_from(columns):
                books.add(row, measures)
        totals = Counter({name: self._programs.total(name, point) for name in COUNTERS})
        before, self._before[point] = self._before[point], totals
        books.counters = Counter({name: totals[name] - before[name] for name in COUNTERS})
        return books

    def begin_interval(self) -> None:
        """Return once flags and sizes of what follows stand apart from what has been taken."""
        self._clock.begin_interval()
        begins = int(self._programs.maps.clock["interval_jiffies"][0])
        while self._clock.anchor().jiffies % (1 << 32) < begins:
            time.sleep(0.001)

    def packets(self) -> Mapping[str, np.ndarray]:
        """The columns of the sampled packets."""
        events = take(self._programs.packets)
        return packet_columns(self._contexts, events, _POINTS, self._clock.anchor())


def rows_from(columns: Mapping[str, np.ndarray]) -> Iterator[tuple[Row, Measures]]:
    """The rows in the columns of `flow` records."""
    measures = zip(*(_plain(columns[name]) for name in Measures._fields), strict=True)
    return zip(identities_from(columns), map(Measures._make, measures), strict=True)


def identities_from(columns: Mapping[str, np.ndarray]) -> list[Row]:
    """What identifies each row, in the columns of `flow` or `packet` records."""
    values = {name: _plain(columns[name]) for name in Row._fields}
    values["tunnel"] = [_TUNNEL_NAMES[number] for number in values["tunnel"]]
    return [Row._make(row) for row in zip(*values.values(), strict=True)]


def _plain(column: np.ndarray) -> list:
    return [bytes(value) for value in column] if column.dtype.kind == "V" else column.tolist()
