# SPDX-License-Identifier: Apache-2.0
"""Names for the kernel's numbers of cgroups: path, systemd unit, container.

The kernel numbers a cgroup by the inode of its directory in the cgroup2 hierarchy.  An unknown
number is looked for where its process says it is, which costs one small file; those that are left,
because their process has gone, are found by walking the hierarchy, off the event loop and before
rows are made.  Names stay known when their cgroup has vanished, until newer ones need the room.

Where cgroup v1 hierarchies are mounted, or no cgroup2 is, processes may all sit in the root of
cgroup2.  Then the v1 path of the process stands in, under a number of our own.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agent.hierarchy import PROC, Hierarchies, ProcessCgroups, cgroups_of, hierarchies, texts_of
from agent.vocabulary import Ids, Vocabulary
from schemas.wire import Names

_MOST = 1 << 14
# Files read on the event loop in one go: a few milliseconds.
_MOST_LOOKS = 256
# Of one CPU, walking takes no more than one part in so many, however many cgroups there are.
WALK_REST = 20
# Of a process in cgroup v1: its number may stand for another process after that.
_REMEMBER_SECONDS = 5.0
# No inode is that high.
_OWN_NUMBERS = 1 << 63


class Cgroups:
    """Names of the cgroups of this machine, as far as they can be seen from here."""

    def __init__(self, places: Hierarchies | None = None, proc: Path = PROC) -> None:
        self._proc = proc
        self._places = places or hierarchies((proc / "self/mountinfo").read_text())
        self._root_id = self._places.root.stat().st_ino if self._places.root else 0
        self._vocabulary = Vocabulary(("cgroup", "unit", "container"), _MOST)
        self._vocabulary.put({self._root_id: texts_of("/")} if self._root_id else {})
        self._missing: set[int] = set()
        self._sought: set[int] = set()
        self._rests_until = float("-inf")
        self._own_numbers: dict[str, int] = {}
        self._of_pid: dict[int, tuple[float, int]] = {}

    @property
    def root(self) -> Path | None:
        """Where cgroup2 is mounted."""
        return self._places.root

    def located(self, pid: NDArray[np.uint32], cgroup_id: Ids, now: float) -> Ids:
        """The numbers to keep for processes as the kernel told of them, at monotonic *now*.

        To be called while the processes are likely to live still.
        """
        self._look_up_unknown(pid, cgroup_id)
        if self.root and not self._places.has_v1:
            return cgroup_id
        is_vague = ((cgroup_id == 0) | (cgroup_id == self._root_id)) & (pid != 0)
        if not is_vague.any():
            return cgroup_id
        distinct, which = np.unique(pid[is_vague], return_inverse=True)
        numbers = np.array([self._number_of(one, now) for one in distinct.tolist()], np.uint64)
        located = cgroup_id.copy()
        located[is_vague] = np.where(numbers > 0, numbers, np.uint64(self._root_id))[which]
        return located

    def _look_up_unknown(self, pid: NDArray[np.uint32], cgroup_id: Ids) -> None:
        if self.root is None:
            return
        unknown = [
            number
            for number in self._vocabulary.unknown(cgroup_id).tolist()
            if number and number not in self._sought
        ]
        for number in unknown[:_MOST_LOOKS]:
            # Any of its processes will do; a socket's own is not known in each event.
            one = int(pid[cgroup_id == number].max())
            if self._is_found_by(one, number):
                self._missing.discard(number)
            else:
                self._missing.add(number)
        self._missing.update(unknown[_MOST_LOOKS:])

    def _is_found_by(self, pid: int, number: int) -> bool:
        """Whether the process says itself where the cgroup of that *number* is."""
        found = cgroups_of(pid, self._proc) if pid and self.root else None
        if found is None or self.root is None:
            return False
        try:
            inode = (self.root / found.unified.lstrip("/")).stat().st_ino
        except OSError:
            return False
        if inode == number:
            self._vocabulary.put({number: texts_of(found.unified)})
        return inode == number

    def _number_of(self, pid: int, now: float) -> int:
        """A number for the v1 cgroup of a process, 0 where it cannot be told."""
        read_at, number = self._of_pid.get(pid, (float("-inf"), 0))
        if now - read_at < _REMEMBER_SECONDS:
            return number
        if len(self._of_pid) >= _MOST:
            self._of_pid.clear()
        found = cgroups_of(pid, self._proc)
        number = self._own_number(found) if found else 0
        self._of_pid[pid] = (now, number)
        return number

    def _own_number(self, found: ProcessCgroups) -> int:
        # Without a cgroup2 mount there are no inodes to compare, but paths tell as much.
        path = found.v1 if len(found.v1) > 1 else found.unified
        if len(path) <= 1:
            return 0
        if len(self._own_numbers) >= _MOST:
            self._own_numbers.clear()
        number = self._own_numbers.setdefault(path, _OWN_NUMBERS + hash(path) % _OWN_NUMBERS)
        self._vocabulary.put({number: texts_of(path)})
        return number

    def is_walk_due(self, now: float) -> bool:
        """Whether there are numbers that only a walk of the hierarchy may find."""
        return bool(self._missing) and now >= self._rests_until

    def learn(self, walked: dict[int, str], now: float, took_seconds: float = 0.0) -> None:
        """Take what a walk that took so long has found; what it has not is not sought again."""
        self._rests_until = now + WALK_REST * took_seconds
        self._vocabulary.put({number: texts_of(path) for number, path in walked.items()})
        if len(self._sought) > _MOST:
            self._sought.clear()
        self._sought |= self._missing - walked.keys()
        self._missing.clear()

    def columns(self, cgroup_id: Ids) -> dict[str, Names]:
        """The columns `cgroup`, `unit` and `container`."""
        return self._vocabulary.columns(cgroup_id)
