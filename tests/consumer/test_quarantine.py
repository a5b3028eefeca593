# SPDX-License-Identifier: Apache-2.0
import msgpack

from consumer.quarantine import dead_letter
from consumer.record import Record, Rejected
from schemas.dead_letter import MAX_KEY_BYTES, MAX_REASON_CHARACTERS


def a_rejected(
    payload: bytes | None = b"garbage", key: bytes | None = b"web-1", reason: str = "bad"
) -> Rejected:
    return Rejected(Record("hookline.flow.v1", 3, 17, 1234, key, payload), reason)


def test_a_dead_letter_says_what_where_and_why():
    assert msgpack.unpackb(dead_letter(a_rejected())) == {
        "v": 1,
        "reason": "bad",
        "topic": "hookline.flow.v1",
        "partition": 3,
        "offset": 17,
        "timestamp_ms": 1234,
        "key": b"web-1",
        "payload": b"garbage",
        "payload_bytes": 7,
    }


def test_a_large_payload_is_cut_and_its_length_kept():
    letter = msgpack.unpackb(dead_letter(a_rejected(bytes(1000)), max_payload_bytes=10))

    assert (len(letter["payload"]), letter["payload_bytes"]) == (10, 1000)


def test_a_record_without_key_or_value_has_none_in_its_dead_letter():
    letter = msgpack.unpackb(dead_letter(a_rejected(None, None)))

    assert (letter["key"], letter["payload"], letter["payload_bytes"]) == (None, None, 0)


def test_nothing_that_a_record_holds_makes_its_dead_letter_large():
    letter = msgpack.unpackb(dead_letter(a_rejected(key=bytes(100_000), reason="x" * 100_000)))

    assert (len(letter["key"]), len(letter["reason"])) == (MAX_KEY_BYTES, MAX_REASON_CHARACTERS)
