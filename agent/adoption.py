# SPDX-License-Identifier: Apache-2.0
"""Go on with the interfaces that an agent which is no more was attached to.

Its programs are on them still, and count.  Ours take their places one by one; where both count in
the same maps, an interface keeps its pair of hook points and its books go on, otherwise it takes a
new pair and what was counted in the old maps is told by `agent.succession`.
"""

import logging
import time
from dataclasses import dataclass, replace

from agent.attach import NAMES_OF_HOOKS, Attached, Attachment
from agent.bookings import Bookings, Books
from agent.heirlooms import Heirloom
from agent.interfaces import Interface
from agent.links import LinkSocket
from agent.namespaces import Namespace
from agent.observed import Observed
from agent.points import pair_of
from agent.readings import Readings
from agent.register import Entry

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Adoption:
    """Takes interfaces of one namespace over."""

    namespace: Namespace
    links: LinkSocket
    attachment: Attachment
    books: Books
    bookings: Bookings
    readings: Readings

    def adopt(self, heirloom: Heirloom) -> tuple[Observed, Interface] | None:
        """The interface as it was last told, and as it is now.

        None where it has gone, or is there without the programs of its agent.
        """
        entry, now = heirloom.entry, self.links.one(heirloom.entry.ifindex)
        if now is None or entry.netns != self.namespace.number:
            self._tell_gone(entry)
            return None
        name = entry.name.rpartition("/")[2]
        observed = Observed(replace(now, name=name, mac=entry.mac, link_bytes=entry.link_bytes))
        if heirloom.is_of_our_maps:
            observed.pair = pair_of(entry.number)
        else:
            # Its packets meet our maps as soon as our programs are in their places.
            self.bookings.take(observed)
        attached = self.namespace.call(lambda: self.attachment.inherit(entry))
        # Now that the programs on it are ours, it is told apart from those of others.
        now = self.links.one(entry.ifindex)
        if attached is None or now is None:
            if not heirloom.is_of_our_maps:
                self.bookings.give_back(observed)
            self._tell_gone(entry)
            return None
        if not heirloom.is_of_our_maps:
            now = self.readings.at_attaching(observed, now)
        heirloom.counters = now.counters
        observed.attached, observed.foreign_xdp = attached, self.attachment.foreign_xdp(now)
        self._go_on(observed, heirloom, now)
        return observed, now

    def _go_on(self, observed: Observed, heirloom: Heirloom, now: Interface) -> None:
        if observed.pair and heirloom.is_of_our_maps:
            self.books.ledger.begin_link(observed.pair, heirloom.entry.counters)
            self.books.ledger.note_link(observed.pair, now.counters)
        elif observed.pair:
            self.bookings.open(observed, observed.pair, now)
        self.books.tell("adopted", observed)
        log.info(
            "goes on observing",
            extra={
                "interface": observed.one.full_name,
                "ingress": observed.attached.ingress_hook,
                "egress": observed.attached.egress_hook,
            },
        )

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
        self.books.chronicle.add(
            "gone", one, Attached(ingress, egress, []), foreign_xdp=0, now_ns=time.time_ns()
        )
        log.info("interface is gone", extra={"interface": entry.name})
