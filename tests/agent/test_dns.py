# SPDX-License-Identifier: Apache-2.0
"""Messages are read as an independent reader and tshark read them, whatever is in them."""

import random
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.dns import DNS, DNSQR

from agent.dns import Messages, read_messages
from schemas.dns import DNS_MESSAGE_BYTES
from tests.agent.dns_messages import (
    Question,
    damaged,
    dissect,
    message,
    plausible,
    question,
    special,
    wire_name,
)
from tests.lab.capture import tshark_fields, write_capture
from tests.schemas.batches import plain_texts

SEED = 20261123


def read(messages: list[bytes]) -> dict:
    """The columns of *messages*, which lie side by side: what reads too far reads the next one."""
    lengths = np.array([min(len(one), DNS_MESSAGE_BYTES) for one in messages])
    sizes = np.array([len(one) for one in messages])
    content = np.frombuffer(b"".join(messages), np.uint8)
    return read_messages(Messages(content, np.cumsum(sizes) - sizes, lengths))


def questions(messages: list[bytes]) -> list[Question]:
    columns = read(messages)
    names = [name.decode() for name in plain_texts(columns["query_name"])]
    rest = (columns[name].tolist() for name in ("query_type", "query_class", "is_malformed"))
    return [Question(*parts) for parts in zip(names, *rest, strict=True)]


def test_limits_pointers_and_escapes_are_read_as_rfc_1035_has_them():
    messages = list(special())

    found = questions(messages)

    assert found == [dissect(one[:DNS_MESSAGE_BYTES]) for one in messages]
    assert {one.is_malformed for one in found} == {True, False}
    assert Question(".", 1, 1, is_malformed=False) in found
    assert Question(r"a\.b.c\\d.e\032f.\255", 1, 1, is_malformed=False) in found


def test_thousands_of_damaged_messages_are_read_as_one_at_a_time():
    chance = random.Random(SEED)
    messages = [damaged(chance) for _ in range(20_000)]

    found = questions(messages)

    assert found == [dissect(one[:DNS_MESSAGE_BYTES]) for one in messages]
    assert 2_000 < sum(one.is_malformed for one in found) < 18_000


@settings(max_examples=300, deadline=None, database=None)
@given(st.lists(st.binary(min_size=12, max_size=300), min_size=1, max_size=5))
def test_arbitrary_bytes_are_read_as_one_at_a_time(messages):
    messages = [one[:4] + b"\0\1" + one[6:] for one in messages]

    assert questions(messages) == [dissect(one[:DNS_MESSAGE_BYTES]) for one in messages]


def test_scapy_reads_the_same_header_and_question():
    chance = random.Random(SEED + 1)
    messages = [plausible(chance) for _ in range(500)]

    columns = read(messages)

    for row, raw in enumerate(messages):
        theirs = DNS(raw)
        ours = {name: int(columns[name][row]) for name in columns if name != "query_name"}
        assert ours["id"] == theirs.id
        assert ours["is_response"] == theirs.qr
        assert ours["opcode"] == theirs.opcode
        assert ours["is_truncated"] == theirs.tc
        assert ours["response_code"] == theirs.rcode
        assert ours["answers"] == theirs.ancount
        assert ours["authorities"] == theirs.nscount
        assert ours["additionals"] == theirs.arcount
        assert isinstance(theirs.qd[0], DNSQR)
        assert (ours["query_type"], ours["query_class"]) == (
            theirs.qd[0].qtype,
            theirs.qd[0].qclass,
        )


def test_tshark_reads_the_same_names_types_and_codes(tmp_path):
    chance = random.Random(SEED + 2)
    messages = [plausible(chance) for _ in range(4_000)]

    columns = read(messages)

    names = [name.decode() for name in plain_texts(columns["query_name"])]
    numbers = (
        "id",
        "is_response",
        "opcode",
        "is_truncated",
        "query_type",
        "query_class",
        "answers",
    )
    ours = [
        ["<Root>" if name == "." else name, *map(int, row)]
        for name, *row in zip(names, *(columns[one] for one in numbers), strict=True)
    ]
    assert ours == tshark_reads(write_capture(tmp_path / "dns.pcap", map(over_udp, messages)))


def over_udp(payload: bytes) -> bytes:
    """An Ethernet frame with the message in it, from port 40000 to port 53."""
    udp = bytes.fromhex("9c400035") + (len(payload) + 8).to_bytes(2, "big") + bytes(2)
    total = (len(payload) + 28).to_bytes(2, "big")
    ip = bytes.fromhex("4500") + total + bytes.fromhex("00000000401100000a0000010a000002")
    return bytes(12) + b"\x08\x00" + ip + udp + payload


def tshark_reads(path: Path) -> list[list]:
    lines = tshark_fields(
        path,
        *("dns.qry.name", "dns.id", "dns.flags.response", "dns.flags.opcode"),
        *("dns.flags.truncated", "dns.qry.type", "dns.qry.class"),
        # It has another word for the second section of an update.
        *("dns.count.answers", "dns.count.prerequisites"),
    )
    return [
        [name, *(int(number, 0) for number in [*numbers, answers or prerequisites])]
        for name, *numbers, answers, prerequisites in lines
    ]


def test_no_messages_give_empty_columns():
    columns = read_messages(
        Messages(np.empty(0, np.uint8), np.empty(0, np.int64), np.empty(0, np.int64))
    )

    assert len(columns["id"]) == len(columns["query_name"].lengths) == 0


def test_a_name_is_told_as_far_as_it_could_be_read():
    whole = message(question(wire_name(b"www", b"example", b"org")))

    cut_off = questions([whole[:20], whole[:24], whole[:28]])

    assert [one.name for one in cut_off] == ["www", "www.example", "www.example.org"]
    assert all(one.is_malformed for one in cut_off)
