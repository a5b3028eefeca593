# SPDX-License-Identifier: Apache-2.0
"""Everything that is on its way to Kafka, in two logs.

Rows of flows, packets and the like fill one log, and the books have another, so that giving up the
oldest rows of a long outage never takes along the books that say how many there were.  What is
appended may be sent only once it is valid: when the checkpoint that tells of it is committed.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from agent.segments import Entry, Name, Segment
from agent.spool import RunAndKind, Spool, Waiting
from schemas.delivery import DELIVERY
from schemas.interface import INTERFACE
from schemas.ledger import LEDGER
from schemas.wire import Batch, encode

BOOKS = frozenset({LEDGER.kind, DELIVERY.kind, INTERFACE.kind})
# Books are few: this part of the room is days of them.
_BOOKS_SHARE = 8

Positions = Mapping[str, int]


@dataclass(slots=True)
class Log:
    """One of the two, and what of it may be sent."""

    spool: Spool
    valid: int  # the first number that may not be sent yet
    # Segments that the books have given up, to be deleted once those are valid.
    given_up: list[Segment] = field(default_factory=list)
    seen: int = 0  # the next number when the log was last looked at for what waits

    def peek(self, most: int) -> list[Entry]:
        """The oldest batches that may be sent and were not acknowledged."""
        limit = min([self.valid, *(segment.first for segment in self.given_up)])
        return self.spool.peek(most, limit)

    def acknowledge(self, count: int) -> None:
        self.spool.acknowledge(count)


class Outbox:
    """Both logs, in one directory.

    Raises:
        OSError: the directory cannot be used.
    """

    def __init__(self, directory: Path, most_bytes: int) -> None:
        books_bytes = most_bytes // _BOOKS_SHARE
        spools = {
            "books": Spool(directory / "books", books_bytes),
            "rows": Spool(directory / "rows", most_bytes - books_bytes),
        }
        self.logs = {name: Log(spool, spool.next_number) for name, spool in spools.items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for log in self.logs.values():
            log.spool.close()

    @property
    def waiting(self) -> dict[RunAndKind, Waiting]:
        """What waits, by run and kind."""
        return {
            key: waiting for log in self.logs.values() for key, waiting in log.spool.waiting.items()
        }

    def waiting_with(self, batches: Iterable[Batch]) -> dict[RunAndKind, Waiting]:
        """What will wait once *batches* are appended."""
        waiting = self.waiting
        for batch in batches:
            before = waiting.get((batch.run, batch.kind), Waiting())
            more = Waiting(before.batches + 1, before.rows + batch.rows)
            waiting[batch.run, batch.kind] = more
        return waiting

    @property
    def waiting_bytes(self) -> int:
        return sum(log.spool.waiting_bytes for log in self.logs.values())

    @property
    def waiting_rows(self) -> int:
        return sum(waiting.rows for waiting in self.waiting.values())

    @property
    def positions(self) -> dict[str, int]:
        """Where the next batches will go."""
        return {name: log.spool.next_number for name, log in self.logs.items()}

    def take_damaged(self) -> dict[RunAndKind, int]:
        """How many batches cannot be read any more, since this was asked last."""
        damaged: dict[RunAndKind, int] = {}
        for log in self.logs.values():
            damaged |= log.spool.damage.lost
            log.spool.damage.lost.clear()
        return damaged

    @property
    def found(self) -> dict[RunAndKind, int]:
        """The last batch of each run and kind that was there when the logs were opened."""
        return {key: seq for log in self.logs.values() for key, seq in log.spool.found.items()}

    def append(self, batches: Iterable[Batch]) -> None:
        """Store *batches*, all of them or none.

        Raises:
            OSError: there is no room, or the disk fails.
        """
        before = self.positions
        by_log: dict[str, list[tuple[Name, bytes]]] = {name: [] for name in self.logs}
        for batch in batches:
            named = Name(batch.node, batch.run, batch.kind, batch.seq, batch.rows), encode(batch)
            by_log["books" if batch.kind in BOOKS else "rows"].append(named)
        try:
            for log, its in by_log.items():
                self.logs[log].spool.append(its)
        except OSError:
            self._forget_from(before)
            raise

    def restore(self, positions: Positions, given_up: Mapping[str, Sequence[int]]) -> None:
        """Forget what was appended after these positions, and what was given up before."""
        self._forget_from(positions)
        for name, firsts in given_up.items():
            self.logs[name].spool.give_up_named(firsts)
        for log in self.logs.values():
            log.valid = log.spool.next_number

    def _forget_from(self, positions: Positions) -> None:
        for name, number in positions.items():
            self.logs[name].spool.forget_from(number)

    def syncing(self) -> list[Callable[[], None]]:
        """What brings those logs onto the disk in which anything waits since this was asked last.

        To be called in a thread.
        """
        asked = []
        for log in self.logs.values():
            waits, log.seen = log.spool.acknowledged < log.seen, log.spool.next_number
            if waits and (sync := log.spool.syncing()):
                asked.append(sync)
        return asked

    def give_up_excess(self) -> Iterator[Entry]:
        """What has to be given up for the bounds to hold; it stays until that is valid."""
        for log in self.logs.values():
            for segment in log.spool.excess():
                if segment not in log.given_up:
                    log.given_up.append(segment)
                    yield from log.spool.entries(segment)

    @property
    def given_up(self) -> dict[str, list[int]]:
        """The segments that are to be deleted, by their first number."""
        return {name: [one.first for one in log.given_up] for name, log in self.logs.items()}

    def make_valid(self) -> None:
        """What was appended may be sent, and what was given up goes."""
        for log in self.logs.values():
            for segment in log.given_up:
                log.spool.give_up(segment)
            log.given_up.clear()
            log.valid = log.spool.next_number
