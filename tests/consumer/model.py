# SPDX-License-Identifier: Apache-2.0
"""A partition, a consumer group and a ClickHouse small enough to fail at every step.

What a consumer asks of them is a *step*.  A script says of each step how it ends: as it should, or
with the death of the consumer before or after it, or with an error that is not the truth.  A
consumer may also be paused in a step, for as long as it takes others to store everything; then the
step happens after all.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from math import inf
from typing import Any

import numpy as np

from consumer.metrics import Metrics
from consumer.pipeline import Pipeline
from consumer.plan import insert_token
from consumer.positions import Position
from consumer.presence import missing, name_of, rows_by_day
from consumer.record import Accepted, Record
from consumer.sink import BlockRefused, SinkUnavailable
from consumer.source import Fetched
from schemas import wire
from schemas.flow import FLOW

PARTITION = (FLOW.topic, 0)
DAY_NS = 86_400 * 10**9
NODE = "web-1"
METRICS = Metrics([FLOW])


class Died(BaseException):
    """The consumer is gone, or paused, which is the same to it."""


@dataclass(frozen=True)
class Sent:
    """A batch as an agent sends it: how many rows of each day."""

    run: str
    seq: int
    rows: tuple[int, ...] = (1,)
    is_poison: bool = False

    def payload(self) -> bytes:
        times = np.repeat(np.arange(len(self.rows)), self.rows) * DAY_NS
        return wire.encode(
            wire.Batch(
                kind="flow",
                node=NODE,
                boot_id="b",
                run=self.run,
                seq=self.seq,
                anchor={},
                rows=sum(self.rows),
                columns={"time": times.astype("<i8")},
            )
        )


@dataclass
class World:
    """All that outlives a consumer."""

    log: list[Sent | None]  # None is a record that cannot be decoded
    poison: set[tuple[str, str, int]]
    window: int = 10_000
    mark: tuple[int, str] | None = None
    generation: int = 0
    stored: Counter[tuple[Any, int]] = field(default_factory=Counter)
    tokens: OrderedDict[tuple[int, str], None] = field(default_factory=OrderedDict)
    summed: Counter[tuple[Any, int]] = field(default_factory=Counter)
    tokens_of_sums: set[tuple[str, str]] = field(default_factory=set)
    letters: Counter[int] = field(default_factory=Counter)
    paused: list[Callable[[], None]] = field(default_factory=list)

    def commit(self, mark: tuple[int, str], generation: int) -> bool:
        if generation != self.generation:
            return False
        self.mark = mark
        return True

    def insert(
        self, batches: Sequence[wire.Batch], token: str, *, parts: float = inf, is_cut: bool = False
    ) -> None:
        """Store the rows of each day by itself; *parts* is how many days, where the server dies.

        *is_cut* where it dies with the token of the last of them, and without its rows.
        """
        if any(name_of(batch) in self.poison for batch in batches):
            raise BlockRefused("poison")
        by_day: dict[int, Counter[tuple[Any, int]]] = {}
        for batch in batches:
            for day, rows in rows_by_day(batch).items():
                by_day.setdefault(day, Counter())[name_of(batch), day] += rows
        parts = min(parts, len(by_day))
        for number, day in enumerate(sorted(by_day)[: int(parts)], 1):
            if (day, token) not in self.tokens and not (is_cut and number == parts):
                self.stored += by_day[day]
            self.tokens[day, token] = None
            while len(self.tokens) > self.window:
                self.tokens.popitem(last=False)

    def add_sums(self, accepted: Sequence[Accepted], whose: str) -> None:
        """Sum up; a rollup does not know what one of the two ways added by the other's token."""
        name = (whose, insert_token(accepted))
        for one in () if name in self.tokens_of_sums else accepted:
            for day, rows in rows_by_day(one.rows).items():
                self.summed[name_of(one.rows), day] += rows
        self.tokens_of_sums.add(name)

    def find(self, batches: Sequence[wire.Batch]) -> dict[Any, dict[int, int]]:
        found: dict[Any, dict[int, int]] = {}
        wanted = {name_of(batch) for batch in batches}
        for (name, day), rows in self.stored.items():
            if name in wanted:
                found.setdefault(name, {})[day] = rows
        return found

    def wake_one(self) -> None:
        """Let a paused consumer do what it was about to do."""
        if self.paused:
            with suppress(BlockRefused):
                self.paused.pop(0)()


