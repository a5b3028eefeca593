# SPDX-License-Identifier: Apache-2.0
"""Count letters by reason, in bounded memory whatever the reasons say."""

import re
from dataclasses import dataclass, field

from hookline.dead_letter.entries import Entry

MAX_GROUPS = 1000
MAX_NODES = 20
_OTHERS = "other reasons"
# A value that was met, such as a time: reasons that differ in it alone are one.
_VALUE = re.compile(r"-?\d{5,}")


@dataclass(slots=True)
class Group:
    """Letters of one topic with one reason."""

    reason: str
    topic: str
    letters: int = 0
    replayed: int = 0
    nodes: set[str] = field(default_factory=set)
    has_more_nodes: bool = False


class Tally:
    """Groups of letters, each with a number from 1 on."""

    def __init__(self) -> None:
        self._groups: list[Group] = []
        self._numbers: dict[tuple[str, str], int] = {}

    def add(self, entry: Entry, reason: str = "") -> int:
        """Count a letter, by its own reason where none is given; the number of its group."""
        number = self._number(_VALUE.sub("…", reason or entry.reason), entry.topic)
        group = self._groups[number - 1]
        group.letters += 1
        if entry.node in group.nodes or len(group.nodes) < MAX_NODES:
            group.nodes.add(entry.node)
        else:
            group.has_more_nodes = True
        return number

    def add_replayed(self, number: int) -> None:
        """Count a letter of that group as replayed."""
        self._groups[number - 1].replayed += 1

    def groups(self) -> list[Group]:
        """All groups, the largest first."""
        return sorted(self._groups, key=lambda group: (-group.letters, group.reason, group.topic))

    def letters(self) -> int:
        return sum(group.letters for group in self._groups)

    def _number(self, reason: str, topic: str) -> int:
        if (reason, topic) not in self._numbers:
            if len(self._groups) >= MAX_GROUPS:
                reason, topic = _OTHERS, ""
            if (reason, topic) not in self._numbers:
                self._groups.append(Group(reason, topic))
                self._numbers[reason, topic] = len(self._groups)
        return self._numbers[reason, topic]
