# SPDX-License-Identifier: Apache-2.0
"""Show records to the detectors: decode them, leave out repeats, join them, let each detector look.

A record that cannot be decoded is counted and passed over: the consumer, which reads the same
topics, puts it into the dead letters.
"""

import logging
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from time import perf_counter

from consumer.alerts.alert import Sighting
from consumer.alerts.detector import Detector
from consumer.alerts.metrics import Metrics
from consumer.alerts.rows import Rows
from consumer.record import Record, Rejected, judge
from schemas.catalogue import RECORD_OF_KIND
from schemas.wire import Batch
from service.logs import RateLimit

# Runs of agents whose last batch is remembered, by kind.
MOST_RUNS = 1 << 16
_LOG_EVERY_S = 10.0

log = logging.getLogger(__name__)
log.addFilter(RateLimit(_LOG_EVERY_S))


class Watch:
    """All detectors, and what they need to be shown each batch once."""

    def __init__(self, detectors: Sequence[Detector], metrics: Metrics) -> None:
        self._detectors = detectors
        self._metrics = metrics
        self._last_seqs: OrderedDict[tuple[str, str, str], int] = OrderedDict()

    def take(self, records: Iterable[Record], now_ns: int) -> list[Sighting]:
        """What *records*, in the order of each partition, show at the wall time *now_ns*."""
        by_kind: dict[str, list[Batch]] = {}
        for record in records:
            self._metrics.records.labels(record.topic).inc()
            judged = judge(record)
            if isinstance(judged, Rejected):
                self._metrics.rejected_records.labels(record.topic).inc()
                log.warning(
                    "record passed over",
                    extra={"topic": record.topic, "offset": record.offset, "reason": judged.reason},
                )
            elif self._is_new(judged.rows):
                by_kind.setdefault(judged.rows.kind, []).append(judged.rows)
            else:
                self._metrics.repeated_batches.labels(record.topic).inc()
        return [one for kind in by_kind for one in self.show(Rows(by_kind[kind]), now_ns)]

    def show(self, rows: Rows, now_ns: int) -> list[Sighting]:
        """What the detectors see in *rows*."""
        self._metrics.rows.labels(rows.record.topic).inc(len(rows))
        found: list[Sighting] = []
        for one in self._detectors:
            if rows.record.kind in one.kinds and len(rows):
                began = perf_counter()
                found += self._counted(one, one.take(rows, now_ns))
                self._metrics.seconds.labels(one.name).observe(perf_counter() - began)
        return found

    def pause(self, now_ns: int) -> None:
        """Let no silence count until *now_ns*: nothing could be heard."""
        for one in self._detectors:
            one.pause(now_ns)

    def look(self, now_ns: int) -> list[Sighting]:
        """What the detectors see by time alone."""
        found: list[Sighting] = []
        for one in self._detectors:
            found += self._counted(one, one.look(now_ns))
            self._metrics.size_bytes.labels(one.name).set(one.size_bytes)
        return found

    def _counted(self, detector: Detector, sightings: Sequence[Sighting]) -> Sequence[Sighting]:
        if sightings:
            self._metrics.sightings.labels(detector.name).inc(len(sightings))
        return sightings

    def _is_new(self, batch: Batch) -> bool:
        """Whether a batch comes for the first time; agents send some again after a crash."""
        of = (batch.node, batch.run, batch.kind)
        if batch.seq <= self._last_seqs.get(of, -1):
            return False
        self._last_seqs[of] = batch.seq
        self._last_seqs.move_to_end(of)
        if len(self._last_seqs) > MOST_RUNS:
            self._last_seqs.popitem(last=False)
        return True


def topics(detectors: Sequence[Detector]) -> list[str]:
    """What has to be read for these detectors."""
    kinds = dict.fromkeys(kind for one in detectors for kind in one.kinds)
    return [RECORD_OF_KIND[kind].topic for kind in kinds]
