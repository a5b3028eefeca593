# SPDX-License-Identifier: Apache-2.0
"""Keeps the rules of one agent: takes changes, puts them in force, ends what has ended.

    change -> tables -> record on the disk -> kernel

A change applies as a whole or not at all.  Tables are made in a thread, since a list of a hundred
thousand networks takes a moment; packets and rows do not wait for it.
"""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import numpy as np

from agent.clock import Anchor
from agent.points import HookPoints
from agent.rows import Rows
from agent.rules.allowed import AllowList
from agent.rules.kernel import LAST_PACKETS_SECONDS, KernelRules
from agent.rules.record import COUNTERS, Counts, Kept, Left, Record, RecordFile
from agent.rules.slots import Slots
from agent.rules.tables import Placed, Points, Tables, point_masks, tables_of
from schemas.refusal import RULE_SLOTS
from schemas.rules.allow import Allowed, conflicts
from schemas.rules.boxes import Box, boxes_of
from schemas.rules.decide import in_order
from schemas.rules.rule import Rule, RuleError

log = logging.getLogger(__name__)

ORIGINS = ("local", "file", "network")
_LOOK_SECONDS = 0.5
# Sessions and brokers change; while there are rules, we look again.
_ALLOW_LIST_SECONDS = 10.0


class RefusedChange(RuleError):  # noqa: N818  # it says what becomes of the change
    """A change that makes no sense, or would cut off what no rule may; the text is one line."""


@dataclass(frozen=True, slots=True)
class Change:
    """What somebody wants of the rules: put these, remove those.

    With *replaces*, rules that came by the same origin and are not put are removed as well.
    """

    put: Sequence[Rule] = ()
    remove: Sequence[str] = ()
    origin: str = "local"
    replaces: bool = False
    despite_allowed: bool = False
    revision: int | None = None  # that it was thought out for
    # Of orders from the network by the rule's name: serial and end, so that none is obeyed twice.
    serials: Mapping[str, tuple[int, int]] = field(default_factory=dict)


