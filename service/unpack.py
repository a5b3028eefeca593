# SPDX-License-Identifier: Apache-2.0
"""Unpack the record batches of a fetch within limits, in the place of the Kafka client library.

The library decompresses whatever a batch holds, makes an object of every record and header in it,
and begins anew with the same batch when that fails.  So one record of a megabyte, which any
producer may write and any broker takes, would take gigabytes or stop a consumer for good.

Here a batch that is larger than any of ours, or that cannot be read, becomes one record that says
so; its neighbours are read as always.  Headers are passed over: Hookline's records have none.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from aiokafka.consumer import fetcher
from aiokafka.record.default_records import DefaultRecordBatch

from service.decompress import DamagedError, TooLargeError, decompress

# What agents send at once has a megabyte; a producer may collect some sixteen of them.
MAX_BATCH_BYTES = 64 << 20
MAX_RECORDS = 1 << 14
# What one call for records may make of all partitions; a batch more, as its size shows too late.
MAX_FETCH_BYTES = 256 << 20
# Of what cannot be read, so much goes into the dead letter.
_SHOWN_BYTES = 1 << 16
_RECORD_BYTES = 512  # what the objects of a record take beside its content

# https://kafka.apache.org/documentation/#recordbatch
_LENGTH = struct.Struct(">qi")
_HEADER = struct.Struct(">qiibIhiqqqhii")
_MAGIC_AT = 16
_MAGIC = 2
_ENCODINGS = {1: "gzip", 2: "snappy", 3: "lz4", 4: "zstd"}
_CODEC_MASK = 0x07
_IS_LOG_APPEND_TIME = 0x08
_IS_CONTROL = 0x20
_VARINT_BITS = 70
_EARLIEST_MS = -(1 << 63)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Stands for the value of a record, and for all records of a batch: why they are not there."""

    reason: str
    first_offset: int
    shown: bytes

    def __len__(self) -> int:
        return len(self.shown)


class Allowance:
    """How much may still be unpacked in one call for records."""

    def __init__(self, most_bytes: int = MAX_FETCH_BYTES) -> None:
        self._most_bytes = most_bytes
        self.left_bytes = most_bytes

    def renew(self) -> None:
        self.left_bytes = self._most_bytes


class _Record(NamedTuple):
    offset: int
    timestamp: int
    timestamp_type: int
    key: bytes | None
    value: bytes | Unreadable | None
    headers: tuple[()] = ()
    checksum: None = None


# Of this process, as the library's fetchers have no place for one of their own.
_allowance = Allowance()


def bound_client_library() -> Allowance:
    """Have every consumer of this process unpack its batches here.

    What is returned is renewed before each call for records.
    """
    fetcher.MemoryRecords = partial(Batches, _allowance)
    return _allowance


def payload_and_fault(value: bytes | Unreadable | None) -> tuple[bytes | None, str]:
    """What a record holds, and why that is not what was written, if so."""
    return (value.shown, value.reason) if isinstance(value, Unreadable) else (value, "")


class Batches:
    """The batches of one partition in an answer, as the client library's fetcher takes them."""

    def __init__(self, allowance: Allowance, content: bytes) -> None:
        self._allowance = allowance
        self._content = content
        self._at = 0
        self._has_arrived = False

    def size_in_bytes(self) -> int:
        return len(self._content)

    def has_next(self) -> bool:
        """Whether there is a batch, and it may be unpacked now; what is left is fetched again."""
        # The fetcher asks once as the answer arrives, when nobody wants records yet.
        is_wanted, self._has_arrived = self._has_arrived, True
        if is_wanted and self._allowance.left_bytes <= 0:
            return False
        return self._end() <= len(self._content)

    def next_batch(self) -> "Batch":
        whole = memoryview(self._content)[self._at : self._end()]
        self._at += len(whole)
        return Batch(whole, self._allowance)

    def _end(self) -> int:
        """Where the next batch ends; an answer may end before that."""
        if self._at + _LENGTH.size > len(self._content):
            return len(self._content) + 1
        _, length = _LENGTH.unpack_from(self._content, self._at)
        return self._at + _LENGTH.size + max(int(length), _MAGIC_AT + 1 - _LENGTH.size)


