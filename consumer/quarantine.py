# SPDX-License-Identifier: Apache-2.0
"""Keep what cannot be decoded or stored: one dead letter for each rejected record, and one row.

A dead letter is one msgpack map in the topic `hookline.dead-letter`; its format is specified in
docs/reference/record-format.md.  The row tells of it in SQL, and goes the way of all rows.  Both
are acknowledged by all replicas before the offset of the record is committed, so a record is never
skipped in silence.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError

from consumer.kafka_errors import lasts
from consumer.patience import Patience
from consumer.record import Record, Rejected
from consumer.rejection import rejection
from schemas import wire
from schemas.dead_letter import (
    MAX_KEY_BYTES,
    MAX_PAYLOAD_BYTES,
    MAX_REASON_CHARACTERS,
    TOPIC,
    Letter,
    encode,
)
from schemas.rejection import REJECTION
from service.broker import BrokerError, BrokerUnavailable, one_line

log = logging.getLogger(__name__)


def dead_letter(rejected: Rejected, max_payload_bytes: int = MAX_PAYLOAD_BYTES) -> bytes:
    """The dead letter of one record, its payload cut to *max_payload_bytes*."""
    record = rejected.record
    return encode(
        Letter(
            reason=rejected.reason[:MAX_REASON_CHARACTERS],
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            timestamp_ms=record.timestamp_ms,
            key=_cut(record.key, MAX_KEY_BYTES),
            payload=_cut(record.payload, max_payload_bytes),
            payload_bytes=len(record.payload or b""),
        )
    )


def _cut(content: bytes | None, most: int) -> bytes | None:
    return None if content is None else content[:most]


class Quarantine:
    """The producer of dead letters; *connection* is how to reach the brokers."""

    def __init__(self, connection: Mapping[str, Any]) -> None:
        self._connection = connection
        self._producer: Any = None

    async def start(self) -> None:
        """Connect.

        Raises:
            BrokerUnavailable: no broker answers, or none lets us in.
        """
        self._producer = AIOKafkaProducer(
            **self._connection,
            acks="all",
            enable_idempotence=True,
            max_request_size=2 * MAX_PAYLOAD_BYTES,
        )
        try:
            await self._producer.start()
        except KafkaError as error:
            await self._producer.stop()
            raise BrokerUnavailable(one_line(error)) from None

    async def put(self, rejected: Sequence[Rejected]) -> None:
        """Store dead letters and their rows, and return once all are acknowledged.

        Raises:
            BrokerError: we may not write them.
        """
        if not rejected:
            return
        await asyncio.gather(*(self._put_one(one) for one in rejected))
        first = rejected[0]
        log.error(
            "records rejected",
            extra={"records": len(rejected), **_place(first.record), "reason": first.reason},
        )

    async def _put_one(self, rejected: Rejected) -> None:
        key = _cut(rejected.record.key, MAX_KEY_BYTES)
        letter = await self._put_letter(rejected, key)
        if rejected.record.topic == REJECTION.topic:
            # A row that cannot be used must not make another one, which could not be either.
            return
        row = rejection(
            rejected,
            partition=letter.partition,
            offset=letter.offset,
            time_ms=letter.timestamp,
        )
        await self._send(REJECTION.topic, wire.encode(row), key)

    async def _put_letter(self, rejected: Rejected, key: bytes | None) -> Any:
        """Store a dead letter; where it is, and when."""
        try:
            return await self._send(TOPIC, dead_letter(rejected), key)
        except MessageSizeTooLargeError:
            pass
        try:
            # This broker takes less than most.  Where the record lies still says what it was.
            return await self._send(TOPIC, dead_letter(rejected, 0), key)
        except MessageSizeTooLargeError as error:
            raise BrokerError(f"kafka takes no dead letter: {one_line(error)}") from None

    async def _send(self, topic: str, payload: bytes, key: bytes | None) -> Any:
        patience = Patience("dead letter retried", topic=topic)
        while True:
            try:
                return await self._producer.send_and_wait(topic, payload, key)
            except MessageSizeTooLargeError:
                raise
            except KafkaError as error:
                if lasts(error):
                    raise BrokerError(f"kafka takes no dead letter: {one_line(error)}") from None
                reason = one_line(error)
            await patience.rest(reason)

    async def stop(self) -> None:
        await self._producer.stop()


def _place(record: Record) -> dict[str, Any]:
    return {"topic": record.topic, "partition": record.partition, "offset": record.offset}