class Keeper:
    """The rules of one agent."""

    def __init__(
        self,
        kernel: KernelRules,
        file: RecordFile,
        layout: str,
        *,
        allow_list: AllowList,
        points: HookPoints,
        anchor: Callable[[], Anchor],
    ) -> None:
        """*layout* names the maps that count; *anchor* is asked what time it is in the kernel."""
        self._kernel = kernel
        self._file = file
        self._layout = layout
        self._allow_list = allow_list
        self._points = points
        self._anchor = anchor
        self._turn = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._allowed = Allowed()
        self._record = Record()
        self._slots = Slots((), time.monotonic)
        self._tables: Tables | None = None
        self._looked_at = 0.0
        self._boxes: dict[str, tuple[Rule, tuple[Box, ...]]] = {}
        self._leaving: list[Left] = []
        self._former_layout = ""
        self._names: dict[int, str] = {}

    async def begin(self, layouts: Collection[str]) -> None:
        """Put in force what the record holds; before anything is attached.

        *layouts* name the maps that agents before us have left, and that count on.
        """
        former = record = self._file.read()
        self._former_layout = record.layout
        if record.layout not in layouts:
            # What the rules had counted has gone with its maps, after it was told.
            record = record.begun_anew(time.time_ns())
        self._record = record = replace(record, layout=self._layout)
        self._slots = Slots((one.slot for one in record.rules.values()), time.monotonic)
        self._name_slots(record.rules.values())
        if not record.rules and not self._kernel.is_on:
            return
        async with self._turn:
            try:
                if record != former:
                    self._file.write(record)
                await self._put(record.rules.values())
            except (RuleError, OSError) as error:
                log.error(  # noqa: TRY400  # the place in our code says nothing here
                    "rules cannot be put in force", extra={"reason": str(error)}
                )

    def carry_over(self, layout: str, counted: Rows) -> None:
        """Go on from what rules had counted in maps of another layout, (cpus, slots).

        Raises:
            OSError: the record cannot be written.
        """
        if layout != self._former_layout:
            return
        counts = _by_slot(counted, range(counted.shape[1]))
        rules = {
            name: replace(one, before=_added(one.before, counts(one.slot)))
            for name, one in self._record.rules.items()
        }
        self._record = replace(self._record, rules=rules)
        self._file.write(self._record)

    async def change(self, change: Change) -> int:
        """Carry out a change; the number of the record that it makes.

        Raises:
            RefusedChange: nothing of it was done.
            OSError: the record cannot be written, or the kernel has no room; nothing was done.
        """
        async with self._turn:
            now_ns = time.time_ns()
            self._check(change, now_ns)
            self._allowed = await asyncio.to_thread(self._allow_list.look)
            await asyncio.to_thread(self._check_allowed, change)
            removed = self._removed_by(change)
            left = [one for name, one in self._record.rules.items() if name not in removed]
            put = {rule.name: rule for rule in change.put}
            kept, fresh = self._kept(left, put, change.origin, now_ns)
            staying = {one.rule.name: one for one in kept}
            gone = [one for name, one in self._record.rules.items() if staying.get(name) != one]
            # A header may come before we are done.
            self._name_slots(fresh)
            try:
                await self._make(self._record.changed(kept, change.serials, now_ns))
            except BaseException:
                self._slots.give_back(one.slot for one in fresh)
                raise
            await self._leave(gone, "removed")
            log.info(
                "rules changed",
                extra={
                    "put": ",".join(sorted(put))[:200],
                    "removed": ",".join(sorted(removed))[:200],
                    "origin": change.origin,
                    "rules": len(kept),
                },
            )
            return self._record.revision

    @asynccontextmanager
    async def keeping(self) -> AsyncIterator[None]:
        """Meanwhile rules that have ended leave, and the allow list follows what it is made of."""
        self._task = asyncio.create_task(self._keep())
        try:
            yield
        finally:
            # Not in the middle of a change, of which the record and the rows must both know.
            async with self._turn:
                self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def raise_if_failed(self) -> None:
        """Pass on what ended the keeping, which goes on over all that may pass."""
        if self._task is not None and self._task.done():
            self._task.result()

    def follow(self) -> None:
        """Interfaces have come, gone or changed their names: have rules know them by those."""
        if self._tables is None or not any(box.interfaces for box in self._tables.bits):
            return
        self._kernel.put_points(point_masks(self._tables.bits, self._points_now()))

    @property
    def rules(self) -> list[Kept]:
        """All that there are."""
        return list(self._record.rules.values())

    def take_left(self) -> list[Left]:
        """Those that have left since the last time this was asked."""
        left, self._leaving = self._leaving, []
        return left

    def counted(self, rules: Iterable[Kept]) -> Callable[[Kept], Counts]:
        """What each of *rules* has counted by now."""
        slots = [one.slot for one in rules]
        counts = _by_slot(self._kernel.counted(slots), slots)
        return lambda kept: _added(kept.before, counts(kept.slot))

    @property
    def serials(self) -> Mapping[str, tuple[int, int]]:
        """The newest order from the network for each name, by its serial, and when that ends."""
        return self._record.serials

    @property
    def revision(self) -> int:
        return self._record.revision

    @property
    def allowed(self) -> Allowed:
        """What no rule cuts off, as it was when it was looked at last."""
        return self._allowed

    def name_of(self, slot: int) -> str:
        """The rule that is counted in a slot, or was until lately."""
        return self._names.get(slot, "")

    async def look_at_allowed(self) -> Allowed:
        """What no rule cuts off, now."""
        self._allowed = await asyncio.to_thread(self._allow_list.look)
        return self._allowed

    def _check(self, change: Change, now_ns: int) -> None:
        if change.origin not in ORIGINS:
            raise RefusedChange(f"{change.origin!r} is no origin; it is one of {ORIGINS}")
        if change.revision is not None and change.revision != self._record.revision:
            raise RefusedChange(
                "the rules have changed meanwhile; look at them again, then say what you want"
            )
        names = Counter(rule.name for rule in change.put)
        for name, times in names.most_common(1):
            if times > 1:
                raise RefusedChange(f"rule {name} is put {times} times; name the others otherwise")
        for rule in change.put:
            if rule.is_over(now_ns):
                raise RefusedChange(f"rule {rule.name} has ended already; give it a later end")
            former = self._record.rules.get(rule.name)
            if former is not None and former.origin != change.origin:
                raise RefusedChange(
                    f"rule {rule.name} came by another way ({former.origin}); name yours otherwise"
                )
        for name in change.remove:
            if name not in self._record.rules:
                raise RefusedChange(f"there is no rule {name}; `hookline drop list` shows all")

    def _check_allowed(self, change: Change) -> None:
        if change.despite_allowed:
            return
        for rule in change.put:
            if reasons := conflicts(rule, self._allowed):
                raise RefusedChange(
                    f"rule {rule.name} would refuse packets of: {', '.join(reasons)[:500]};"
                    " narrow it, or add --despite-allowed: these then pass all the same"
                )

    def _removed_by(self, change: Change) -> set[str]:
        removed = set(change.remove)
        if change.replaces:
            removed |= {
                name for name, one in self._record.rules.items() if one.origin == change.origin
            }
        return removed

    def _kept(
        self, left: Iterable[Kept], put: Mapping[str, Rule], origin: str, now_ns: int
    ) -> tuple[list[Kept], list[Kept]]:
        """All rules after a change, and those of them that begin to count."""
        former = self._record.rules
        same = [
            former[name]
            for name, rule in put.items()
            if name in former and former[name].rule == rule
        ]
        kept = [one for one in left if one.rule.name not in put] + same
        new = [
            rule for name, rule in put.items() if name not in former or former[name].rule != rule
        ]
        slots = self._slots.take(len(new))
        if slots is None:
            raise RefusedChange(f"more than {RULE_SLOTS - 1} rules do not fit; remove some")
        fresh = [Kept(rule, origin, slot, now_ns) for rule, slot in zip(new, slots, strict=True)]
        return kept + fresh, fresh

    async def _make(self, record: Record) -> None:
        """Have the record and the kernel say the same; nothing has changed where this fails."""
        former, record = self._record, replace(record, layout=self._layout)
        known = {one.slot for one in former.rules.values()}
        for one in record.rules.values():
            if one.slot not in known:
                self._kernel.clear(one.slot)
        tables = await asyncio.to_thread(self._tables_of, record.rules.values())
        await asyncio.to_thread(self._file.write, record)
        try:
            await self._enforce(tables)
        except OSError:
            await asyncio.to_thread(self._file.write, former)
            raise
        self._record = record

    async def _put(self, kept: Iterable[Kept]) -> None:
        self._allowed = await asyncio.to_thread(self._allow_list.look)
        tables = await asyncio.to_thread(self._tables_of, kept)
        await self._enforce(tables)

    async def _enforce(self, tables: Tables) -> None:
        await asyncio.to_thread(self._kernel.put, tables)
        self._tables = tables
        self._looked_at = time.monotonic()
        # Interfaces may have come while the tables were made.
        self.follow()

    def _tables_of(self, kept: Iterable[Kept]) -> Tables:
        points = self._points_now()
        by_name = {one.rule.name: one for one in kept}
        rules = in_order(one.rule for one in by_name.values())
        self._boxes = {rule.name: self._boxes_of(rule) for rule in rules}
        placed = [
            Placed(rule, self._boxes[rule.name][1], by_name[rule.name].slot) for rule in rules
        ]
        anchor = self._anchor()
        return tables_of(self._allowed.boxes, placed, points, anchor.jiffies_at)

    def _boxes_of(self, rule: Rule) -> tuple[Rule, tuple[Box, ...]]:
        """Those of the rule, which are not made again with every change of another."""
        known = self._boxes.get(rule.name)
        return known if known and known[0] is rule else (rule, boxes_of(rule))

    def _points_now(self) -> Points:
        return Points(self._points.names(), self._points.directions)

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            try:
                async with self._turn:
                    await self._end_what_has_ended()
                    await self._follow_allowed()
            except (RuleError, OSError) as error:
                log.warning("rules cannot be brought up to date", extra={"reason": str(error)})

    async def _end_what_has_ended(self) -> None:
        now_ns = time.time_ns()
        ended = [one for one in self._record.rules.values() if one.rule.is_over(now_ns)]
        if not ended:
            return
        names = {one.rule.name for one in ended}
        left = [one for name, one in self._record.rules.items() if name not in names]
        await self._make(self._record.changed(left, {}, now_ns))
        await self._leave(ended, "expired")
        log.info("rules have ended", extra={"rules": ",".join(sorted(names))[:200]})

    async def _follow_allowed(self) -> None:
        if not self._record.rules or time.monotonic() < self._looked_at + _ALLOW_LIST_SECONDS:
            return
        former = self._allowed
        self._looked_at = time.monotonic()
        if await self.look_at_allowed() != former or self._tables is None:
            tables = await asyncio.to_thread(self._tables_of, self._record.rules.values())
            await self._enforce(tables)

    async def _leave(self, gone: Sequence[Kept], state: str) -> None:
        if not gone:
            return
        # A packet that was asking about the former set is counted by then.
        await asyncio.sleep(LAST_PACKETS_SECONDS)
        counts = self.counted(gone)
        self._leaving += [Left(one, state, counts(one)) for one in gone]
        self._slots.give_back(one.slot for one in gone)

    def _name_slots(self, kept: Iterable[Kept]) -> None:
        self._names |= {one.slot: one.rule.name for one in kept}


def _by_slot(counted: Rows, slots: Iterable[int]) -> Callable[[int], Counts]:
    """What all CPUs together have counted in a slot; *counted* is (cpus, slots)."""
    sums = (counted[name].sum(axis=0, dtype=np.uint64).tolist() for name in COUNTERS)
    by_slot: dict[int, Counts] = dict(zip(slots, zip(*sums, strict=True), strict=True))
    return by_slot.__getitem__


def _added(one: Counts, other: Counts) -> Counts:
    hit, hit_bytes, over, over_bytes = map(sum, zip(one, other, strict=True))
    return hit, hit_bytes, over, over_bytes
