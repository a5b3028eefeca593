# SPDX-License-Identifier: Apache-2.0
"""An interface that is observed: where our programs are on it, and where its packets are booked."""

from dataclasses import dataclass, field

from agent.attach import Attached
from agent.interfaces import Interface, LinkCounters
from agent.points import Pair


@dataclass(slots=True)
class Observed:
    """An interface that is attached to, or is about to be, as it was last told."""

    one: Interface
    attached: Attached = field(default_factory=lambda: Attached("", "", []))
    pair: Pair | None = None  # none while all are in use
    foreign_xdp: int = 0
    # What the pair had counted, of whatever interface, when this one came to it.
    seen_before: LinkCounters = field(default_factory=LinkCounters)

    @property
    def told(self) -> tuple[object, ...]:
        """What a `changed` row would tell."""
        one = self.one
        return one.full_name, one.mac, one.kind, one.mtu, one.link_bytes, self.foreign_xdp
