# SPDX-License-Identifier: Apache-2.0
"""Know which batches of one partition are stored already, without asking ClickHouse.

A node has one partition, so all batches of a run come by here: numbered upwards, and after each
crash of their agent some of the last ones once more.  A batch above all that we know of its run
is new, once we have seen a new one of that run: what was stored before we came is older than that.
The rest is in doubt, and ClickHouse is asked.  So memory is bounded: what is forgotten is doubted.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from enum import Enum

from consumer.ranges import Ranges

MAX_RUNS = 4096
# A run has one range, and one more for each hole: batches that its agent gave up or that are late.
MAX_RANGES = 64

Name = tuple[str, str, int]  # node, run, number of the batch


class Verdict(Enum):
    """What we know of a batch."""

    NEW = "new"
    REPEATED = "repeated"
    DOUBTFUL = "doubtful"


@dataclass(slots=True)
class _Run:
    seqs: Ranges = field(default_factory=Ranges)
    # Whether one of them was new when it came by.
    has_new: bool = False


class Stored:
    """The batches of one partition that are stored, as far as we remember."""

    def __init__(self, max_runs: int = MAX_RUNS, max_ranges: int = MAX_RANGES) -> None:
        self._max_runs = max_runs
        self._max_ranges = max_ranges
        # In the order in which they were used last.
        self._runs: OrderedDict[tuple[str, str], _Run] = OrderedDict()

    def judge(self, name: Name) -> Verdict:
        """What we know of the batch *name*."""
        node, run, seq = name
        if (known := self._runs.get((node, run))) is None:
            return Verdict.DOUBTFUL
        if seq in known.seqs:
            return Verdict.REPEATED
        if known.has_new and seq > known.seqs.highest:
            return Verdict.NEW
        return Verdict.DOUBTFUL

    def add(self, name: Name, *, is_new: bool) -> None:
        """Remember that a batch is stored; *is_new* where it was not before it came by."""
        node, run, seq = name
        known = self._runs.setdefault((node, run), _Run())
        self._runs.move_to_end((node, run))
        known.seqs.add(seq)
        known.has_new |= is_new
        while len(known.seqs) > self._max_ranges:
            known.seqs.forget_lowest()
        while len(self._runs) > self._max_runs:
            self._runs.popitem(last=False)

    def __len__(self) -> int:
        """How many runs are remembered."""
        return len(self._runs)
