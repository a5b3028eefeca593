# SPDX-License-Identifier: Apache-2.0
"""Book the packets of each observed interface at a pair of hook points of its own.

The pair stands in the programs' table before they are attached, so that the first packet has it,
and in the register before anything is counted, so that the next agent knows whose packets they
were.  An interface that is renamed takes another pair: what was counted under the old name is
reported under the old name.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from agent.attach import Attached
from agent.chronicle import Chronicle
from agent.entries import InterfaceTable
from agent.interfaces import Interface, LinkCounters
from agent.ledger import Ledger
from agent.observed import Observed
from agent.points import HookPoints, Pair, number_of
from schemas.ledger import HOOKS


@dataclass(frozen=True, slots=True)
class Books:
    """What is kept of interfaces, of whatever namespace."""

    points: HookPoints
    ledger: Ledger
    chronicle: Chronicle
    seen: Callable[[Pair], LinkCounters]  # by the hooks until now, as an interface counts it

    def tell(self, event: str, observed: Observed) -> None:
        """Note that *event* happened to an interface, as it is now."""
        self.chronicle.add(
            event,
            observed.one,
            observed.attached,
            foreign_xdp=observed.foreign_xdp,
            now_ns=time.time_ns(),
        )


class Bookings:
    """The pairs of one namespace's interfaces, in the books and in its programs' *table*.

    *netns* is the namespace's number.
    """

    def __init__(self, books: Books, table: InterfaceTable, *, netns: int) -> None:
        self._books = books
        self._table = table
        self._netns = netns

    def take(self, observed: Observed) -> None:
        """Have the packets of its interface booked at a pair of its own, if there is one left."""
        one = observed.one
        observed.pair = self._books.points.take(one.full_name)
        if observed.pair is None:
            return
        observed.seen_before = self._books.seen(observed.pair)
        self.register(observed.pair, one)
        if not self._table.set(one.ifindex, observed.pair, one.link_bytes):
            self.give_back(observed)

    def give_back(self, observed: Observed) -> None:
        """Give the pair back; packets that come nevertheless are booked as unknown."""
        if observed.pair is None:
            return
        pair, observed.pair = observed.pair, None
        self._table.clear(observed.one.ifindex)
        self._books.ledger.end_link(pair, observed.one.counters)
        self._books.points.give_back(pair)

    def correct(self, pair: Pair, one: Interface) -> None:
        """Let the pair stand for what was attached to, which may be another than what was seen."""
        self._books.points.rename(pair, one.full_name)
        self.register(pair, one)
        self._table.set(one.ifindex, pair, one.link_bytes)

    def take_and_open(self, observed: Observed) -> None:
        """A pair for an interface that is attached to and has none."""
        self.take(observed)
        if observed.pair:
            self.open(observed, observed.pair, observed.one)

    def exchange(self, observed: Observed) -> None:
        """Another pair, from one packet to the next."""
        former = observed.pair
        self.take_and_open(observed)
        if former is None:
            return
        if observed.pair is None:
            self._table.clear(observed.one.ifindex)
        self._books.ledger.end_link(former, observed.one.counters)
        self._books.points.give_back(former)

    def open(self, observed: Observed, pair: Pair, begins: Interface) -> None:
        """Open the pair's books, for the interface as it was when its packets began to be seen."""
        attached = observed.attached
        self._books.ledger.open(pair, attached.ingress_hook, attached.egress_hook, time.time_ns())
        self._books.ledger.note_link(pair, begins.counters)
        self.register_hooks(pair, attached, begins)

    def register(self, pair: Pair, one: Interface) -> None:
        """Write down whose packets the pair counts, before any is."""
        self._books.points.register.place(
            number_of(pair),
            netns=self._netns,
            ifindex=one.ifindex,
            mac=one.mac,
            link_bytes=one.link_bytes,
        )

    def register_hooks(self, pair: Pair, attached: Attached, begins: Interface) -> None:
        """Write down by which programs, so that the next agent can go on with them."""
        self._books.points.register.attach(
            number_of(pair),
            (HOOKS[attached.ingress_hook], HOOKS[attached.egress_hook]),
            begins.counters,
            is_qdisc_ours=attached.is_qdisc_ours,
            is_jumbo=attached.is_jumbo,
        )

    def clear(self, ifindex: int) -> None:
        """Let packets of whatever interface has that index be booked as unknown."""
        self._table.clear(ifindex)
