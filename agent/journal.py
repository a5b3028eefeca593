# SPDX-License-Identifier: Apache-2.0
"""Tell: batches and how far they tell become valid together, or not at all.

    batches -> outbox -> checkpoint -> what was drained goes back to the kernel -> publisher

An agent that is killed before the checkpoint is committed has told nothing: the next one cuts off
what is in the outbox behind it, and finds the counters and the events in the kernel where they
were.  One that is killed after it has told all of it, and the next one sends it.
"""

import dataclasses
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from agent.checkpoint import Checkpoint, ContentTooLargeError
from agent.deliveries import Deliveries
from agent.ledger import Ledger
from agent.observer import Observer
from agent.outbox import Outbox
from agent.plan import Sizes
from schemas.fingerprint import description
from schemas.flow import FLOW
from schemas.wire import Batch, Names, decode

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class Identity:
    """Who tells: names of batches to come, and the hash key of the programs."""

    node: str
    boot_id: str
    run: str
    seeds: tuple[int, ...]


class Journal:
    """Where the observers of one agent tell what they have seen."""

    def __init__(
        self,
        outbox: Outbox,
        checkpoint: Checkpoint,
        deliveries: Deliveries,
        *,
        identity: Identity,
        sizes: Sizes,
        on_told: Callable[[], None],
    ) -> None:
        self._outbox = outbox
        self._checkpoint = checkpoint
        self._deliveries = deliveries
        self._on_told = on_told
        self._about = {
            "identity": dataclasses.asdict(identity),
            "sizes": dataclasses.asdict(sizes),
            "description": description(),
        }
        # Layouts of which all is told, so that they only have to be removed.
        self.drained: list[str] = []
        self._observer: Observer | None = None
        self._untold: Sequence[Batch] = ()
        self._is_stored = False
        self._content: dict[str, Any] | None = None
        self._trouble = ""

    @property
    def has_room(self) -> bool:
        """Whether more can be told; until then all stays where it is, in the kernel."""
        return self._content is None

    def tell(self, batches: Sequence[Batch], observer: Observer) -> None:
        """Tell *batches*, which *observer* has just made; only while there is room."""
        self._deliveries.note_made(batches)
        self._tell(batches, observer)

    def _tell(self, batches: Sequence[Batch], observer: Observer) -> None:
        self._untold = batches
        self._is_stored = False
        self._observer = observer
        # As it is now: it may drain more before this is valid.
        self._content = {
            **self._about,
            "observer": observer.state(),
            "deliveries": self._deliveries.state(),
            "drained": self.drained,
        }
        self.try_again()

    def close(self, batches: list[Batch], observer: Observer, *, is_last: bool = False) -> None:
        """Tell the *batches* of an interval, and with them what became of all batches so far."""
        waiting = self._outbox.waiting_with(batches)
        self._deliveries.note_made(batches)
        columns = self._deliveries.columns(time.time_ns(), waiting, is_last=is_last)
        books = list(observer.batches("delivery", columns))
        self._deliveries.note_made(books)
        self._tell([*batches, *books], observer)

    def tell_of(self, layout: str, batches: list[Batch], observer: Observer) -> None:
        """Tell what was left in maps of another layout, which may be removed then."""
        self.drained.append(layout)
        self.tell(batches, observer)

    def try_again(self) -> None:
        """Make valid what was told, if that has not been possible yet."""
        if self._content is None or self._observer is None:
            return
        try:
            self._make_valid(self._content, self._observer)
        except (OSError, ContentTooLargeError) as error:
            if self._trouble != str(error):
                log.error(  # noqa: TRY400  # the place in our code says nothing here
                    "rows cannot be stored and wait in the kernel; detail may be lost",
                    extra={"reason": str(error)},
                )
            self._trouble = str(error)
            return
        if self._trouble:
            log.info("rows can be stored again")
        self._trouble = ""
        self._content = None
        self._on_told()

    def _make_valid(self, content: Mapping[str, Any], observer: Observer) -> None:
        if not self._is_stored:
            self._outbox.append(self._untold)
            self._untold, self._is_stored = (), True
        positions = {"outbox": self._outbox.positions, "given_up": self._outbox.given_up}
        self._checkpoint.commit({**content, **positions}, observer.cache)
        self._outbox.make_valid()
        observer.release(content["observer"]["buffers"])

    def make_room(self, ledger: Ledger) -> None:
        """Give up the oldest rows where the outbox is full, and book them as lost."""
        self._deliveries.note_damaged(self._outbox.take_damaged())
        batches = rows = 0
        for entry in self._outbox.give_up_excess():
            self._deliveries.note_lost(entry.name)
            batches, rows = batches + 1, rows + entry.name.rows
            if entry.name.kind == FLOW.kind:
                _book_lost(ledger, decode(entry.payload))
        if batches:
            log.error(
                "rows are lost: the spool is full; consider more --spool-bytes",
                extra={"batches": batches, "rows": rows},
            )


def _book_lost(ledger: Ledger, batch: Batch) -> None:
    """Book the packets and bytes of flow rows, by interface and direction."""
    names, directions = batch.columns["interface"], batch.columns["direction"]
    packets = np.asarray(batch.columns["packets"], np.uint64)
    in_bytes = np.asarray(batch.columns["bytes"], np.uint64)
    assert isinstance(names, Names)  # noqa: S101 - it is a column of names
    places = np.stack([names.codes.astype(np.int64), np.asarray(directions, np.int64)])
    found, which = np.unique(places, axis=1, return_inverse=True)
    sums = np.zeros((2, found.shape[1]), np.uint64)
    np.add.at(sums[0], which.reshape(-1), packets)
    np.add.at(sums[1], which.reshape(-1), in_bytes)
    for (code, direction), (lost, lost_bytes) in zip(
        found.T.tolist(), sums.T.tolist(), strict=True
    ):
        ledger.book_lost(names.categories[code], direction, lost, lost_bytes)
