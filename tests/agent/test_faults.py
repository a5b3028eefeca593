# SPDX-License-Identifier: Apache-2.0
"""Agents that end between any two lines, and disks that fail at any call, lose nothing.

The kernel is a model, everything else is real: the observer, the journal, the checkpoint in pinned
maps, the spool on a disk.  An agent is a child that is killed at a line of its code, or whose
system calls fail.  What it had sent is in a file that stands for Kafka.
"""

import errno
import os
import random
import secrets
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from agent.batch import Batcher
from agent.checkpoint import Checkpoint
from agent.clock import Anchor
from agent.deliveries import Deliveries
from agent.interfaces import Interface
from agent.journal import Identity, Journal
from agent.ledger import Ledger
from agent.observer import Observer
from agent.outbox import Outbox
from agent.plan import Pins, Sizes, remove_all, root_of
from agent.points import number_points
from agent.register import Register
from agent.spool import Spool
from agent.succession import Predecessors
from schemas.wire import Batch, decode
from tests.agent.kernel_model import KernelModel, Reader
from tests.lab.links import PREFIX

pytestmark = pytest.mark.kernel

SPOOL_BYTES = 8 << 20
POINTS = 3
WAYS = 4
TRACED = ("batch", "checkpoint", "deliveries", "flowcache", "journal", "ledger", "observer")
TRACED += ("outbox", "segments", "spool", "succession")


class World:
    """The kernel, the pins, the disk and Kafka: what outlives an agent."""

    def __init__(self, directory: Path) -> None:
        self.kernel = KernelModel(ways=WAYS, room=3)
        self.directory = directory
        self.kafka = directory / "kafka"
        self.kafka.touch()
        self.pins = Pins(root_of(f"{PREFIX}{os.getpid()}-{secrets.token_hex(3)}"), "faults")
        self.pins.make()
        Register.pinned(self.pins, POINTS)
        self._packets = random.Random(f"packets of {directory.name}")

    def packets(self, count: int) -> None:
        for _ in range(count):
            self.kernel.packet(self._packets.randrange(9))

    def published(self) -> list[Batch]:
        """Every batch that Kafka has, once."""
        found = {}
        for line in self.kafka.read_text().split():
            batch = decode(bytes.fromhex(line))
            found[batch.run, batch.kind, batch.seq] = batch
        return list(found.values())

    @property
    def truth(self) -> tuple[int, int]:
        return self.kernel.truth["packets"], self.kernel.truth["bytes"]


class Mortal:
    """One agent in this world, as `agent/assembly.py` puts it together."""

    def __init__(self, world: World) -> None:
        self._world = world
        points = number_points(
            [Interface("veth0", 7, is_up=True, link_bytes=14, is_hardware=False)]
        )
        sizes = Sizes("ring", 1, WAYS, points.capacity, 1, 4096, 8)
        self.outbox = Outbox(world.directory / "spool", SPOOL_BYTES)
        predecessors = Predecessors.of(world.pins)
        identity = Identity("web-1", "boot", secrets.token_hex(4), (1, 2))
        deliveries = Deliveries(identity.run, 0)
        self.ledger = Ledger(points, 0)
        buffers = {"evictions": Reader(world.kernel), "packets": Reader(KernelModel())}
        self.observer = Observer(
            world.pins,
            points,
            batcher=Batcher(identity.node, identity.boot_id, identity.run),
            ledger=self.ledger,
            maps=world.kernel,
            clock=Clock(),
            open_buffer=lambda name, _: buffers[name],
        )
        predecessors.hand_over(self.outbox, deliveries, self.observer)
        self.journal = Journal(
            self.outbox,
            Checkpoint(world.pins, WAYS),
            deliveries,
            identity=identity,
            sizes=sizes,
            on_told=lambda: None,
        )
        self.journal.tell([], self.observer)

    def live(self, intervals: int = 2) -> None:
        """Close some intervals, and publish."""
        for _ in range(intervals):
            self.journal.try_again()
            if self.journal.has_room:
                self.journal.make_room(self.ledger)
                self.journal.close(list(self.observer.close_interval()), self.observer)
            for sync in self.outbox.syncing():
                with suppress(OSError):
                    sync()
            self.publish()

    def publish(self) -> None:
        for log in self.outbox.logs.values():
            while entries := log.peek(3):
                with self._world.kafka.open("a") as kafka:
                    for entry in entries:
                        kafka.write(f"{entry.payload.hex()}\n")
                log.acknowledge(len(entries))


