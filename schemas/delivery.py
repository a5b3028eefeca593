# SPDX-License-Identifier: Apache-2.0
"""The books of batches: how many a run of an agent has made of each kind, and where they are.

For every run and kind `made = acknowledged + spooled + lost`.  Counts are those since the run
began, so that its latest row alone tells all of it, however many rows before it are missing.
"""

from schemas import fields as f
from schemas.layout import NAME, U8, U64, Field, Record


def _count(name: str, doc: str) -> Field:
    return Field(name, U64, doc, f.COUNTER_CODEC)


DELIVERY = Record(
    kind="delivery",
    table="deliveries",
    doc="What became of the batches of one run and kind, from the run's begin to the row's time.",
    fields=(
        f.TIME.of(f.TIME.kind, "wall time of the counts, nanoseconds since the epoch"),
        Field("of_run", NAME, "the run that is told of; another than `run` where that has ended"),
        Field(
            "began",
            f.TIME.kind,
            "wall time at which that run began, nanoseconds since the epoch; 0 where unknown",
            f.TIME_CODEC,
        ),
        Field("of_kind", NAME, "the kind of the batches"),
        _count("made", "batches made; they are numbered from 0 without a hole"),
        _count("made_rows", "rows in them; 0 where the machine restarted in between"),
        _count("acknowledged", "batches that Kafka has acknowledged"),
        _count("spooled", "batches that wait on the node for Kafka"),
        _count("lost", "batches given up because the spool was full"),
        _count("lost_rows", "rows in those"),
        _count("retried", "batches sent again"),
        Field("is_last", U8, "1 where the run has ended, so that no more batches will be made"),
    ),
    order_by="time, node, of_run, of_kind",
)
