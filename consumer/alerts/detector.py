# SPDX-License-Identifier: Apache-2.0
"""What every detector offers, and what several of them need."""

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from consumer.alerts.alert import Sighting
from consumer.alerts.rows import NS_PER_S, Rows

# Rows this late tell of what is over; they come after an outage, when the spool is sent.
LATE_S = 180
# Clocks of nodes differ; what is further ahead has no time that means anything.
AHEAD_S = 60
# Of one look, so many are told apart.  The board limits what becomes an alert.
MOST_SIGHTINGS = 64


class Detector(Protocol):
    """Looks at rows of *kinds*, and remembers no more than it has room for.

    *name* is that of its table of options, `[alert.NAME]`.  What it has seen counts as over when it
    was not seen again for *hold_s* seconds.
    """

    name: ClassVar[str]
    about: ClassVar[str]  # one or two sentences for the reference
    kinds: ClassVar[tuple[str, ...]]
    hold_s: ClassVar[float]
    learns: ClassVar[tuple[str, ...]]  # attributes that are kept over a restart

    def __init__(self, options: Any) -> None: ...

    def take(self, rows: Rows, now_ns: int) -> Sequence[Sighting]:
        """Learn of rows, and say what they show; *now_ns* is the wall clock."""
        ...

    def look(self, now_ns: int) -> Sequence[Sighting]:
        """Say what has come about by time alone."""
        ...

    def pause(self, now_ns: int) -> None:
        """Nothing could be heard until now, so what is missing means nothing."""
        ...

    @property
    def size_bytes(self) -> int:
        """What its arrays take, whatever it was shown."""
        ...


class Stateless:
    """For detectors of which time alone shows nothing."""

    learns: ClassVar[tuple[str, ...]] = ()

    def look(self, now_ns: int) -> Sequence[Sighting]:  # noqa: ARG002
        return ()

    def pause(self, now_ns: int) -> None:
        """Silence means nothing to it anyway."""


def is_recent(rows: Rows, now_ns: int) -> NDArray[np.bool_]:
    """Which rows are about now."""
    times = rows["time"]
    return np.asarray(
        (times >= now_ns - LATE_S * NS_PER_S) & (times <= now_ns + AHEAD_S * NS_PER_S)
    )


def largest(values: NDArray[Any], candidates: NDArray[np.intp]) -> list[int]:
    """Those of *candidates* with the largest values, of which no more than can be told of."""
    order = np.argsort(-values[candidates], kind="stable")[:MOST_SIGHTINGS]
    return [int(one) for one in candidates[order]]