CUTS = {
    "write": (os, "writev"),
    "sync": (os, "fsync"),
    "cut": (os, "ftruncate"),
    "delete": (Path, "unlink"),
    "commit": (Checkpoint, "commit"),
    "send": (Mortal, "publish"),
    "acknowledge": (Spool, "acknowledge"),
}


class Clock:
    """One moment, always."""

    def anchor(self) -> Anchor:
        return Anchor(jiffies=0, monotonic_ns=0, wall_ns=10**18, tick_ns=4_000_000)

    def begin_interval(self) -> None:
        """The model has none."""


@pytest.fixture
def world(tmp_path) -> Iterator[World]:
    made = World(tmp_path)
    try:
        yield made
    finally:
        remove_all(made.pins.root)


def in_a_child(life: Callable[[], None]) -> int:
    """Live in a process of its own; the signal that ended it, 0 where it came to its end."""
    pid = os.fork()
    if not pid:
        try:
            life()
        except BaseException as error:  # noqa: BLE001 - it must not return into the test
            sys.stderr.write(f"{error!r}\n")
            os._exit(1)
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def killed_at(line: int) -> None:
    """Have this process killed before so many further lines of the agent's code have run."""
    left = [line]
    files = tuple(f"/agent/{name}.py" for name in TRACED)

    def trace(frame, event, _):
        if not frame.f_code.co_filename.endswith(files):
            return None
        if event == "line":
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)


def lines_of_a_life(world: World) -> int:
    """How many lines an agent of this world runs."""
    count = world.directory / "lines"

    def life() -> None:
        lines = [0]
        files = tuple(f"/agent/{name}.py" for name in TRACED)

        def trace(frame, event, _):
            if not frame.f_code.co_filename.endswith(files):
                return None
            lines[0] += event == "line"
            return trace

        sys.settrace(trace)
        Mortal(world).live()
        sys.settrace(None)
        count.write_text(str(lines[0]))

    assert in_a_child(life) == 0
    return int(count.read_text())


def assert_nothing_is_lost(world: World) -> None:
    """An agent that is left alone makes the books balance, and every batch has its number."""
    Mortal(world).live(4)
    batches = world.published()
    sums = dict.fromkeys(("packets", "bytes", "seen_packets", "flow_packets"), 0)
    for batch in batches:
        for name in sums.keys() & batch.columns.keys():
            sums[name] += int(np.asarray(batch.columns[name]).sum())
    seqs: dict[tuple[str, str], list[int]] = {}
    for batch in batches:
        seqs.setdefault((batch.run, batch.kind), []).append(batch.seq)

    packets, in_bytes = world.truth
    assert (sums["packets"], sums["bytes"]) == (packets, in_bytes)
    assert (sums["seen_packets"], sums["flow_packets"]) == (packets, packets)
    assert all(sorted(found) == list(range(len(found))) for found in seqs.values())


def test_an_agent_may_be_killed_at_any_line(world):
    world.packets(20)
    lines = lines_of_a_life(world)
    seed = secrets.randbits(32)
    print(f"seed {seed}: {lines} lines")
    moments = random.Random(seed)

    ends = set()
    for _ in range(120):
        world.packets(5)
        line = moments.randrange(1, lines)

        def life(line: int = line) -> None:
            killed_at(line)
            Mortal(world).live()

        ends.add(in_a_child(life))

    assert signal.SIGKILL in ends
    assert_nothing_is_lost(world)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("point", CUTS)
