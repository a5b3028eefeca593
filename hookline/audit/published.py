# SPDX-License-Identifier: Apache-2.0
"""Add up what Kafka holds of a period: the same batches that the other books are about."""

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

from consumer.record import Partition, Record, Rejected, judge
from hookline.audit.books import Amount, Books, Place, RunAndKind
from hookline.progress import Progress
from hookline.topics import Topics
from schemas import wire
from schemas.catalogue import RECORDS
from schemas.fields import DIRECTIONS
from schemas.flow import FLOW

_NAMES = {number: name for name, number in DIRECTIONS.items()}
# Batches are published soon after they are made, unless Kafka was away.
_EARLIER_MS = 60_000


@dataclass(slots=True)
class _Found:
    """What was read so far; an agent that was killed may have published a batch twice."""

    amounts: defaultdict[Place, Amount] = field(default_factory=lambda: defaultdict(Amount))
    seqs: defaultdict[RunAndKind, set[int]] = field(default_factory=lambda: defaultdict(set))


async def add_published(books: Books, topics: Topics) -> None:
    """Put into *books* what is in Kafka; what Kafka has not had to keep stays unknown.

    Raises:
        BrokerError: Kafka stopped answering.
    """
    partitions = await topics.partitions(record.topic for record in RECORDS)
    since_ms = max(books.from_ns // 1_000_000 - _EARLIER_MS, 0)
    spans = await topics.spans(partitions, since_ms=since_ms)
    found = _Found()
    with Progress("reading kafka", sum(map(len, spans.values()))) as progress:
        async for records in topics.records(spans):
            for record in records:
                _take(found, books, record)
            progress.add(len(records))
    _put(books, found, await _begin_late(topics, partitions, since_ms))


def _take(found: _Found, books: Books, record: Record) -> None:
    verdict = judge(record)
    if isinstance(verdict, Rejected):
        return  # the consumer has made a dead letter of it
    batch = verdict.rows
    key = RunAndKind(batch.node, batch.run, batch.kind)
    if batch.seq in found.seqs[key]:
        return
    is_told = key in books.batches and batch.seq in books.batches[key].span
    is_flow = batch.kind == FLOW.kind and batch.seq in books.flow_spans.get(key[:2], ())
    if is_told or is_flow:
        found.seqs[key].add(batch.seq)
    if is_flow:
        _add_flows(found, batch)


def _add_flows(found: _Found, batch: wire.Batch) -> None:
    names, directions = batch.columns["interface"], np.asarray(batch.columns["direction"])
    if not isinstance(names, wire.Names):
        return
    places = names.codes.astype(np.int64) << 8 | directions
    for place in np.unique(places).tolist():
        is_here = places == place
        packets = int(np.asarray(batch.columns["packets"])[is_here].sum())
        in_bytes = int(np.asarray(batch.columns["bytes"])[is_here].sum())
        where = Place(batch.node, names.categories[place >> 8], _NAMES[place & 0xFF])
        found.amounts[where] += Amount(packets, in_bytes)


def _put(books: Books, found: _Found, late: set[str]) -> None:
    if FLOW.topic not in late:
        for place, at in books.stations.items():
            at.kafka = found.amounts[place]
    for key, batches in books.batches.items():
        if f"hookline.{key.kind}.v1" not in late:
            batches.kafka = sum(seq in batches.span for seq in found.seqs[key])


async def _begin_late(topics: Topics, partitions: list[Partition], since_ms: int) -> set[str]:
    """The topics of which Kafka has deleted records that the period may have had."""
    whole = await topics.spans(partitions)
    chosen = await topics.spans(partitions, since_ms=since_ms) if since_ms else whole
    return {
        topic
        for (topic, number), span in whole.items()
        if span.start > 0 and chosen[topic, number].start <= span.start
    }
