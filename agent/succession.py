# SPDX-License-Identifier: Apache-2.0
"""Take over what an agent that is no more has left in the kernel.

Its programs have gone on counting.  Where the maps are laid out as ours are, we go on with them
from where its checkpoint says it had come to.  Where they are not, because it was another version
or had other sizes, our programs take the places of its programs, link by link, and what is in its
maps is told once more under its own name; then they are removed.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from agent import libbpf
from agent.batch import Batcher
from agent.captures import CAPTURE_MAPS
from agent.checkpoint import Saved, saved_in
from agent.clock import Anchor, KernelClock
from agent.deliveries import Deliveries
from agent.heirlooms import Heirloom
from agent.interfaces import LinkCounters
from agent.journal import Journal
from agent.ledger import Ledger
from agent.maps import SharedMaps
from agent.observer import Observer
from agent.outbox import Outbox
from agent.owners import OwnerLookup
from agent.plan import Pins, Plan, Report, Sizes
from agent.points import HookPoints, Pair, pair_of
from agent.register import REGISTER, Register, pair_count
from agent.rows import Rows
from agent.rules.keeper import Keeper
from agent.socket_hooks import SOCKETS
from agent.translation import Translation
from schemas.refusal import RULE_BOOKS
from schemas.succession import FLOW_REPORTED, HOOK_PAIR
from schemas.wire import Batch

log = logging.getLogger(__name__)


class Parts(Protocol):
    """What of an agent is needed to take over from another."""

    @property
    def plan(self) -> Plan: ...
    @property
    def report(self) -> Report: ...
    @property
    def points(self) -> HookPoints: ...
    @property
    def ledger(self) -> Ledger: ...
    @property
    def deliveries(self) -> Deliveries: ...
    @property
    def owners(self) -> OwnerLookup | None: ...
    @property
    def clock(self) -> KernelClock: ...
    @property
    def observer(self) -> Observer: ...
    @property
    def journal(self) -> Journal: ...
    @property
    def keeper(self) -> Keeper: ...


@dataclass(frozen=True, slots=True)
class Estate:
    """What an agent has left under one layout."""

    pins: Pins
    saved: Saved
    register: Register

    @property
    def identity(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.saved.content["identity"]
        return found

    @property
    def sizes(self) -> Sizes:
        return Sizes(**self.saved.content["sizes"])

    def rule_books(self) -> Rows | None:
        """What its rules had counted, (cpus, slots); None: it knew of no rules."""
        path = self.pins.map("rule_books")
        translation = Translation(self.saved.content["description"])
        if not path.exists():
            return None
        with libbpf.opened(path) as fd:
            count = libbpf.array_bytes(fd) // translation.dtype(RULE_BOOKS).itemsize
        books = translation.mapped(self.pins, path.name, RULE_BOOKS, count)
        return books.reshape(self.sizes.cpus, -1)

    @property
    def drained(self) -> list[str]:
        """Other layouts of which it had told everything."""
        return list(self.saved.content["drained"])


@dataclass(frozen=True, slots=True)
class Predecessors:
    """What agents of this name have left, under the layout of our maps and under others."""

    pins: Pins
    own: Estate | None
    others: tuple[Estate, ...]

    @classmethod
    def of(cls, pins: Pins) -> "Predecessors":
        """What there is; what is of no use to anybody is removed."""
        own = _estate_in(pins)
        drained = own.drained if own else []
        return cls(pins, own, tuple(_others(pins, drained)))

    def __bool__(self) -> bool:
        return bool(self.estates)

    @property
    def estates(self) -> list[Estate]:
        """All, that of our maps last."""
        return [*self.others, *([self.own] if self.own else [])]

    @property
    def seeds(self) -> tuple[int, ...]:
        """The hash key by which flows found their slots in our maps."""
        return tuple(self.own.identity["seeds"]) if self.own else ()

    def heirlooms(self) -> list[Heirloom]:
        """Every interface that was attached to."""
        return [
            Heirloom(entry, estate.pins.layout, is_of_our_maps=estate is self.own)
            for estate in self.estates
            for entry in estate.register.entries()
            if not entry.is_settling
        ]

    def hand_over(self, outbox: Outbox, deliveries: Deliveries, observer: Observer) -> None:
        """Have the parts of the next agent go on where the last one had come to."""
        self.hand_over_outbox(outbox)
        for estate in self.estates:
            deliveries.restore(estate.saved.content["deliveries"])
        deliveries.note_found(outbox.found)
        deliveries.note_damaged(outbox.take_damaged())
        if self.own:
            observer.restore(self.own.saved.content["observer"], self.own.saved.reported)
            log.info("goes on where an earlier agent had ended", extra=self._about(self.own))
        for estate in self.others:
            log.info("takes the place of an earlier agent", extra=self._about(estate))

    def hand_over_outbox(self, outbox: Outbox) -> None:
        """Cut off what never became valid, and what was given up."""
        positions: dict[str, int] = {}
        given_up: dict[str, list[int]] = {}
        for estate in self.estates:
            content = estate.saved.content
            for name, number in content["outbox"].items():
                positions[name] = max(positions.get(name, 0), number)
            for name, firsts in content["given_up"].items():
                given_up.setdefault(name, []).extend(firsts)
        outbox.restore(positions, given_up)

    @staticmethod
    def _about(estate: Estate) -> dict[str, Any]:
        return {
            "run": estate.identity["run"],
            "layout": estate.pins.layout,
            "interfaces": len(list(estate.register.entries())),
        }


def _estate_in(pins: Pins) -> Estate | None:
    """What is left under the layout of *pins*; None where nothing ever counted there."""
    saved = saved_in(pins)
    if saved is None:
        return None
    translation = Translation(saved.content["description"])
    pairs = pair_count(saved.content["sizes"]["hook_points"])
    rows = translation.mapped(pins, REGISTER, HOOK_PAIR, pairs)
    return Estate(pins, saved, Register(pairs, rows))


def _others(pins: Pins, drained: Iterable[str]) -> Iterator[Estate]:
    for folder in pins.others():
        its = Pins(pins.root, folder.name)
        estate = None if folder.name in drained else _readable(its)
        if estate is None:
            its.remove()
        else:
            yield estate


def _readable(pins: Pins) -> Estate | None:
    try:
        return _estate_in(pins)
    except (KeyError, TypeError, ValueError, OSError) as error:
        log.error(  # noqa: TRY400  # the place in our code says nothing here
            "what an earlier agent had counted and not told is lost: it cannot be read",
            extra={"pins": str(pins.folder), "reason": f"{type(error).__name__}: {error}"},
        )
        return None


def succeed(
    parts: Parts,
    predecessors: Predecessors,
    heirlooms: Sequence[Heirloom],
    *,
    still_attached: set[Path],
) -> None:
    """Let go of all that was not taken over, and tell what is left in maps of another layout.

    To be called when ours are in the places of all programs, and no packet is in another.
    """
    _give_back_points(parts, heirlooms)
    _detach_the_rest(parts, still_attached)
    for estate in predecessors.others:
        links = {
            pair_of(one.entry.number): one.counters
            for one in heirlooms
            if one.layout == estate.pins.layout and one.counters
        }
        batches = drain(
            estate,
            parts.deliveries,
            anchor=parts.clock.anchor(),
            links=links,
            owners=parts.owners,
        )
        parts.journal.tell_of(estate.pins.layout, list(batches), parts.observer)
        if (counted := estate.rule_books()) is not None:
            parts.keeper.carry_over(estate.pins.layout, counted)
        estate.pins.remove()


def _give_back_points(parts: Parts, heirlooms: Sequence[Heirloom]) -> None:
    """What was counted at pairs whose interface is not observed any more is reported yet."""
    for one in heirlooms:
        if one.is_of_our_maps and one.counters is None:
            pair = pair_of(one.entry.number)
            parts.ledger.forget_link(pair)
            parts.points.give_back(pair)


def _detach_the_rest(parts: Parts, still_attached: set[Path]) -> None:
    pins, codes = parts.plan.pins, parts.report.codes
    wanted = still_attached | {pins.cgroup_link(name) for name in SOCKETS.programs}
    for path in pins.links():
        if path not in wanted:
            libbpf.detach_link(path)
    # Captures ended with their agent; and of maps that only their source understands, ours stay.
    for path in pins.map("").iterdir():
        is_foreign = "~" in path.name and path.name.partition("~")[2] not in codes
        if is_foreign or path.name in CAPTURE_MAPS:
            path.unlink()


def drain(
    estate: Estate,
    deliveries: Deliveries,
    *,
    anchor: Anchor,
    links: Mapping[Pair, LinkCounters],
    owners: OwnerLookup | None,
) -> Iterator[Batch]:
    """Everything that is in maps to which no program writes any more, as its agent would tell it.

    *links* are what interfaces had counted when their programs were replaced, by its pairs.
    """
    identity, content = estate.identity, estate.saved.content
    translation = Translation(content["description"])
    points = HookPoints(estate.sizes.hook_points, estate.register)
    ledger = Ledger(points, anchor.wall_ns)
    batcher = Batcher(identity["node"], identity["boot_id"], identity["run"])
    for kind, seq in deliveries.made_by(identity["run"]).items():
        batcher.begin_at(kind, seq)
    observer = Observer(
        estate.pins,
        points,
        batcher=batcher,
        ledger=ledger,
        maps=SharedMaps(estate.sizes, partial(translation.mapped, estate.pins)),
        clock=_Stopped(anchor),
        open_buffer=partial(translation.buffer, estate.pins, estate.sizes),
        owners=owners,
    )
    reported = translation.rows(estate.saved.reported, FLOW_REPORTED)
    observer.restore(content["observer"], reported)
    for pair, counters in links.items():
        ledger.end_link(pair, counters)
    yield from observer.close_interval(is_last=True)


@dataclass(frozen=True, slots=True)
class _Stopped:
    """The clock of maps to which nobody writes."""

    now: Anchor

    def anchor(self) -> Anchor:
        return self.now

    def begin_interval(self) -> None:
        """There is no further one."""
