# SPDX-License-Identifier: Apache-2.0
"""What many nodes report, as their agents make it: batches of every kind, numbered run by run.

How much a node sees differs much from node to node, so there are three classes of them.  Their
flows are taken from a few contents that were made before; what names a batch, its times and its
books are those of its node and interval.
"""

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from agent.backlog import Backlog
from agent.batch import Batcher
from agent.deliveries import Deliveries
from agent.outbox import BOOKS
from agent.spool import Waiting
from bench.flows import INTERVAL_NS, batches
from schemas.catalogue import RECORD_OF_KIND
from schemas.layout import NAME, TEXT, Record
from schemas.wire import Batch, Column, Names, no_text

BOOT = "5c0a31c2-6f0e-4d4e-9a5c-3c1f6f0f8e11"


@dataclass(frozen=True, slots=True)
class Class:
    """Nodes that see about as much; *percent* of all nodes are of it."""

    name: str
    percent: int
    flows: int  # rows an interval

    @property
    def rows(self) -> dict[str, int]:
        """Rows of each kind an interval, as far as they come of traffic.

        Every fifth flow is new, and reports its first packet; every tenth has a socket here that
        was opened or closed.
        """
        return {
            "flow": self.flows,
            "packet": -(-self.flows // 5),
            "socket": -(-self.flows // 10),
        }


CLASSES = (Class("small", 80, 10), Class("medium", 17, 100), Class("busy", 3, 1000))
# So many interfaces have books, in both directions.
INTERFACES = ("eth0", "wg0")
_CONTENTS = 8
_PROCESSES = 12
_STRIDE = 37  # coprime to 100, so that the classes of few nodes are mixed as well


def class_of(number: int) -> Class:
    place = number * _STRIDE % 100
    for one in reversed(CLASSES):
        if place < one.percent:
            return one
        place -= one.percent
    raise AssertionError  # unreachable: they are 100 percent


def mean_rows(kind: str) -> float:
    """Rows of a kind that a node makes in an interval."""
    return sum(one.percent * one.rows[kind] for one in CLASSES) / 100


class Contents:
    """Columns of traffic to choose from, the same ones in every run; times begin at 0."""

    def __init__(self) -> None:
        self._columns = {
            (one.name, kind): [_columns(kind, batch, rows) for batch in batches(_CONTENTS, rows)]
            for one in CLASSES
            for kind, rows in one.rows.items()
        }

    def of(self, node: "Node", kind: str, interval: int) -> dict[str, Column]:
        some = self._columns[node.of.name, kind]
        return some[(node.number + interval) % len(some)]


@dataclass(slots=True)
class Node:
    """One agent's identity and books, and its batches that wait for Kafka."""

    number: int
    interval_s: float
    run: str = field(default_factory=lambda: uuid.uuid4().hex)
    rows: Backlog = field(default_factory=Backlog)
    books: Backlog = field(default_factory=Backlog)
    intervals: int = 0
    made: dict[str, list[int]] = field(default_factory=dict)  # rows of each batch, by kind
    of: Class = field(init=False)
    name: str = field(init=False)
    _batcher: Batcher = field(init=False)
    _deliveries: Deliveries = field(init=False)

    def __post_init__(self) -> None:
        self.of = class_of(self.number)
        self.name = f"node-{self.number:05}"
        self._batcher = Batcher(self.name, BOOT, self.run)
        self._deliveries = Deliveries(self.run, 1)

    def begin(self, now_ns: int) -> None:
        """Report the interfaces, as an agent does when it has started."""
        columns = _zeros(RECORD_OF_KIND["interface"], len(INTERFACES))
        columns |= {"time": _times(now_ns, len(INTERFACES)), "interface": _interfaces(1)}
        self._tell(list(self._batcher.batches("interface", columns, _anchor(now_ns))))

    def close_interval(self, contents: Contents, now_ns: int) -> None:
        """Report the interval that ends now: rows first, then the books about them."""
        began_ns = now_ns - int(self.interval_s * 1e9)
        made = []
        for kind in self.of.rows:
            columns = self._now(contents.of(self, kind, self.intervals), began_ns, now_ns)
            made += self._batcher.batches(kind, columns, _anchor(now_ns))
        made += self._batcher.batches("ledger", self._ledger(began_ns, now_ns), _anchor(now_ns))
        waiting = {(one.run, one.kind): Waiting(1, one.rows) for one in made}
        self._tell(made)
        delivered = self._deliveries.columns(now_ns, waiting)
        self._tell(list(self._batcher.batches("delivery", delivered, _anchor(now_ns))))
        self.intervals += 1

    def _now(self, columns: Mapping[str, Column], began_ns: int, now_ns: int) -> dict[str, Column]:
        told = dict(columns)
        told["time"] = (columns["time"] * self.interval_s).astype("<i8") + began_ns
        if "end" in told:
            told["end"] = np.minimum(told["time"] + INTERVAL_NS, now_ns)
            # That of the last packet of the interval: by it one knows when the batch was made.
            told["end"][-1] = now_ns
        return told

    def _ledger(self, began_ns: int, now_ns: int) -> dict[str, Column]:
        points = 2 * len(INTERFACES)
        each = np.full(points, self.of.flows * 50 // points, "<u8")
        return _zeros(RECORD_OF_KIND["ledger"], points) | {
            "time": _times(began_ns, points),
            "end": _times(now_ns, points),
            "interface": _interfaces(2),
            "direction": np.tile(np.array([1, 2], "|u1"), len(INTERFACES)),
            **dict.fromkeys(("seen_packets", "flow_packets", "link_packets"), each),
            **dict.fromkeys(("seen_bytes", "flow_bytes", "link_bytes"), 700 * each),
            "flow_seq": np.full(points, self._batcher.next_seq("flow"), "<u8"),
        }

    def _tell(self, made: list[Batch]) -> None:
        self._deliveries.note_made(made)
        for one in made:
            self.made.setdefault(one.kind, []).append(one.rows)
            (self.books if one.kind in BOOKS else self.rows).add(one)


def _columns(kind: str, flows: Batch, rows: int) -> dict[str, Column]:
    """Columns of a kind that tell of traffic like that of *flows*, which are as many."""
    rng = np.random.default_rng(rows)
    known = dict(flows.columns) | _owners(rng, rows)
    known["time"] = np.sort(rng.integers(0, INTERVAL_NS, rows)).astype("<i8")
    known["start"], known["end"] = known["time"], known["time"]
    known["local_addr"], known["remote_addr"] = known["dst_addr"], known["src_addr"]
    known["local_port"], known["remote_port"] = known["dst_port"], known["src_port"]
    known["cookie"] = rng.integers(1, 1 << 40, rows).astype("<u8")
    known["bytes_sent"] = rng.integers(1, 1 << 20, rows).astype("<u8")
    known["srtt_us"] = rng.integers(50, 50_000, rows).astype("<u4")
    known["header"] = _headers(known, rng, rows)
    columns = _zeros(RECORD_OF_KIND[kind], rows)
    return columns | {
        name: _as_typed(known[name], column) for name, column in columns.items() if name in known
    }


def _as_typed(values: Column, like: Column) -> Column:
    if isinstance(values, np.ndarray) and isinstance(like, np.ndarray):
        return values if values.dtype == like.dtype else values.astype(like.dtype)
    return values


def _owners(rng: np.random.Generator, rows: int) -> dict[str, Column]:
    codes = (rng.zipf(1.5, rows) % _PROCESSES).astype("|u1")
    names = [f"service-{number}" for number in range(_PROCESSES)]
    return {
        "pid": codes.astype("<u4") + 1000,
        "uid": codes.astype("<u4"),
        "command": Names(codes, tuple(names)),
        "unit": Names(codes, tuple(f"{one}.service" for one in names)),
        "cgroup": Names(codes, tuple(f"/system.slice/{one}.service" for one in names)),
        "container": Names(codes % 2, ("", f"{7:064x}")),
    }


def _headers(known: Mapping[str, Column], rng: np.random.Generator, rows: int) -> np.ndarray:
    """Headers of which most bytes are alike, as those of one interface are."""
    content = np.zeros((rows, 96), np.uint8)
    content[:, :26] = np.frombuffer(bytes(range(12)) + b"\x08\x00\x45" + bytes(11), np.uint8)
    content[:, 26:30] = known["src_addr"].view(np.uint8).reshape(rows, 16)[:, 12:]
    content[:, 30:34] = known["dst_addr"].view(np.uint8).reshape(rows, 16)[:, 12:]
    content[:, 34:46] = rng.integers(0, 256, (rows, 12))
    return content.view("|V96").reshape(rows)


def _zeros(record: Record, rows: int) -> dict[str, Column]:
    columns: dict[str, Column] = {}
    for one in record.fields:
        if one.kind is NAME:
            columns[one.name] = Names(np.zeros(rows, "|u1"), ("",))
        elif one.kind is TEXT:
            columns[one.name] = no_text(rows)
        else:
            columns[one.name] = np.zeros(rows, one.kind.numpy)
            if one.kind.allowed:
                columns[one.name][:] = min(one.kind.allowed)
    return columns


def _interfaces(each: int) -> Names:
    return Names(np.repeat(np.arange(len(INTERFACES), dtype="|u1"), each), INTERFACES)


def _times(at_ns: int, rows: int) -> np.ndarray:
    return np.full(rows, at_ns, "<i8")


def _anchor(now_ns: int) -> dict[str, int]:
    return {"monotonic_ns": now_ns, "wall_ns": now_ns}


def a_fleet(count: int, interval_s: float) -> Iterator[Node]:
    for number in range(count):
        yield Node(number, interval_s)
