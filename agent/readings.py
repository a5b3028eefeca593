# SPDX-License-Identifier: Apache-2.0
"""Read what an interface and our programs have counted of the same packets, at the same moment.

The ledger compares the two from the first packet that met our programs to the last one.  But an
interface counts on while programs are attached and detached, so its counters of these moments are
found by what the programs have seen before and after.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from agent.interfaces import Interface, LinkCounters
from agent.links import LinkSocket
from agent.observed import Observed
from agent.points import Pair

# How often to look for a moment without a packet, to read two counters at once.
_LOOKS = 5


@dataclass(frozen=True, slots=True)
class Readings:
    """The counters of one namespace's interfaces, and of our programs on them."""

    links: LinkSocket
    seen: Callable[[Pair], LinkCounters]  # by the hooks until now, as an interface counts it

    def at_attaching(self, observed: Observed, now: Interface) -> Interface:
        """The interface with what it had counted when its packets began to meet our programs.

        That is what it has counted by now, less what they have seen of it.
        """
        if observed.pair is None:
            return now
        one, seen = self._counted(observed.pair, now)
        return replace(one, counters=one.counters - (seen - observed.seen_before))

    def at_detaching(
        self, observed: Observed, last: Interface, detach: Callable[[Observed], None]
    ) -> Interface:
        """Detach; the interface with what it had counted when packets ceased to meet our programs.

        One that has gone has said that itself.
        """
        if observed.pair is None or self.links.one(last.ifindex) is None:
            detach(observed)
            return last
        one, seen = self._counted(observed.pair, last)
        detach(observed)
        return replace(one, counters=one.counters + (self.seen(observed.pair) - seen))

    def _counted(self, pair: Pair, last: Interface) -> tuple[Interface, LinkCounters]:
        """The interface, and what our programs have seen of it, of one moment or nearly so."""
        for _ in range(_LOOKS):
            seen = self.seen(pair)
            one = self.links.one(last.ifindex) or last
            if self.seen(pair) == seen:
                break
        return one, seen
