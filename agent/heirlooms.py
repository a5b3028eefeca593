# SPDX-License-Identifier: Apache-2.0
"""Interfaces that an agent which is no more was attached to, on their way to the next one."""

from dataclasses import dataclass

from agent.interfaces import LinkCounters
from agent.register import Entry


@dataclass(slots=True)
class Heirloom:
    """One interface of a predecessor, and what became of it."""

    entry: Entry
    layout: str  # of the maps that its packets were counted in
    is_of_our_maps: bool
    # What the interface had counted as our programs took over, where they did.
    counters: LinkCounters | None = None
