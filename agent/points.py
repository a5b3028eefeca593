# SPDX-License-Identifier: Apache-2.0
"""Hook points: the small numbers by which the kernel programs know interface and direction."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.interfaces import Interface
from agent.plan import FIRST_POINT, INTERFACE_SLOTS, MAX_POINTS, LoadError, Target
from schemas.fields import DIRECTIONS
from schemas.wire import Names

# Packets of an interface that nobody told the programs of are booked under this name.
UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class HookPoints:
    """Interface and direction of every hook point, as tables to look columns up in."""

    targets: tuple[Target, ...]
    names: tuple[str, ...]
    interface_codes: NDArray[Any]  # by point: index into names
    directions: NDArray[np.uint8]  # by point

    def columns(self, points: NDArray[Any]) -> dict[str, Any]:
        """The columns `interface` and `direction` of rows at *points*."""
        return {
            "interface": Names(self.interface_codes[points], self.names),
            "direction": self.directions[points],
        }


def number_points(interfaces: Sequence[Interface]) -> HookPoints:
    """Give each interface two points, ingress before egress.

    Raises:
        LoadError: there are more interfaces than points, or two that the programs cannot tell
            apart.
    """
    most = (MAX_POINTS - FIRST_POINT) // 2
    if len(interfaces) > most:
        raise LoadError(
            f"{len(interfaces)} interfaces are too many for one agent, which observes {most};"
            " choose some with --interface"
        )
    _refuse_shared_entries(interfaces)
    targets = tuple(
        Target(
            name=one.name,
            ifindex=one.ifindex,
            link_bytes=one.link_bytes,
            is_hardware=one.is_hardware,
            ingress_point=FIRST_POINT + 2 * number,
            egress_point=FIRST_POINT + 2 * number + 1,
        )
        for number, one in enumerate(interfaces)
    )
    count = FIRST_POINT + 2 * len(targets)
    codes = np.zeros(count, np.uint8 if len(targets) < 256 else np.dtype("<u2"))
    directions = np.full(count, DIRECTIONS["ingress"], np.uint8)
    for code, target in enumerate(targets, start=1):
        codes[[target.ingress_point, target.egress_point]] = code
        directions[target.egress_point] = DIRECTIONS["egress"]
    names = (UNKNOWN, *(target.name for target in targets))
    return HookPoints(targets, names, codes, directions)


def _refuse_shared_entries(interfaces: Sequence[Interface]) -> None:
    """The programs find an interface by its index modulo the number of entries."""
    by_entry: dict[int, Interface] = {}
    for one in interfaces:
        other = by_entry.setdefault(one.ifindex % INTERFACE_SLOTS, one)
        if other is not one:
            raise LoadError(
                f"interfaces {other.name} and {one.name} have indexes ({other.ifindex},"
                f" {one.ifindex}) that are equal modulo {INTERFACE_SLOTS};"
                " observe them with two agents of different --name"
            )
