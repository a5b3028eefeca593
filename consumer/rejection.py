# SPDX-License-Identifier: Apache-2.0
"""Say of a rejected record in one row what its dead letter says in full.

The row is a record of its own kind, so it is stored like all others.  Its name is made of the
place of the rejected record: one that is rejected again, after a crash, has one row.
"""

import numpy as np

from consumer.record import Rejected
from schemas import wire
from schemas.dead_letter import MAX_REASON_CHARACTERS, node_of
from schemas.rejection import REJECTION

_UNKNOWN = "unknown"
_MAX_TIME_MS = (wire.LATEST_TIME_NS - 1) // 1_000_000


def rejection(rejected: Rejected, *, partition: int, offset: int, time_ms: int) -> wire.Batch:
    """The row of a record whose dead letter was written at *time_ms* to this place."""
    record = rejected.record
    reason = np.frombuffer(rejected.reason[:MAX_REASON_CHARACTERS].encode(), np.uint8)
    return wire.Batch(
        kind=REJECTION.kind,
        node=_node(record.key),
        boot_id=_UNKNOWN,
        run=f"{record.topic}/{record.partition}",
        seq=record.offset,
        anchor={},
        rows=1,
        columns={
            "time": _time(time_ms),
            "letter_partition": np.array([partition], "<u4"),
            "letter": np.array([offset], "<u8"),
            "topic": wire.Names(np.zeros(1, "|u1"), (record.topic,)),
            "record_partition": np.array([record.partition], "<u4"),
            "record_offset": np.array([record.offset], "<u8"),
            "record_time": _time(record.timestamp_ms),
            "payload_bytes": np.array([len(record.payload or b"")], "<u8"),
            "reason": wire.Text(np.array([len(reason)], "<u2"), reason),
        },
    )


def _node(key: bytes | None) -> str:
    """The node that wrote the record, as a name that every reader takes."""
    name = node_of(key).encode()[: wire.MAX_NAME_BYTES].decode(errors="ignore")
    return name or _UNKNOWN


def _time(time_ms: int) -> wire.Column:
    # Whoever writes a record chooses its timestamp.
    return np.array([min(max(time_ms, 0), _MAX_TIME_MS) * 1_000_000], "<i8")
