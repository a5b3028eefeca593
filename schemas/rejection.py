# SPDX-License-Identifier: Apache-2.0
"""Records that could not be used, as rows: what SQL can say of dead letters.

A dead letter has a format of its own and holds the whole payload; this kind has one row for it,
in the format of every other kind.  So it takes the way of every other kind into its table, and is
there once, whoever consumes it.
"""

from schemas import fields as f
from schemas.layout import NAME, TEXT, TIME_NS, U32, U64, Field, Record

REJECTION = Record(
    kind="rejection",
    table="dead_letters",
    doc="A record that the consumer could not use; its payload is in the dead letter, in Kafka.",
    fields=(
        f.TIME.of(TIME_NS, "wall time at which it was rejected, nanoseconds since the epoch"),
        Field("letter_partition", U32, "partition of the dead letter in `hookline.dead-letter`"),
        Field("letter", U64, "number of the dead letter, which is its offset there"),
        Field("topic", NAME, "topic of the record"),
        Field("record_partition", U32, "its partition"),
        Field("record_offset", U64, "its offset"),
        Field("record_time", TIME_NS, "Kafka's timestamp of it; 1970 or 2200 where it is outside"),
        Field("payload_bytes", U64, "length of its value"),
        Field("reason", TEXT, "why it was rejected"),
    ),
    order_by="time, node",
)
