# SPDX-License-Identifier: Apache-2.0
"""Rules that come from the network: read, verified, put in force together.

The topic is compacted, so it is read from its beginning at every start: what it holds is what there
is.  While no broker answers, rules stay in force until their ends.  What is not obeyed is counted by
its reason and told of; of a flood of forgeries only the first of an interval, since each costs a row.
"""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord

from agent.rules.keeper import Change, Keeper
from agent.rules.record import Rejected
from schemas.rules.allow import Allowed, conflicts
from schemas.rules.rule import RuleError
from schemas.rules.signed import TOPIC, Order, SignedError, Trusted, verified
from service.broker import Broker, one_line
from service.unpack import bound_client_library, payload_and_fault

log = logging.getLogger(__name__)

_FETCH_WAIT_MS = 500  # a fetch returns with the first record
_METADATA_MS = 5_000
_MOST_RECORDS = 20_000
_AGAIN_SECONDS = 1.0
_MOST_TOLD = 100


@dataclass(slots=True)
class Subscriber:
    """Has the keeper obey what trusted keys have signed for this node."""

    keeper: Keeper
    trusted: Trusted
    broker: Broker
    node: str
    rejected_total: Counter[str] = field(default_factory=Counter)
    _rejected: list[Rejected] = field(default_factory=list)
    # Of each name the newest serial that came since we began to read.
    _seen: dict[str, int] = field(default_factory=dict)
    _trouble: str = ""
    _task: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def subscribed(self) -> AsyncIterator[None]:
        """Meanwhile rules come; without trusted keys none does."""
        if not self.trusted.keys:
            yield
            return
        self._task = asyncio.create_task(self._run())
        try:
            yield
        finally:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def raise_if_failed(self) -> None:
        """Pass on what ended the reading, which begins again after all that may pass."""
        if self._task is not None and self._task.done():
            self._task.result()

    def take_rejected(self) -> list[Rejected]:
        """What was not obeyed since this was asked last."""
        rejected, self._rejected = self._rejected, []
        return rejected

    async def _run(self) -> None:
        bound_client_library()
        while True:
            try:
                await self._read()
            except (KafkaError, OSError) as error:
                self._say(one_line(error))
            await asyncio.sleep(_AGAIN_SECONDS)

    async def _read(self) -> None:
        consumer = AIOKafkaConsumer(
            **self.broker.connection(),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=_FETCH_WAIT_MS,
            metadata_max_age_ms=_METADATA_MS,
        )
        await consumer.start()
        self._seen.clear()
        try:
            while not (numbers := consumer.partitions_for_topic(TOPIC)):
                await asyncio.sleep(_AGAIN_SECONDS)
                await consumer.topics()
            consumer.assign([TopicPartition(TOPIC, number) for number in sorted(numbers)])
            # Whoever obeyed the first half of the past would obey what the second withdraws.
            await self.obey(await _past(consumer))
            while True:
                found = await consumer.getmany(timeout_ms=60_000, max_records=_MOST_RECORDS)
                self._trouble = ""
                await self.obey([one for records in found.values() for one in records])
        finally:
            await consumer.stop()

    def _say(self, trouble: str) -> None:
        if self._trouble != trouble:
            log.warning(
                "rules of the network do not come; those that are here stay until their ends",
                extra={"brokers": self.broker.addresses, "reason": trouble},
            )
        self._trouble = trouble

    async def obey(self, records: Iterable[ConsumerRecord]) -> None:
        """Carry out what came, in one change."""
        orders = []
        for one in await asyncio.to_thread(self._verified, records):
            if isinstance(one, Rejected):
                self._reject(one)
            elif self._is_new(one):
                orders.append(one)
        known = self.keeper.serials
        put: dict[str, Order] = {}
        withdrawn: dict[str, Order] = {}
        for order in sorted(orders, key=lambda order: order.serial):
            put.pop(order.name, None)
            withdrawn.pop(order.name, None)
            if order.rule and not order.is_for(self.node) and order.name not in known:
                continue
            (put if order.rule and order.is_for(self.node) else withdrawn)[order.name] = order
        if put:
            await self._leave_out_refused(put)
        if put or withdrawn:
            await self._change(put, withdrawn)

    def _verified(self, records: Iterable[ConsumerRecord]) -> list[Order | Rejected]:
        """What each record orders, or why it is not obeyed; called in a thread."""
        now_ns = time.time_ns()
        found: list[Order | Rejected] = []
        for record in records:
            value, fault = payload_and_fault(record.value)
            # Without either, a rule that had ended was cleaned up.
            if value is None and not fault:
                continue
            name = (record.key or b"")[:63].decode(errors="replace")
            try:
                found.append(_order_in(value, fault, record.key, self.trusted, now_ns))
            except SignedError as error:
                # What has ended is in a compacted topic until somebody cleans it up.
                if error.reason != "expired":
                    found.append(Rejected(name, error.reason, str(error)))
        return found

    def _is_new(self, order: Order) -> bool:
        """Whether nothing newer of that name was obeyed before.

        What is older may be history, which the topic keeps for a while; behind something newer it
        was sent again.
        """
        seen = self._seen.get(order.name, 0)
        self._seen[order.name] = max(seen, order.serial)
        if order.serial < seen:
            text = f"rule {order.name} has a newer order already"
            self._reject(Rejected(order.name, "replayed", text))
        return order.serial > max(seen, self.keeper.serials.get(order.name, (0, 0))[0])

    async def _leave_out_refused(self, put: dict[str, Order]) -> None:
        """Reject those that would cut off what no rule may, or that a local rule stands in for."""
        allowed = await self.keeper.look_at_allowed()
        local = {one.rule.name for one in self.keeper.rules if one.origin != "network"}
        # Of thousands it takes seconds, in which packets must be drained.
        cuts = await asyncio.to_thread(_cuts, list(put.values()), allowed)
        for name, reasons in cuts.items():
            if name in local:
                text = f"rule {name} is one of this node's own"
            elif reasons:
                text = f"rule {name} would refuse packets of: {', '.join(reasons)[:300]}"
            else:
                continue
            self._reject(Rejected(name, "refused", text))
            del put[name]

    async def _change(self, put: dict[str, Order], withdrawn: dict[str, Order]) -> None:
        """Carry out all of it; of what cannot be, as little as possible is left out.

        Raises:
            OSError: there is no room for it now; whoever reads again finds it again.
        """
        there = {one.rule.name for one in self.keeper.rules if one.origin == "network"}
        change = Change(
            put=[order.rule for order in put.values() if order.rule],
            remove=sorted(withdrawn.keys() & there),
            origin="network",
            despite_allowed=True,
            serials={
                name: (order.serial, order.until_ns) for name, order in (put | withdrawn).items()
            },
        )
        try:
            await self.keeper.change(change)
        except RuleError as error:
            if len(put) + len(withdrawn) == 1:
                for name in put | withdrawn:
                    self._reject(Rejected(name, "refused", str(error)))
                return
            # One rule that does not fit must not keep others from being withdrawn.
            if put and withdrawn:
                await self._change({}, withdrawn)
                await self._change(put, {})
                return
            for some in _halves(put):
                await self._change(some, {})
            for some in _halves(withdrawn):
                await self._change({}, some)

    def _reject(self, rejected: Rejected) -> None:
        if not self.rejected_total[rejected.reason]:
            log.warning(
                "a rule was rejected", extra={"rule": rejected.name, "reason": rejected.text}
            )
        self.rejected_total[rejected.reason] += 1
        if len(self._rejected) < _MOST_TOLD:
            self._rejected.append(rejected)


