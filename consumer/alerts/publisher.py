# SPDX-License-Identifier: Apache-2.0
"""Publish changes of alerts to `hookline.alert.v1`, and return once all replicas have them."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from consumer.alerts import row
from consumer.alerts.alert import Alert
from consumer.kafka_errors import lasts
from consumer.patience import Patience
from schemas import wire
from schemas.alert import ALERT
from service.broker import BrokerError, BrokerUnavailable, one_line


class Publisher:
    """The producer of alerts; *node*, *boot_id* and *run* name its batches."""

    def __init__(self, connection: Mapping[str, Any], *, node: str, boot_id: str, run: str) -> None:
        self._connection = connection
        self._name = {"node": node, "boot_id": boot_id, "run": run}
        self._next_seq = 0
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
            compression_type="zstd",
        )
        try:
            await self._producer.start()
        except KafkaError as error:
            await self._producer.stop()
            raise BrokerUnavailable(one_line(error)) from None

    async def publish(self, alerts: Sequence[Alert]) -> None:
        """Store the rows of *alerts*; a batch that is sent again keeps its number.

        Raises:
            BrokerError: we may not write them.
        """
        batches = row.batches(alerts, **self._name, first_seq=self._next_seq)
        self._next_seq += len(batches)
        await asyncio.gather(*(self._send(wire.encode(batch)) for batch in batches))

    async def _send(self, payload: bytes) -> None:
        patience = Patience("alerts retried", topic=ALERT.topic)
        key = self._name["node"].encode()
        while True:
            try:
                await self._producer.send_and_wait(ALERT.topic, payload, key)
            except KafkaError as error:
                if lasts(error):
                    raise BrokerError(f"kafka takes no alert: {one_line(error)}") from None
                reason = one_line(error)
            else:
                return
            await patience.rest(reason)

    async def stop(self) -> None:
        await self._producer.stop()
