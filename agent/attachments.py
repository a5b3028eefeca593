# SPDX-License-Identifier: Apache-2.0
"""Keep the programs attached to the interfaces of one network namespace that shall be observed.

`examine` looks at one interface as it is now, whatever was heard of it: it may have come, gone,
changed, or become another one of the same index or name.  So no order of messages matters, and
none that was missed.

Where the packets of one are booked, `agent.bookings` says; what an agent that is no more has left,
`agent.adoption` takes over.
"""

import logging
from collections.abc import Iterable
from pathlib import Path

from agent.adoption import Adoption
from agent.attach import Attachment
from agent.bookings import Bookings, Books
from agent.heirlooms import Heirloom
from agent.interfaces import Choice, Interface
from agent.links import LinkSocket
from agent.namespaces import Namespace
from agent.observed import Observed
from agent.plan import LoadError
from agent.readings import Readings
from agent.variants import Variants

log = logging.getLogger(__name__)


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
        self._choice = choice
        self._books = books
        self._readings = Readings(links, books.seen)
        self._bookings = Bookings(books, attachment.variant.table, netns=namespace.number)
        self._observed: dict[int, Observed] = {}
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
        adoption = Adoption(
            self._namespace,
            self._links,
            self._attachment,
            books=self._books,
            bookings=self._bookings,
            readings=self._readings,
        )
        gone = []
        for heirloom in heirlooms:
            if (adopted := adoption.adopt(heirloom)) is None:
                gone.append(heirloom.entry)
                continue
            observed, now = adopted
            self._observed[now.ifindex] = observed
            self._update(observed, now)
        # Indexes are used again, so only now is it known which are nobody's.
        for entry in gone:
            if entry.ifindex not in self._observed:
                self._bookings.clear(entry.ifindex)

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
                self._bookings.take_and_open(observed)
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
        observed = Observed(one)
        self._bookings.take(observed)
        try:
            observed.attached = self._namespace.call(lambda: self._attachment.attach(one))
        except LoadError:
            self._bookings.give_back(observed)
            raise
        finally:
            self._say_warnings()
        if observed.pair:
            self._bookings.register_hooks(observed.pair, observed.attached, one)
        self._confirm(observed)

    def _confirm(self, observed: Observed) -> None:
        """Begin the books of what was attached to, which may be another than what was seen."""
        now = self._links.one(observed.one.ifindex)
        if now is None or not self._is_attached(observed):
            # It went at once; nobody knows what it was.
            self._detach(observed)
            self._bookings.give_back(observed)
            return
        observed.one = now
        observed.foreign_xdp = self._attachment.foreign_xdp(now)
        self._observed[now.ifindex] = observed
        if pair := observed.pair:
            self._bookings.correct(pair, now)
            self._bookings.open(observed, pair, self._readings.at_attaching(observed, now))
        else:
            log.warning(
                "no hook points are left; counted as unknown, consider more --max-interfaces",
                extra={"interface": now.full_name},
            )
        self._books.tell("attached", observed)
        log.info(
            "observing",
            extra={
                "interface": now.full_name,
                "ingress": observed.attached.ingress_hook,
                "egress": observed.attached.egress_hook,
                "why": observed.attached.why,
            },
        )

    def _update(self, observed: Observed, now: Interface) -> None:
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
            self._bookings.register(observed.pair, now)
        if now.full_name != before.full_name or now.link_bytes != before.link_bytes:
            self._bookings.exchange(observed)
        if observed.foreign_xdp not in (0, foreign_xdp):
            log.warning(
                "somebody's XDP program runs before us; what it drops is not seen",
                extra={"interface": now.full_name, "program": observed.foreign_xdp},
            )
        self._books.tell("changed", observed)
        log.info("interface has changed", extra={"interface": now.full_name})

    def _let_go(self, observed: Observed, event: str, last: Interface) -> None:
        """Detach; *last* is what the interface was in the end."""
        last = self._readings.at_detaching(observed, last, self._detach)
        if (last.name, last.mac) == (observed.one.name, observed.one.mac):
            observed.one = last
        del self._observed[observed.one.ifindex]
        self._bookings.give_back(observed)
        self._books.tell(event, observed)
        log.info("interface is %s", event, extra={"interface": observed.one.full_name})

    def _is_attached(self, observed: Observed) -> bool:
        return self._namespace.call(
            lambda: self._attachment.is_attached(observed.one.ifindex, observed.attached)
        )

    def _detach(self, observed: Observed) -> None:
        self._namespace.call(
            lambda: self._attachment.detach(observed.one.ifindex, observed.attached)
        )

    def _say_warnings(self) -> None:
        warnings, self._attachment.warnings = self._attachment.warnings, []
        for warning in warnings:
            log.warning(warning)
