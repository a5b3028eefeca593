# SPDX-License-Identifier: Apache-2.0
"""Keep the programs attached to the interfaces of one network namespace that shall be observed.

`examine` looks at one interface as it is now, whatever was heard of it: it may have come, gone,
changed, or become another one of the same index or name.  So no order of messages matters, and
none that was missed.

An interface's packets are booked at the pair of hook points that stands in the programs' table.
The entry is there before the programs are attached, so that the first packet has it.  One that is
renamed takes another pair: what was counted under the old name is reported under the old name.
"""

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from agent.attach import NAMES_OF_HOOKS, Attached, Attachment
from agent.chronicle import Chronicle
from agent.heirlooms import Heirloom
from agent.interfaces import Choice, Interface, LinkCounters
from agent.ledger import Ledger
from agent.links import LinkSocket
from agent.namespaces import Namespace
from agent.plan import LoadError
from agent.points import HookPoints, Pair, number_of, pair_of
from agent.register import Entry
from agent.variants import Variants
from schemas.ledger import HOOKS

log = logging.getLogger(__name__)

# How often to look for a moment without a packet, to read two counters at once.
_LOOKS = 5


@dataclass(frozen=True, slots=True)
class Books:
    """What is kept of interfaces, of whatever namespace."""

    points: HookPoints
    ledger: Ledger
    chronicle: Chronicle
    seen: Callable[[Pair], LinkCounters]  # by the hooks until now, as an interface counts it


@dataclass(slots=True)
class _Observed:
    """An interface that is attached to, as it was last told."""

    one: Interface
    attached: Attached
    pair: Pair | None
    foreign_xdp: int
    # What the pair had counted, of whatever interface, when this one came to it.
    seen_before: LinkCounters = field(default_factory=LinkCounters)

    @property
    def told(self) -> tuple[object, ...]:
        """What a `changed` row would tell."""
        one = self.one
        return one.full_name, one.mac, one.kind, one.mtu, one.link_bytes, self.foreign_xdp


