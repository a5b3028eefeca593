# SPDX-License-Identifier: Apache-2.0
"""Tell which batches of a block are to be inserted, and which are stored already.

Agents send batches again after a crash, so a batch may stand in a topic more than once.  What we
remember decides mostly; about the rest ClickHouse is asked, once for a whole block.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from consumer.metrics import Metrics
from consumer.patience import Patience
from consumer.presence import (
    Found,
    lacks_rows,
    name_of,
    rows_by_day,
    stored_days,
    without_days,
)
from consumer.ranges import Ranges
from consumer.record import Accepted, Partition
from consumer.sink import Sink, SinkUnavailable
from consumer.stored import Name, Stored, Verdict
from schemas import layout

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Chosen:
    """The batches to insert; how many were left out, because they are stored.

    Of some batches the rows of some days are stored: *stored_days* says of which, by offset, and
    those rows are in *accepted* no more.  *has_doubtful* where ClickHouse was asked about some.
    """

    accepted: list[Accepted] = field(default_factory=list)
    stored_days: dict[int, Ranges] = field(default_factory=dict)
    repeated: int = 0
    has_doubtful: bool = False


class Sieve:
    """Remembers for each partition of one topic what is stored, and asks about the rest."""

    def __init__(self, kind: layout.Record, sink: Sink, metrics: Metrics) -> None:
        self._kind = kind
        self._sink = sink
        self._metrics = metrics
        self._stored: dict[Partition, Stored] = {}

    async def choose(
        self,
        partition: Partition,
        accepted: Sequence[Accepted],
        *,
        is_doubtful: bool,
        before_asking: Callable[[], Awaitable[None]],
    ) -> Chosen:
        """What of *accepted* is not stored; *is_doubtful* where nothing is taken for new unasked.

        Raises:
            SinkError: ClickHouse does not answer such questions.
        """
        stored = self._stored.setdefault(partition, Stored())
        chosen = Chosen()
        doubtful: list[Accepted] = []
        seen: set[Name] = set()
        for one in accepted:
            # Without rows there is nothing to store, nor to find.
            if not one.rows.rows:
                continue
            name = name_of(one.rows)
            verdict = Verdict.REPEATED if name in seen else stored.judge(name)
            seen.add(name)
            if verdict is Verdict.REPEATED:
                chosen.repeated += 1
                continue
            chosen.accepted.append(one)
            if is_doubtful or verdict is Verdict.DOUBTFUL:
                doubtful.append(one)
        if not doubtful:
            return chosen
        await before_asking()
        return self._sifted(chosen, stored, await self._ask(doubtful))

    def remember(self, partition: Partition, chosen: Chosen) -> None:
        """Take note that these batches are stored by now."""
        stored = self._stored.setdefault(partition, Stored())
        for one in chosen.accepted:
            is_new = one.record.offset not in chosen.stored_days
            stored.add(name_of(one.rows), is_new=is_new)

    def _sifted(self, candidates: Chosen, stored: Stored, found: Found) -> Chosen:
        chosen = Chosen(repeated=candidates.repeated, has_doubtful=True)
        for one in candidates.accepted:
            there = stored_days(one.rows, found)
            if not there:
                chosen.accepted.append(one)
                continue
            if lacks_rows(one.rows, found):
                self._tell_of_missing_rows(one)
            if all(day in there for day in rows_by_day(one.rows)):
                chosen.repeated += 1
                stored.add(name_of(one.rows), is_new=False)
                continue
            chosen.accepted.append(Accepted(one.record, without_days(one.rows, there)))
            chosen.stored_days[one.record.offset] = there
        return chosen

    async def _ask(self, doubtful: Sequence[Accepted]) -> Found:
        patience = Patience("query retried", table=self._kind.table)
        batches = [one.rows for one in doubtful]
        while True:
            try:
                found = await self._sink.find(self._kind, batches)
            except SinkUnavailable as error:
                reason = str(error)
            else:
                self._metrics.doubtful_batches.labels(self._kind.topic).inc(len(batches))
                return found
            self._metrics.retried_queries.labels(self._kind.table).inc()
            await patience.rest(reason)

    def _tell_of_missing_rows(self, one: Accepted) -> None:
        # Somebody deleted them, or the table has other partitions than days.
        self._metrics.incomplete_batches.labels(one.record.topic).inc()
        node, run, seq = name_of(one.rows)
        log.error(
            "a batch has lost rows of a day; it is left as it is",
            extra={"table": self._kind.table, "node": node, "run": run, "seq": seq},
        )