class Batch:
    """One record batch: its records, or one that says why there are none."""

    is_transactional = False
    producer_id = None

    def __init__(self, whole: memoryview, allowance: Allowance) -> None:
        self._whole = whole
        self._allowance = allowance
        self.base_offset: int = _LENGTH.unpack_from(whole)[0]
        self.next_offset = self.base_offset + 1
        self.is_control_batch = False
        self._is_ours = whole[_MAGIC_AT] == _MAGIC and len(whole) >= _HEADER.size
        if self._is_ours:
            fields = _HEADER.unpack_from(whole)
            self._attributes, last_offset_delta, self._first_ms, self._last_ms = fields[5:9]
            self._count: int = fields[12]
            self.next_offset += max(last_offset_delta, 0)
            self.is_control_batch = bool(self._attributes & _IS_CONTROL)

    def validate_crc(self) -> bool:
        return not self._is_ours or bool(DefaultRecordBatch(bytes(self._whole)).validate_crc())

    def __iter__(self) -> Iterator[_Record]:
        try:
            content = self._unpacked()
            records = list(self._records(content))
        except (TooLargeError, DamagedError, IndexError) as error:
            return iter([self._unreadable(error)])
        self._allowance.left_bytes -= len(content) + _RECORD_BYTES * len(records)
        return iter(records)

    def _unpacked(self) -> bytes:
        if not self._is_ours:
            raise DamagedError("it is no record batch of Kafka 0.11 or later")
        if not 0 <= self._count <= MAX_RECORDS:
            raise DamagedError(f"it holds {self._count} records, and {MAX_RECORDS} may be")
        content = self._whole[_HEADER.size :]
        codec = self._attributes & _CODEC_MASK
        if not codec:
            return bytes(content)
        if codec not in _ENCODINGS:
            raise DamagedError(f"it is compressed by codec {codec}, which nobody knows")
        return decompress(_ENCODINGS[codec], content, MAX_BATCH_BYTES)

    def _records(self, content: bytes) -> Iterator[_Record]:
        at = 0
        for _ in range(self._count):
            length, at = _varint(content, at)
            end = at + length
            if not at < end <= len(content):
                raise DamagedError(f"a record of {length} bytes where {len(content) - at} are left")
            yield self._record(content, at + 1)  # its attributes mean nothing
            at = end

    def _record(self, content: bytes, at: int) -> _Record:
        delta_ms, at = _varint(content, at)
        offset_delta, at = _varint(content, at)
        key, at = _bytes(content, at)
        value, at = _bytes(content, at)
        is_append_time = bool(self._attributes & _IS_LOG_APPEND_TIME)
        time_ms = self._last_ms if is_append_time else self._first_ms + delta_ms
        offset = self.base_offset + offset_delta
        if not self.base_offset <= offset < self.next_offset:
            raise DamagedError(f"a record has offset {offset}")
        return _Record(offset, max(time_ms, _EARLIEST_MS), int(is_append_time), key, value)

    def _unreadable(self, error: Exception) -> _Record:
        last = self.next_offset - 1
        what = f"batch of offsets {self.base_offset} to {last} cannot be unpacked"
        reason = str(error)
        if isinstance(error, TooLargeError):
            reason = f"it holds more than {MAX_BATCH_BYTES} bytes"
        if isinstance(error, IndexError):
            reason = "it ends in the middle"
        shown = bytes(self._whole[:_SHOWN_BYTES])
        value = Unreadable(f"{what}: {reason}", self.base_offset, shown)
        return _Record(last, getattr(self, "_last_ms", 0), 0, None, value)


def _bytes(content: bytes, at: int) -> tuple[bytes | None, int]:
    length, at = _varint(content, at)
    if length < 0:
        return None, at
    if at + length > len(content):
        raise DamagedError(f"a value of {length} bytes where {len(content) - at} are left")
    return content[at : at + length], at + length


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """A number in zigzag, seven bits a byte, and where it ends; the library's reads beyond that."""
    number = shift = 0
    while shift < _VARINT_BITS:
        byte = content[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number >> 1 ^ -(number & 1), at
        shift += 7
    raise DamagedError("a number has more than 64 bits")
