# SPDX-License-Identifier: Apache-2.0
"""Tell when one address gets 500 SYNs in a second that no handshake follows.

Needs `pip install aiokafka[zstd] msgpack`, and no part of Hookline.
Usage: python alert_consumer.py HOST:PORT [GROUP]
"""

import asyncio
import ipaddress
import struct
import sys
from collections import Counter

import msgpack
from aiokafka import AIOKafkaConsumer

LIMIT = 500
COLUMNS = ("time", "direction", "protocol", "tcp_flags", "dst_addr", "packets")
CODES = {"|u1": "B", "<u2": "H", "<u4": "I", "<u8": "Q", "<i8": "q", "|V16": "16s"}
INGRESS, TCP, SYN, ACK = 1, 6, 2, 16


def column(record: dict, name: str) -> list:
    """The values of one column; an address is its 16 bytes."""
    numpy_type, content = record["cols"][name]
    return [value for (value,) in struct.iter_unpack("<" + CODES[numpy_type], content)]


async def main(kafka: str, group: str = "my-alerts") -> None:
    consumer = AIOKafkaConsumer("hookline.flow.v1", bootstrap_servers=kafka, group_id=group)
    await consumer.start()
    counts = Counter()  # by address and second
    try:
        async for message in consumer:
            record = msgpack.unpackb(message.value)
            before = counts.copy()
            for ns, way, protocol, flags, target, packets in zip(
                *(column(record, name) for name in COLUMNS), strict=True
            ):
                if way == INGRESS and protocol == TCP and flags & (SYN | ACK) == SYN:
                    counts[target, ns // 10**9] += packets
            for (target, second), syns in counts.items():
                if syns >= LIMIT > before[target, second]:
                    address = ipaddress.ip_address(target)
                    print(f"SYN flood on {address.ipv4_mapped or address}", flush=True)
            newest = max((second for _, second in counts), default=0)
            counts = Counter({at: syns for at, syns in counts.items() if at[1] > newest - 60})
    finally:
        await consumer.stop()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