class Consumer:
    """One life of a consumer: real pipeline, lanes, writers, between steps of *world*."""

    def __init__(
        self, world: World, next_end: Callable[[str], str], max_rows: int, *, sums: bool = True
    ) -> None:
        self._world = world
        self._next_end = next_end
        world.generation += 1
        self._generation = world.generation
        self.pipeline = Pipeline(
            self, self, METRICS, kinds=[FLOW], max_rows=max_rows, max_age_s=3600, sums=sums
        )

    async def live(self) -> None:
        """Read the log from what is committed to its end, and store it."""
        at, metadata = self._world.mark or (0, "")
        end = len(self._world.log)
        position = Position(at, metadata, 0, end, is_committed=self._world.mark is not None)
        await self.pipeline.take_over(self, 1, {PARTITION: position})
        records = [
            Record(*PARTITION, offset, 0, None, sent.payload() if sent else b"\xc1")
            for offset, sent in enumerate(self._world.log)
            if offset >= at
        ]
        await self.pipeline._take(Fetched(1, [records]))
        await self.pipeline._end(5.0)
        if self.pipeline._failure.done():
            self.pipeline._failure.result()

    def _step(
        self,
        what: str,
        effect: Callable[[], Any],
        half: Callable[[bool], None] = lambda _: None,
    ) -> Any:
        match self._next_end(what):
            case "dies before":
                raise Died
            case "dies after":
                effect()
                raise Died
            case "pauses":
                self._world.paused.append(effect)
                raise Died
            case "fails":
                raise SinkUnavailable("nothing done")
            case "answer is lost":
                effect()
                raise SinkUnavailable("done")
            case "server dies" | "server dies before the rows" as how:
                half(how.endswith("rows"))
                raise SinkUnavailable("half done")
            case "both die" | "both die before the rows" as how:
                half(how.endswith("rows"))
                raise Died
            case "view refuses":
                effect()
                raise BlockRefused("though the table has the rows")
            case "another wakes":
                self._world.wake_one()
        return effect()

    async def commit(self, marks, *, assignment):
        """What a source does."""
        del assignment
        [(partition, mark)] = marks.items()
        assert partition == PARTITION
        return self._step("commit", lambda: self._world.commit(mark, self._generation))

    async def insert(self, kind, accepted, *, until_s, is_summed):
        """What a sink does; and what views do, where it leaves the sums to them."""
        del kind, until_s

        batches, token = [one.rows for one in accepted], insert_token(accepted)

        def insert() -> None:
            self._world.insert(batches, token)
            if not is_summed:
                self._world.add_sums(accepted, "views'")

        def half(is_cut: bool) -> None:  # noqa: FBT001  # one of two ways to die
            self._world.insert(batches, token, parts=1, is_cut=is_cut)

        self._step("insert", insert, half)
        if is_summed:
            self._step("sums", lambda: self._world.add_sums(accepted, "ours"))

    async def complete(self, kind, accepted, *, until_s):
        """Likewise; between what it finds and what it stores it may be paused for long."""
        del kind, until_s
        batches, token = [one.rows for one in accepted], f"again {insert_token(accepted)}"
        lost = missing(batches, self._world.find(batches))
        if lost:
            self._step("complete", lambda: self._world.insert(lost, token))
        return sum(batch.rows for batch in lost)

    async def find(self, kind, batches):
        del kind
        return self._step("find", lambda: self._world.find(batches))

    async def is_empty(self, kind):
        del kind
        return not self._world.stored

    async def put(self, rejected):
        """What a quarantine does."""
        if rejected:
            offsets = [one.record.offset for one in rejected]
            self._step("put", lambda: self._world.letters.update(offsets))