class Attachments:
    """The interfaces that are observed in one namespace."""

    def __init__(
        self,
        namespace: Namespace,
        links: LinkSocket,
        *,
        attachment: Attachment,
        choice: Choice,
        books: Books,
    ) -> None:
        self._namespace = namespace
        self._links = links
        self._attachment = attachment
        self._table = attachment.variant.table
        self._choice = choice
        self._books = books
        self._observed: dict[int, _Observed] = {}
        # Down when we came: they are waited for.  One that appears later is attached to at once,
        # before it is up, so that not even its first packet is missed.
        self._asleep: set[int] = set()
        # What could not be attached to, as it was then; tried again once it has changed.
        self._refused: dict[int, tuple[str, bool, int]] = {}

    @property
    def interfaces(self) -> list[Interface]:
        """Those that are observed."""
        return [observed.one for observed in self._observed.values()]

    def described(self) -> list[dict[str, object]]:
        """Where each of them is observed, and why there."""
        return [
            {
                "interface": observed.one.full_name,
                "ingress": observed.attached.ingress_hook,
                "egress": observed.attached.egress_hook,
                "why": observed.attached.why,
                "foreign_xdp": observed.foreign_xdp,
            }
            for observed in self._observed.values()
        ]

    @property
    def pins(self) -> list[Path]:
        """The links by which our programs are attached."""
        return [path for observed in self._observed.values() for path in observed.attached.pins]

    def inherit(self, heirlooms: Iterable[Heirloom]) -> None:
        """Go on with what an agent that is no more was attached to in this namespace."""
        gone = [one.entry for one in heirlooms if not self._inherit(one)]
        # Indexes are used again, so only now is it known which are nobody's.
        for entry in gone:
            if entry.ifindex not in self._observed:
                self._table.clear(entry.ifindex)

    def begin(self, *, is_start: bool) -> None:
        """Attach to all that shall be observed and are up.

        Raises:
            LoadError: one of them cannot be attached to, and the agent is only starting.
        """
        for one in self._links.all():
            if one.ifindex in self._observed:
                continue
            if not one.is_up:
                self._asleep.add(one.ifindex)
            else:
                self._try_to_attach(one, is_start=is_start)

    def heard(self) -> None:
        """Look at every interface of which the kernel has said something."""
        changed = self._links.changed()
        if changed is None:
            log.warning("more interfaces changed than could be told; looking at all of them")
            changed = {one.ifindex: None for one in self._links.all()}
            changed |= {ifindex: observed.one for ifindex, observed in self._observed.items()}
        for ifindex, last_words in changed.items():
            self.examine(ifindex, last_words)

    def examine(self, ifindex: int, last_words: Interface | None = None) -> None:
        """Do what the interface of that index asks for; *last_words* of one that has gone."""
        one = self._links.one(ifindex)
        observed = self._observed.get(ifindex)
        if observed and one is None and last_words is None:
            return  # its last words are on their way
        if observed and (one is None or not self._is_attached(observed)):
            self._let_go(observed, "gone", last_words or observed.one)
            observed = None
        if one is None:
            self._asleep.discard(ifindex)
            self._refused.pop(ifindex, None)
        elif observed:
            self._update(observed, one)
        elif one.is_up or ifindex not in self._asleep:
            self._asleep.discard(ifindex)
            self._try_to_attach(one)

    def close_interval(self) -> None:
        """Note what the interfaces have counted, and whatever the kernel does not tell of."""
        now = {one.ifindex: one for one in self._links.all()}
        for ifindex, observed in list(self._observed.items()):
            one = now.get(ifindex)
            if one is None or (one.name, one.mac) != (observed.one.name, observed.one.mac):
                self.examine(ifindex, observed.one)
                continue
            self._update(observed, one)
            if observed.pair:
                self._books.ledger.note_link(observed.pair, one.counters)
            else:
                self._give_points(observed)
        for ifindex, one in now.items():
            if ifindex not in self._observed and one.is_up:
                self._try_to_attach(one)

    def swap(self, variants: Variants) -> None:
        """Put other programs in the places of ours; raises as `Attachment.swap` does."""
        variant = variants.of(self._namespace.netns.label)
        attached = [(ifindex, one.attached) for ifindex, one in self._observed.items()]
        self._namespace.call(lambda: self._attachment.swap(variant, attached))

    def end(self, event: str = "detached") -> None:
        """Detach from everything."""
        now = {one.ifindex: one for one in self._links.all()}
        for ifindex, observed in list(self._observed.items()):
            self._let_go(observed, event, now.get(ifindex, observed.one))

    def _inherit(self, heirloom: Heirloom) -> bool:
        """Whether the interface is still there with the programs of its agent."""
        entry, now = heirloom.entry, self._links.one(heirloom.entry.ifindex)
        if now is None or entry.netns != self._namespace.number:
            self._tell_gone(entry)
            return False
        name = entry.name.rpartition("/")[2]
        before = replace(now, name=name, mac=entry.mac, link_bytes=entry.link_bytes)
        observed = _Observed(before, Attached("", "", []), None, 0)
        if heirloom.is_of_our_maps:
            observed.pair = pair_of(entry.number)
        else:
            # Its packets meet our maps as soon as our programs are in their places.
            self._take_pair(observed)
        attached = self._namespace.call(lambda: self._attachment.inherit(entry))
        # Now that the programs on it are ours, it is told apart from those of others.
        now = self._links.one(entry.ifindex)
        if attached is None or now is None:
            if not heirloom.is_of_our_maps:
                self._take_points(observed)
            self._tell_gone(entry)
            return False
        if not heirloom.is_of_our_maps:
            now = self._at_attaching(observed, now)
        heirloom.counters = now.counters
        observed.attached, observed.foreign_xdp = attached, self._attachment.foreign_xdp(now)
        self._observed[now.ifindex] = observed
        if observed.pair and heirloom.is_of_our_maps:
            self._books.ledger.begin_link(observed.pair, entry.counters)
            self._books.ledger.note_link(observed.pair, now.counters)
        elif observed.pair:
            self._open(observed, observed.pair, now)
        self._tell("adopted", observed)
        log.info(
            "goes on observing",
            extra={
                "interface": before.full_name,
                "ingress": attached.ingress_hook,
                "egress": attached.egress_hook,
            },
        )
        self._update(observed, now)
        return True

    def _tell_gone(self, entry: Entry) -> None:
        one = Interface(
            name=entry.name.rpartition("/")[2],
            ifindex=entry.ifindex,
            is_up=False,
            link_bytes=entry.link_bytes,
            is_hardware=False,
            mac=entry.mac,
            netns=entry.netns_label,
        )
        ingress, egress = (NAMES_OF_HOOKS.get(hook, "tcx") for hook in entry.hooks)
        self._books.chronicle.add(
            "gone", one, Attached(ingress, egress, []), foreign_xdp=0, now_ns=time.time_ns()
        )
        log.info("interface is gone", extra={"interface": entry.name})

    def _try_to_attach(self, one: Interface, *, is_start: bool = False) -> None:
        state = (one.name, one.is_up, one.mtu)
        if self._refused.get(one.ifindex) == state:
            return
        self._refused.pop(one.ifindex, None)
        try:
            self._attach_if_chosen(one)
        except LoadError as error:
            # One that went meanwhile is no failure.
            if self._links.one(one.ifindex) is not None:
                if is_start:
                    raise
                self._refused[one.ifindex] = state
                log.warning("not observed: %s", error)

    def _attach_if_chosen(self, one: Interface) -> None:
        if not self._choice.takes(one):
            return
        observed = _Observed(one, Attached("", "", []), None, 0)
        self._take_pair(observed)
        try:
            observed.attached = self._namespace.call(lambda: self._attachment.attach(one))
        except LoadError:
            self._take_points(observed)
            raise
        finally:
            self._say_warnings()
        if observed.pair:
            self._register_hooks(observed.pair, observed.attached, one)
        self._confirm(observed)

    def _confirm(self, observed: _Observed) -> None:
        """Begin the books of what was attached to, which may be another than what was seen."""
        now = self._links.one(observed.one.ifindex)
        if now is None or not self._is_attached(observed):
            # It went at once; nobody knows what it was.
            self._detach(observed)
            self._take_points(observed)
            return
        observed.one = now
        observed.foreign_xdp = self._attachment.foreign_xdp(now)
        self._observed[now.ifindex] = observed
        if pair := observed.pair:
            self._books.points.rename(pair, now.full_name)
            self._register(pair, now)
            self._table.set(now.ifindex, pair, now.link_bytes)
            self._open(observed, pair, self._at_attaching(observed, now))
        else:
            log.warning(
                "no hook points are left; counted as unknown, consider more --max-interfaces",
                extra={"interface": now.full_name},
            )
        self._tell("attached", observed)
        log.info(
            "observing",
            extra={
                "interface": now.full_name,
                "ingress": observed.attached.ingress_hook,
                "egress": observed.attached.egress_hook,
                "why": observed.attached.why,
            },
        )

    def _update(self, observed: _Observed, now: Interface) -> None:
        told, before = observed.told, observed.one
        observed.one = now
        foreign_xdp, observed.foreign_xdp = (
            observed.foreign_xdp,
            self._attachment.foreign_xdp(now),
        )
        if not self._choice.takes(now):
            self._let_go(observed, "detached", now)
            return
        if observed.told == told:
            return
        if observed.pair:
            self._register(observed.pair, now)
        if now.full_name != before.full_name or now.link_bytes != before.link_bytes:
            self._exchange_points(observed)
        if observed.foreign_xdp not in (0, foreign_xdp):
            log.warning(
                "somebody's XDP program runs before us; what it drops is not seen",
                extra={"interface": now.full_name, "program": observed.foreign_xdp},
            )
        self._tell("changed", observed)
        log.info("interface has changed", extra={"interface": now.full_name})

    def _let_go(self, observed: _Observed, event: str, last: Interface) -> None:
        """Detach; *last* is what the interface was in the end."""
        last = self._at_detaching(observed, last)
        if (last.name, last.mac) == (observed.one.name, observed.one.mac):
            observed.one = last
        del self._observed[observed.one.ifindex]
        self._take_points(observed)
        self._tell(event, observed)
        log.info("interface is %s", event, extra={"interface": observed.one.full_name})

    def _give_points(self, observed: _Observed) -> None:
        """A pair of points for an interface that is attached and has none."""
        self._take_pair(observed)
        if observed.pair:
            self._open(observed, observed.pair, observed.one)

    def _take_pair(self, observed: _Observed) -> None:
        """Have the packets of its interface booked at a pair of its own, if there is one left."""
        one = observed.one
        observed.pair = self._books.points.take(one.full_name)
        if observed.pair is None:
            return
        observed.seen_before = self._books.seen(observed.pair)
        self._register(observed.pair, one)
        if not self._table.set(one.ifindex, observed.pair, one.link_bytes):
            self._take_points(observed)

    def _at_attaching(self, observed: _Observed, now: Interface) -> Interface:
        """The interface with what it had counted when its packets began to meet our programs.

        That is what it has counted by now, less what they have seen of it.
        """
        if observed.pair is None:
            return now
        one, seen = self._counted(observed.pair, now)
        return replace(one, counters=one.counters - (seen - observed.seen_before))

    def _at_detaching(self, observed: _Observed, last: Interface) -> Interface:
        """Detach; the interface with what it had counted when packets ceased to meet our programs.

        One that has gone has said that itself.
        """
        if observed.pair is None or self._links.one(last.ifindex) is None:
            self._detach(observed)
            return last
        one, seen = self._counted(observed.pair, last)
        self._detach(observed)
        return replace(one, counters=one.counters + (self._books.seen(observed.pair) - seen))

    def _counted(self, pair: Pair, last: Interface) -> tuple[Interface, LinkCounters]:
        """The interface, and what our programs have seen of it, of one moment or nearly so."""
        for _ in range(_LOOKS):
            seen = self._books.seen(pair)
            one = self._links.one(last.ifindex) or last
            if self._books.seen(pair) == seen:
                break
        return one, seen

    def _exchange_points(self, observed: _Observed) -> None:
        """Another pair of points, from one packet to the next."""
        former = observed.pair
        self._give_points(observed)
        if former is None:
            return
        if observed.pair is None:
            self._table.clear(observed.one.ifindex)
        self._books.ledger.end_link(former, observed.one.counters)
        self._books.points.give_back(former)

    def _open(self, observed: _Observed, pair: Pair, begins: Interface) -> None:
        attached = observed.attached
        self._books.ledger.open(pair, attached.ingress_hook, attached.egress_hook, time.time_ns())
        self._books.ledger.note_link(pair, begins.counters)
        self._register_hooks(pair, attached, begins)

    def _register_hooks(self, pair: Pair, attached: Attached, begins: Interface) -> None:
        """Write down by which programs, so that the next agent can go on with them."""
        self._books.points.register.attach(
            number_of(pair),
            (HOOKS[attached.ingress_hook], HOOKS[attached.egress_hook]),
            begins.counters,
            is_qdisc_ours=attached.is_qdisc_ours,
            is_jumbo=attached.is_jumbo,
        )

    def _register(self, pair: Pair, one: Interface) -> None:
        """Write down whose packets the pair counts, before any is."""
        self._books.points.register.place(
            number_of(pair),
            netns=self._namespace.number,
            ifindex=one.ifindex,
            mac=one.mac,
            link_bytes=one.link_bytes,
        )

    def _take_points(self, observed: _Observed) -> None:
        """Give the points back; packets that come nevertheless are booked as unknown."""
        if observed.pair is None:
            return
        pair, observed.pair = observed.pair, None
        self._table.clear(observed.one.ifindex)
        self._books.ledger.end_link(pair, observed.one.counters)
        self._books.points.give_back(pair)

    def _tell(self, event: str, observed: _Observed) -> None:
        self._books.chronicle.add(
            event,
            observed.one,
            observed.attached,
            foreign_xdp=observed.foreign_xdp,
            now_ns=time.time_ns(),
        )

    def _is_attached(self, observed: _Observed) -> bool:
        return self._namespace.call(
            lambda: self._attachment.is_attached(observed.one.ifindex, observed.attached)
        )

    def _detach(self, observed: _Observed) -> None:
        self._namespace.call(
            lambda: self._attachment.detach(observed.one.ifindex, observed.attached)
        )

    def _say_warnings(self) -> None:
        warnings, self._attachment.warnings = self._attachment.warnings, []
        for warning in warnings:
            log.warning(warning)
