# SPDX-License-Identifier: Apache-2.0
"""Keep the books of batches: how many each run has made of each kind, and what became of them.

The rows of kind `delivery`.  What waits is known by the spool; what was made, given up or sent
again is noted here.  A run that has ended is told of until nothing of it waits any more.
"""

from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, field
from typing import Any, NamedTuple

import numpy as np

from agent.columns import Columns, typed
from agent.segments import Name
from agent.spool import RunAndKind, Waiting
from schemas.delivery import DELIVERY
from schemas.wire import Batch, Names

_NOTHING = Waiting()


@dataclass(slots=True)
class Made:
    """Of one kind of one run, since the run began."""

    batches: int = 0
    rows: int = 0
    lost: int = 0
    lost_rows: int = 0
    retried: int = 0


@dataclass(slots=True)
class Run:
    """One agent's life, from its start to its end; began at 0 where that is not known."""

    began_ns: int = 0
    kinds: dict[str, Made] = field(default_factory=dict)

    def of(self, kind: str) -> Made:
        return self.kinds.setdefault(kind, Made())


class _Row(NamedTuple):
    """One row, as its columns are called."""

    of_run: str
    began: int
    of_kind: str
    made: int
    made_rows: int
    acknowledged: int
    spooled: int
    lost: int
    lost_rows: int
    retried: int
    is_last: int


class Deliveries:
    """The books of the run that makes batches now, and of those before it that still wait."""

    def __init__(self, run: str, began_ns: int) -> None:
        self._run = run
        self._runs = {run: Run(began_ns)}

    def note_made(self, batches: Iterable[Batch]) -> None:
        for batch in batches:
            made = self._made(batch.run, batch.kind)
            made.batches += 1
            made.rows += batch.rows

    def made_by(self, run: str) -> dict[str, int]:
        """How many batches of each kind a run has made, which is the number of its next one."""
        kinds = self._runs[run].kinds if run in self._runs else {}
        return {kind: made.batches for kind, made in kinds.items()}

    def note_retried(self, name: Name) -> None:
        self._made(name.run, name.kind).retried += 1

    def note_lost(self, name: Name) -> None:
        """Note a batch that is given up."""
        made = self._made(name.run, name.kind)
        made.lost += 1
        made.lost_rows += name.rows

    def note_damaged(self, lost: Mapping[RunAndKind, int]) -> None:
        """Note batches that cannot be read any more; nobody knows how many rows they had."""
        for (run, kind), batches in lost.items():
            self._made(run, kind).lost += batches

    def note_found(self, last_seq: Mapping[RunAndKind, int]) -> None:
        """Note the last batches that the spool held when it was opened, of whatever run.

        Of a run before the machine's restart nothing else is known.
        """
        for (run, kind), seq in last_seq.items():
            made = self._made(run, kind)
            made.batches = max(made.batches, seq + 1)

    def _made(self, run: str, kind: str) -> Made:
        return self._runs.setdefault(run, Run()).of(kind)

    def columns(
        self, now_ns: int, waiting: Mapping[RunAndKind, Waiting], *, is_last: bool = False
    ) -> Columns:
        """The rows of this moment; *is_last* where the run that makes batches ends with them.

        They count the batch that they will be.
        """
        self._runs[self._run].of(DELIVERY.kind)
        told = [(run, kind) for run, one in self._runs.items() for kind in one.kinds]
        this_batch = Waiting(1, len(told))
        rows = []
        for run, kind in told:
            is_own = run == self._run
            this = this_batch if is_own and kind == DELIVERY.kind else _NOTHING
            waits = waiting.get((run, kind), _NOTHING)
            rows.append(self._row(run, kind, waits, this, is_last=is_last or not is_own))
        for run in self._runs.keys() - {self._run} - {run for run, _ in waiting}:
            del self._runs[run]
        columns: dict[str, Any] = {
            name: _column(values)
            for name, values in zip(_Row._fields, zip(*rows, strict=True), strict=True)
        }
        return typed(DELIVERY, {"time": np.full(len(rows), now_ns, np.int64), **columns})

    def _row(self, run: str, kind: str, waiting: Waiting, this: Waiting, *, is_last: bool) -> _Row:
        """*this* is the batch that the row will be in, where it is one of the kind itself."""
        made = self._runs[run].kinds[kind]
        return _Row(
            of_run=run,
            began=self._runs[run].began_ns,
            of_kind=kind,
            made=made.batches + this.batches,
            made_rows=made.rows + this.rows,
            acknowledged=made.batches - waiting.batches - made.lost,
            spooled=waiting.batches + this.batches,
            lost=made.lost,
            lost_rows=made.lost_rows,
            retried=made.retried,
            is_last=int(is_last),
        )

    def state(self) -> list[Any]:
        """All that a successor needs to go on with the books."""
        return [
            [run, one.began_ns, [[kind, *astuple(made)] for kind, made in one.kinds.items()]]
            for run, one in self._runs.items()
        ]

    def restore(self, state: Iterable[Any]) -> None:
        """Add the books of runs that have ended."""
        for run, began_ns, kinds in state:
            self._runs[run] = Run(began_ns, {kind: Made(*counts) for kind, *counts in kinds})


def _column(values: tuple[Any, ...]) -> Any:
    if not isinstance(values[0], str):
        return np.array(values)
    names = tuple(dict.fromkeys(values))
    codes = np.array([names.index(name) for name in values], "<u2")
    return Names(codes, names)
