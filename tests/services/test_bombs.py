# SPDX-License-Identifier: Apache-2.0
"""A record batch that would become gigabytes is passed over, and its neighbours are stored.

The broker is a real one, which takes such batches, and none that other tests share.
"""

import re
from pathlib import Path

import pytest
import zstandard

from hookline.kafka import Kafka
from schemas.catalogue import RECORDS
from schemas.clickhouse import DATABASE
from service.unpack import MAX_BATCH_BYTES, MAX_RECORDS
from tests.consumer.engine import Engine
from tests.consumer.process import FLOWS, Consumer, create_topics, dead_letters, publish
from tests.schemas.batches import a_batch
from tests.services.bombs import batch, bomb, record, send

pytestmark = pytest.mark.services

# As large as can be made in a second or two; snappy packs twenty to one at best.
BOMB_BYTES = {"zstd": 1 << 30, "gzip": 1 << 28, "lz4": 1 << 28, "snappy": 80 << 20}
# A consumer with the engine inside has 500 MiB while it stores ordinary records.
PEAK_BYTES = 1 << 30


def peak_bytes(pid: int) -> int:
    return int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) << 10


def many_records(count: int) -> bytes:
    """A small batch of so many empty records."""
    records = b"".join(part for at in range(count) for part in record(0, offset_delta=at))
    return batch(zstandard.compress(records), codec="zstd", count=count)


async def test_bombs_become_dead_letters_and_their_neighbours_rows(tmp_path):
    bombs = [bomb(codec, size) for codec, size in BOMB_BYTES.items()]
    async with Kafka(tmp_path / "kafka") as broker:
        kafka = broker.bootstrap
        await create_topics(kafka, [one.topic for one in RECORDS], partitions=1)
        await publish(kafka, a_batch(rows=10, node="before"))
        assert await send(kafka, FLOWS, *bombs, many_records(MAX_RECORDS + 1)) == [0] * 5
        await publish(kafka, a_batch(rows=20, node="after"))

        with consumer(tmp_path, kafka) as reading:
            await reading.until_inserted(30)
            await reading.until(
                lambda: reading.metric("consumer_rejected_records_total", topic=FLOWS) == 5
            )
            peak = peak_bytes(reading.process.pid)
            assert await reading.terminate() == 0
        # What was passed over is not met again.
        with consumer(tmp_path, kafka) as again:
            await publish(kafka, a_batch(rows=5, node="later"))
            await again.until_inserted(5)
            assert again.metric("consumer_rejected_records_total") == 0
            assert await again.terminate() == 0
        letters = await dead_letters(kafka, key=None)

    with Engine(tmp_path / "db") as engine:
        assert engine.rows(
            f"SELECT node, count() FROM {DATABASE}.flows GROUP BY node ORDER BY node"
        ) == [("after", 20), ("before", 10), ("later", 5)]
    too_large = f"cannot be unpacked: it holds more than {MAX_BATCH_BYTES} bytes"
    too_many = f"it holds {MAX_RECORDS + 1} records, and {MAX_RECORDS} may be"
    last = 5 + MAX_RECORDS
    assert [letter["reason"] for letter in letters] == [
        *(f"batch of offsets {at} to {at} {too_large}" for at in range(1, 5)),
        f"batch of offsets 5 to {last} cannot be unpacked: {too_many}",
    ]
    assert [letter["offset"] for letter in letters] == [1, 2, 3, 4, last]
    # Behind what the broker writes into it stands what was sent.
    for one, letter in zip(bombs, letters, strict=False):
        assert letter["payload"][17:] == one[17 : len(letter["payload"])]
    assert "lost" not in again.log + reading.log
    assert peak < PEAK_BYTES


def consumer(directory: Path, kafka: str) -> Consumer:
    where = f"--clickhouse=chdb://{directory / 'db'}"
    return Consumer(directory, f"--kafka={kafka}", where, "--max-age=0.2")
