# SPDX-License-Identifier: Apache-2.0
"""Record batches that nobody of ours writes, and a broker takes.

They are put together piece by piece, so that a gigabyte that is to be unpacked is never packed.
"""

import gzip
import io
import struct
from collections.abc import Callable, Iterable

import lz4.frame
import zstandard
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.util import calc_crc32c, encode_varint

PIECE = bytes(1 << 20)
CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}


def record(value_bytes: int, *, offset_delta: int = 0) -> tuple[bytes, bytes]:
    """What stands before and behind a value of so many bytes, without a key."""
    start = b"\0" + _varints(0, offset_delta, -1, value_bytes)
    end = _varints(0)  # headers
    length = len(start) + value_bytes + len(end)
    return _varints(length) + start, end


def batch(records: bytes, *, codec: str = "none", count: int = 1) -> bytes:
    """A record batch with these records, compressed as they are."""
    after_crc = struct.pack(
        ">hiqqqhii",
        CODECS[codec],
        count - 1,
        1_700_000_000_000,
        1_700_000_000_000,
        -1,
        -1,
        -1,
        count,
    )
    body = after_crc + records
    after_length = struct.pack(">ibI", -1, 2, calc_crc32c(body)) + body
    return struct.pack(">qi", 0, len(after_length)) + after_length


def bomb(codec: str, value_bytes: int) -> bytes:
    """One record of zeros that takes *value_bytes* once it is unpacked."""
    start, end = record(value_bytes)
    pieces = [start, *[PIECE] * (value_bytes // len(PIECE)), bytes(value_bytes % len(PIECE)), end]
    return batch(_COMPRESS[codec](pieces), codec=codec)


def _zstd(pieces: Iterable[bytes]) -> bytes:
    compressor = zstandard.ZstdCompressor(level=1).compressobj()
    return b"".join(compressor.compress(piece) for piece in pieces) + compressor.flush()


def _gzip(pieces: Iterable[bytes]) -> bytes:
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="w", compresslevel=1) as file:
        for piece in pieces:
            file.write(piece)
    return packed.getvalue()


def _lz4(pieces: Iterable[bytes]) -> bytes:
    # A broker reads no blocks that are linked.
    with lz4.frame.LZ4FrameCompressor(block_linked=False) as compressor:
        parts = [compressor.begin(), *(compressor.compress(piece) for piece in pieces)]
        return b"".join([*parts, compressor.flush()])


def _snappy(pieces: Iterable[bytes]) -> bytes:
    import cramjam

    blocks = [bytes(cramjam.snappy.compress_raw(piece)) for piece in pieces if piece]
    head = b"\x82SNAPPY\0" + struct.pack(">ii", 1, 1)
    return head + b"".join(struct.pack(">i", len(block)) + block for block in blocks)


_COMPRESS: dict[str, Callable[[Iterable[bytes]], bytes]] = {
    "gzip": _gzip,
    "lz4": _lz4,
    "snappy": _snappy,
    "zstd": _zstd,
}


def _varints(*numbers: int) -> bytes:
    encoded = bytearray()
    for number in numbers:
        encode_varint(number, encoded.append)
    return bytes(encoded)


async def send(bootstrap: str, topic: str, *batches: bytes) -> list[int]:
    """Have the broker store them as they are, one after the other; its error codes."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap)
    await producer.start()
    try:
        await producer.client._wait_on_metadata(topic)
        codes = []
        for one in batches:
            leader = producer.client.cluster.leader_for_partition(TopicPartition(topic, 0))
            request = ProduceRequest(
                required_acks=-1,
                timeout=30_000,
                topics=[(topic, [(0, one)])],
                transactional_id=None,
            )
            answer = await producer.client.send(leader, request)
            codes += [partition[1] for _, partitions in answer.topics for partition in partitions]
        return codes
    finally:
        await producer.stop()
