# SPDX-License-Identifier: Apache-2.0
import msgpack
import pytest
from aiokafka import errors

from consumer.quarantine import Quarantine, dead_letter
from consumer.record import Record, Rejected
from hookline.topics import Topics
from schemas import wire
from schemas.dead_letter import MAX_KEY_BYTES, MAX_REASON_CHARACTERS, TOPIC, decode
from schemas.rejection import REJECTION
from service.broker import BrokerError, BrokerOptions


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


@pytest.mark.services
async def test_a_letter_has_a_row_and_one_about_a_row_has_none(kafka):
    about = {
        "hookline.flow.v1": b"quarantine-flow",
        REJECTION.topic: b"quarantine-row",
    }
    quarantine = Quarantine(BrokerOptions(kafka=kafka).broker("test").connection())
    await quarantine.start()
    try:
        await quarantine.put(
            [
                Rejected(Record(topic, 0, 17, 1234, key, b"garbage"), "bad")
                for topic, key in about.items()
            ]
        )
    finally:
        await quarantine.stop()

    async with Topics(BrokerOptions(kafka=kafka).broker("test")) as topics:
        letters = await records(topics, TOPIC, set(about.values()))
        rows = await records(topics, REJECTION.topic, set(about.values()))
    assert {decode(letter.payload).topic for letter in letters} == set(about)
    [row] = [wire.decode(one.payload) for one in rows]
    assert row.node == "quarantine-flow"
    [letter] = [one for one in letters if one.key == b"quarantine-flow"]
    assert row.columns["letter"].tolist() == [letter.offset]
    assert row.columns["time"].tolist() == [letter.timestamp_ms * 1_000_000]


async def records(topics: Topics, topic: str, keys: set[bytes]) -> list[Record]:
    spans = await topics.spans(await topics.partitions([topic]))
    return [one async for some in topics.records(spans) for one in some if one.key in keys]


class Sent:
    """Where a letter went."""

    partition, offset, timestamp = 0, 17, 1234


class Producer:
    """A stand-in whose brokers say what a test wants to hear, before they take a letter."""

    def __init__(self, *answers: Exception) -> None:
        self._answers = list(answers)
        self.letters: list[bytes] = []

    async def send_and_wait(self, topic, letter, key):
        if self._answers:
            raise self._answers.pop(0)
        if topic == TOPIC:
            self.letters.append(letter)
        return Sent()


async def put(producer: Producer, *rejected: Rejected) -> None:
    quarantine = Quarantine({})
    quarantine._producer = producer
    await quarantine.put(rejected)


async def test_a_dead_letter_is_sent_again_while_brokers_come_and_go():
    producer = Producer(errors.RequestTimedOutError(), errors.NotLeaderForPartitionError())

    await put(producer, a_rejected())

    assert producer.letters == [dead_letter(a_rejected())]


async def test_a_dead_letter_that_is_too_large_for_a_broker_is_sent_without_its_payload():
    producer = Producer(errors.MessageSizeTooLargeError())

    await put(producer, a_rejected())

    assert producer.letters == [dead_letter(a_rejected(), 0)]


@pytest.mark.parametrize(
    "answers",
    [
        [errors.TopicAuthorizationFailedError("hookline.dead-letter")],
        [errors.MessageSizeTooLargeError(), errors.MessageSizeTooLargeError()],
    ],
)
async def test_a_dead_letter_that_no_broker_will_ever_take_is_an_error_for_a_human(answers):
    with pytest.raises(BrokerError, match="kafka takes no dead letter: "):
        await put(Producer(*answers), a_rejected())