def _order_in(
    value: bytes | None, fault: str, key: bytes | None, trusted: Trusted, now_ns: int
) -> Order:
    if value is None:
        raise SignedError("malformed", fault)
    order = verified(value, trusted, now_ns=now_ns)
    if key != order.name.encode():
        raise SignedError("malformed", f"the record's key is not {order.name}")
    return order


def _cuts(orders: Iterable[Order], allowed: Allowed) -> dict[str, list[str]]:
    """What each rule would cut off, by its name."""
    return {
        one.name: conflicts(one.rule, allowed) if one.rule and not one.despite_allowed else []
        for one in orders
    }


def _halves(orders: dict[str, Order]) -> list[dict[str, Order]]:
    """The two halves of several; of none, nothing."""
    items = list(orders.items())
    half = len(items) // 2
    return [dict(items[:half]), dict(items[half:])] if items else []


async def _past(consumer: AIOKafkaConsumer) -> list[ConsumerRecord]:
    """All that the topic holds by now."""
    ends = await consumer.end_offsets(consumer.assignment())
    past: list[ConsumerRecord] = []
    while any([await consumer.position(one) < end for one, end in ends.items()]):
        found = await consumer.getmany(timeout_ms=_FETCH_WAIT_MS)
        past += [one for records in found.values() for one in records]
    return past
