# SPDX-License-Identifier: Apache-2.0
"""What an agent has published, read back from Kafka and added up."""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv6Address

import numpy as np
from aiokafka import AIOKafkaConsumer, TopicPartition

from schemas.catalogue import RECORDS
from schemas.fields import DIRECTIONS
from schemas.wire import Batch, Names, Text, decode
from tests.lab.agents import BEGAN_MS
from tests.lab.capture import FiveTuple
from tests.schemas.batches import plain_texts, same_columns

_DEADLINE_S = 30.0
_NAME_OF_DIRECTION = {number: name for name, number in DIRECTIONS.items()}


# Without a repr: asyncio.run makes one of what it returns, which takes a minute for a million rows.
@dataclass(slots=True, repr=False)
class Published:
    """Every batch of one node, by kind and in order."""

    batches: dict[str, list[Batch]] = field(default_factory=lambda: defaultdict(list))

    def column(self, kind: str, name: str) -> np.ndarray:
        """All rows of one column; names are texts."""
        columns = [batch.columns[name] for batch in self.batches[kind]]
        if not columns:
            return np.empty(0)
        return np.concatenate([_plain(column) for column in columns])

    def sums(self, direction: str, *, interface: str = "", kind: str = "flow") -> tuple[int, int]:
        """Packets and bytes of all rows of one direction."""
        chosen = self.column(kind, "direction") == DIRECTIONS[direction]
        if interface:
            chosen &= self.column(kind, "interface") == interface
        packets, in_bytes = (
            ("seen_packets", "seen_bytes") if kind == "ledger" else ("packets", "bytes")
        )
        return (
            int(self.column(kind, packets)[chosen].sum()),
            int(self.column(kind, in_bytes)[chosen].sum()),
        )

    def five_tuples(
        self, direction: str = "", *, interface: str = ""
    ) -> dict[FiveTuple, tuple[int, int]]:
        """Packets and bytes by five-tuple, in tshark's notation."""
        totals: dict[FiveTuple, tuple[int, int]] = defaultdict(lambda: (0, 0))
        for row in self._flows():
            if direction and _NAME_OF_DIRECTION[row.direction] != direction:
                continue
            if interface and row.interface != interface:
                continue
            packets, in_bytes = totals[row.five_tuple]
            totals[row.five_tuple] = packets + row.packets, in_bytes + row.bytes
        return dict(totals)

    def _flows(self) -> Iterator["Row"]:
        names = (
            "interface",
            "direction",
            "src_addr",
            "dst_addr",
            "src_port",
            "dst_port",
            "protocol",
        )
        columns = [self.column("flow", name) for name in (*names, "packets", "bytes")]
        for interface, direction, src, dst, *numbers in zip(*columns, strict=True):
            *ports_and_protocol, packets, in_bytes = map(int, numbers)
            five_tuple = (text_from_address(src), text_from_address(dst), *ports_and_protocol)
            yield Row(interface, int(direction), five_tuple, packets, in_bytes)


@dataclass(frozen=True, slots=True)
class Row:
    interface: str
    direction: int
    five_tuple: FiveTuple
    packets: int
    bytes: int


def text_from_address(raw: np.void) -> str:
    address = IPv6Address(bytes(raw))
    return str(address.ipv4_mapped or address)


def _plain(column: object) -> np.ndarray:
    if isinstance(column, Names):
        return np.array(column.categories, object)[column.codes]
    if isinstance(column, Text):
        return np.array([text.decode() for text in plain_texts(column)], object)
    return column


def read_published(bootstrap: str, node: str) -> Published:
    """Everything that *node* has published so far."""
    return asyncio.run(_read(bootstrap, node))


async def _read(bootstrap: str, node: str) -> Published:
    published = Published()
    payloads = await _payloads(bootstrap, [record.topic for record in RECORDS], node)
    for record in RECORDS:
        published.batches[record.kind] = _once(map(decode, payloads[record.topic]))
    return published


def _once(batches: Iterable[Batch]) -> list[Batch]:
    """Each batch once, as a consumer stores it: an agent that is killed may leave some twice."""
    found: dict[tuple[str, int], Batch] = {}
    for batch in batches:
        first = found.setdefault((batch.run, batch.seq), batch)
        assert same_columns(first, batch), f"{batch.kind} {batch.run} {batch.seq} has two contents"
    return list(found.values())


async def read_topic(bootstrap: str, topic: str, node: str) -> list[Batch]:
    """The batches of *node* in one topic, in their order."""
    return [decode(payload) for payload in (await _payloads(bootstrap, [topic], node))[topic]]


async def _payloads(bootstrap: str, topics: list[str], node: str) -> dict[str, list[bytes]]:
    """By topic, what *node* has published since it began; others have filled the topics before."""
    async with asyncio.timeout(_DEADLINE_S):
        consumer = AIOKafkaConsumer(
            bootstrap_servers=bootstrap, max_partition_fetch_bytes=16 << 20, fetch_max_wait_ms=50
        )
        await consumer.start()
        try:
            partitions = [TopicPartition(topic, 0) for topic in topics]
            consumer.assign(partitions)
            ends = await consumer.end_offsets(partitions)
            begins = await consumer.offsets_for_times(
                dict.fromkeys(partitions, BEGAN_MS.get(node, 0))
            )
            left = set()
            for partition, found in begins.items():
                consumer.seek(partition, found.offset if found else ends[partition])
                if found and found.offset < ends[partition]:
                    left.add(partition)
            payloads: dict[str, list[bytes]] = defaultdict(list)
            while left:
                for partition, records in (await consumer.getmany(timeout_ms=1000)).items():
                    its = (record.value for record in records if record.key == node.encode())
                    payloads[partition.topic] += its
                left -= {one for one in left if await consumer.position(one) >= ends[one]}
            return payloads
        finally:
            await consumer.stop()
