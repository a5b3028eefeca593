# SPDX-License-Identifier: Apache-2.0
from contextlib import suppress

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.dead_letter import (
    MAX_KEY_BYTES,
    MAX_REASON_CHARACTERS,
    Letter,
    LetterError,
    Note,
    decode,
    encode,
    encode_note,
    node_of,
)

LETTER = Letter("bad", "hookline.flow.v1", 3, 17, 1234, b"web-1", b"garbage", 7)


def changed(**changes: object) -> bytes:
    return msgpack.packb({**msgpack.unpackb(encode(LETTER)), **changes})


def test_a_letter_and_a_note_come_back_as_they_were_written():
    note = Note("replayed", (3, 1, 2))

    assert decode(encode(LETTER)) == LETTER
    assert decode(encode_note(note)) == note


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "it has no value"),
        (b"\xc1", "it is no msgpack"),
        (encode(LETTER)[:20], "it is no msgpack"),
        (msgpack.packb([1]), "it is a list, not a map"),
        (changed(v=2), "version is 2, not 1"),
        (changed(reason=7), "reason is no text"),
        (changed(topic="t" * 250), "topic is no text of 1 to 249 characters"),
        (changed(partition=-1), "partition is -1, not a whole number from 0 to 2147483647"),
        (changed(offset=True), "offset is True, not"),
        (changed(offset=1 << 63), "offset is 9223372036854775808, not"),
        (changed(timestamp_ms=1.5), "timestamp_ms is 1.5, not"),
        (changed(key=bytes(MAX_KEY_BYTES + 1)), "key is neither nil nor at most 1024 bytes"),
        (changed(payload="text"), "payload is neither nil nor"),
        (changed(payload_bytes=6), "payload_bytes is 6, not a whole number from 7"),
        (
            msgpack.packb({"v": 1, "note": "replayed", "letters": 3}),
            "letters is no list of offsets",
        ),
        (msgpack.packb({"v": 1, "note": "replayed", "letters": [-1]}), "letters is no list of"),
        (msgpack.packb({"v": 1, "note": 1}), "note is no text"),
    ],
)
def test_what_is_neither_is_refused_with_the_reason(value, reason):
    with pytest.raises(LetterError) as refused:
        decode(value)

    assert str(refused.value).startswith(reason)


def test_a_note_of_a_later_version_is_a_note():
    assert decode(msgpack.packb({"v": 1, "note": "closed", "by": "me"})) == Note("closed", ())


def test_a_reason_is_cut_and_everything_that_a_later_version_adds_is_passed_over():
    letter = decode(changed(reason="x" * 100_000, colour="red"))

    assert isinstance(letter, Letter)
    assert letter.reason == "x" * MAX_REASON_CHARACTERS


def test_a_letter_says_whether_it_holds_all_of_its_record():
    assert not LETTER.is_cut
    assert decode(changed(payload_bytes=8)).is_cut
    assert decode(changed(payload=None, payload_bytes=8)).is_cut
    assert decode(changed(key=bytes(MAX_KEY_BYTES))).is_cut


def test_a_key_that_is_no_text_still_names_its_node():
    assert node_of(b"web-\xff") == "web-\\xff"
    assert node_of(None) == ""


VALUES = st.one_of(
    st.sampled_from([None, True, 1.5, "", "replayed"]),
    st.integers(-(1 << 63), (1 << 64) - 1),
    st.binary(max_size=9),
    st.lists(st.integers(-1, 9), max_size=3),
)
KEYS = st.sampled_from([*msgpack.unpackb(encode(LETTER)), "note", "letters"])


@given(st.binary(max_size=60) | st.dictionaries(KEYS, VALUES).map(lambda all_: changed(**all_)))
def test_whatever_is_in_the_topic_is_a_letter_or_a_note_or_refused(value):
    with suppress(LetterError):
        assert isinstance(decode(value), Letter | Note)
