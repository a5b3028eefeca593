# SPDX-License-Identifier: Apache-2.0
"""What each station has counted, of one interface and direction, or of one run's batches.

Packets pass five stations.  The interface counts them, the hook in the kernel sees them, the agent
makes rows of them, Kafka keeps the rows, and ClickHouse stores them.  Whatever is not at the next
station must be named: as lost, or as under way when the period ended.
"""

from dataclasses import dataclass, field
from typing import NamedTuple


class Place(NamedTuple):
    """One interface and direction of one node."""

    node: str
    interface: str
    direction: str


class RunAndKind(NamedTuple):
    """The batches of one kind that one run of an agent has made."""

    node: str
    run: str
    kind: str


@dataclass(frozen=True, slots=True)
class Amount:
    """Packets and their bytes."""

    packets: int = 0
    bytes: int = 0

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(self.packets + other.packets, self.bytes + other.bytes)

    def __sub__(self, other: "Amount") -> "Amount":
        return Amount(self.packets - other.packets, self.bytes - other.bytes)


NOTHING = Amount()


@dataclass(slots=True)
class Stations:
    """What was counted at one place in one period."""

    interface: Amount = NOTHING
    kernel: Amount = NOTHING
    # Of `kernel`, what an interface may count otherwise: more than one segment of super-packets.
    extra: Amount = NOTHING
    rows: Amount = NOTHING
    lost: Amount = NOTHING  # rows that the agent gave up, also of before the period
    overflow: Amount = NOTHING  # of `rows`, what is told without its flow
    dropped: Amount = NOTHING  # of `kernel`, what rules refused
    dropped_extra: Amount = NOTHING  # of `extra`, the same
    clickhouse: Amount = NOTHING
    kafka: Amount | None = None  # None where Kafka does not have all of the period any more
    # What the kernel saw in the interval before the period, and in its last one.
    before: Amount = NOTHING
    latest: Amount = NOTHING
    # Of `kernel`, what was seen while nobody read the interface's counters.
    unread: Amount = NOTHING
    is_at_xdp: bool = False


class Span(NamedTuple):
    """Batches by their number, from *first* up to *next*."""

    first: int
    next: int

    def __contains__(self, seq: object) -> bool:
        return isinstance(seq, int) and self.first <= seq < self.next

    def __len__(self) -> int:
        return self.next - self.first


@dataclass(slots=True)
class Batches:
    """What became of the batches of one run and kind that were made in the period."""

    span: Span
    made_rows: int = 0
    lost: int = 0
    spooled: int = 0
    stored: int = 0
    stored_rows: int = 0
    kafka: int | None = None
    has_ended: bool = False


@dataclass(slots=True)
class Refusals:
    """What rules on one node refused in the period, as its ledger and as its rules tell."""

    ledger: Amount = NOTHING
    rules: dict[str, Amount] = field(default_factory=dict)
    # What was refused in the interval before the period, and in its last one.
    before: Amount = NOTHING
    latest: Amount = NOTHING


@dataclass(slots=True)
class Books:
    """Everything about one period; the flows of *flow_spans* are those of its intervals."""

    from_ns: int
    until_ns: int
    stations: dict[Place, Stations] = field(default_factory=dict)
    batches: dict[RunAndKind, Batches] = field(default_factory=dict)
    flow_spans: dict[tuple[str, str], Span] = field(default_factory=dict)
    refusals: dict[str, Refusals] = field(default_factory=dict)

    def at(self, place: Place) -> Stations:
        return self.stations.setdefault(place, Stations())