def test_an_agent_may_be_killed_at_each_point(world, point, when):
    def life() -> None:
        cut_at(*CUTS[point], when=when)
        mortal = Mortal(world)
        if point == "delete":
            for log in mortal.outbox.logs.values():
                log.spool._segment_bytes = 1
        if point == "sync":
            # What Kafka has already is not brought onto the disk any more.
            mortal.publish = lambda: None
        mortal.live(3)

    def unfinished() -> None:
        """Leaves entries behind that never became valid, which its successor cuts off."""
        mortal = Mortal(world)
        mortal.live(1)
        world.packets(20)
        cut_at(Checkpoint, "commit", when="before")
        mortal.live(1)

    world.packets(20)
    assert in_a_child(unfinished) == signal.SIGKILL
    world.packets(20)

    assert in_a_child(life) == signal.SIGKILL
    assert_nothing_is_lost(world)


def cut_at(owner: object, name: str, *, when: str) -> None:
    """Have this process killed at the first call."""
    whole = getattr(owner, name)

    def cut(*arguments: object, **named: object) -> None:
        if when == "after":
            whole(*arguments, **named)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, name, cut)


@contextmanager
def failing(calls: tuple[str, ...], error: int) -> Iterator[None]:
    """The calls of these names fail, as those of a disk without room or with a fault do."""
    real = {name: getattr(os, name) for name in calls}

    def failed(name: str, *arguments: object, **_: object) -> None:
        if name == "writev":
            # A disk that is full takes a part first.
            real[name](arguments[0], [bytes(arguments[1][0])[:7]])
        raise OSError(error, os.strerror(error))

    for name in calls:
        setattr(os, name, partial(failed, name))
    try:
        yield
    finally:
        for name, call in real.items():
            setattr(os, name, call)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO], ids=errno.errorcode.get)
@pytest.mark.parametrize(
    "calls", [("open",), ("writev",), ("writev", "ftruncate"), ("fsync",)], ids=" ".join
)
def test_a_disk_that_fails_makes_rows_wait_in_the_kernel(world, calls, error):
    mortal = Mortal(world)
    mortal.live(1)
    for log in mortal.outbox.logs.values():
        # So that the next entry opens a file.
        log.spool._segment_bytes = 1
    for _ in range(3):
        world.packets(7)
        with failing(calls, error):
            mortal.live(2)
            assert mortal.journal.has_room == (calls == ("fsync",))
        mortal.live(1)
    mortal.outbox.__exit__()

    assert_nothing_is_lost(world)


def test_a_full_spool_names_what_it_gives_up(world):
    mortal = Mortal(world)
    rows = mortal.outbox.logs["rows"].spool
    rows._most_bytes, rows._segment_bytes = 100_000, 10_000
    mortal.publish = lambda: None
    for _ in range(200):
        world.packets(12)
        mortal.live(1)
    assert rows.size_bytes <= 100_000 + 10_000
    Mortal.publish(mortal)
    Mortal(world).live(3)
    batches = world.published()

    def total(name: str) -> int:
        return sum(
            int(np.asarray(one.columns[name]).sum()) for one in batches if name in one.columns
        )

    packets, in_bytes = world.truth
    assert total("lost_packets") > 0
    assert total("packets") + total("lost_packets") == packets
    assert total("bytes") + total("lost_bytes") == in_bytes
    assert total("seen_packets") == total("flow_packets") == packets
    flows = [one for one in batches if one.kind == "flow"]
    made = max(one.seq for one in flows) + 1
    lost = last_told_lost(batches)
    assert lost["flow"] == made - len(flows)
    assert lost["ledger"] == 0


def last_told_lost(batches: list[Batch]) -> dict[str, int]:
    """What the run of most flows told last that it had lost, by kind."""
    [run, _] = Counter(one.run for one in batches if one.kind == "flow").most_common(1)[0]
    lost = {}
    for told in (one.columns for one in batches if one.kind == "delivery"):
        names = (
            [told[name].categories[code] for code in told[name].codes]
            for name in ("of_run", "of_kind")
        )
        for of_run, of_kind, count in zip(*names, told["lost"].tolist(), strict=True):
            if of_run == run:
                lost[of_kind] = max(count, lost.get(of_kind, 0))
    return lost
