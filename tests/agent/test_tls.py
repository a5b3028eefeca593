# SPDX-License-Identifier: Apache-2.0
"""Hellos are read as an independent reader and tshark read them, whatever is in them."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.tls import Hellos, read_hellos
from tests.agent.tls_hellos import (
    GREASE,
    HYBRID_KEY_BYTES,
    Hello,
    alpn,
    damaged,
    dissect,
    encrypted_hello,
    extension,
    hello,
    key_share,
    plausible,
    real,
    server_name,
    versions,
)
from tests.lab.capture import tshark_fields, write_capture
from tests.schemas.batches import plain_texts

SEED = 20261124


def read(hellos: list[bytes]) -> list[Hello]:
    """The rows of *hellos*, which lie side by side: what reads too far reads the next one."""
    lengths = np.array([len(one) for one in hellos], np.int64)
    content = np.frombuffer(b"".join(hellos) or b"\0", np.uint8)
    columns = read_hellos(Hellos(content, np.cumsum(lengths) - lengths, lengths))
    for name in ("server_name", "alpn"):
        columns[name] = np.array([text.decode() for text in plain_texts(columns[name])], object)
    return [
        Hello(*parts)
        for parts in zip(
            *(columns[name].tolist() for name in Hello.__dataclass_fields__), strict=True
        )
    ]


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (hello(), ("", "", 771, 771, False, False)),
        (hello(version=0x0301), ("", "", 769, 769, False, False)),
        (hello(server_name(b"a.example")), ("a.example", "", 771, 771, False, False)),
        (hello(alpn(b"h2", b"http/1.1")), ("", "h2,http/1.1", 771, 771, False, False)),
        (hello(alpn(b"a,b", b"c\\", b"\n\n")), ("", r"a\,b,c\\,\010\010", 771, 771, False, False)),
        (hello(versions(GREASE[1], 0x0304, 0x0303)), ("", "", 771, 772, False, False)),
        (hello(versions(0x0303, 0x0304, GREASE[2])), ("", "", 771, 772, False, False)),
        (hello(encrypted_hello()), ("", "", 771, 771, True, False)),
        (
            hello(key_share(HYBRID_KEY_BYTES), server_name(b"late.example"), alpn(b"h3")),
            ("late.example", "h3", 771, 771, False, False),
        ),
        (
            hello(server_name(b"first"), server_name(b"second")),
            ("first", "", 771, 771, False, False),
        ),
        (hello(extension(0, b"")), ("", "", 771, 771, False, False)),
        (hello(server_name(b"whole.example"), alpn(b"h2"))[:-1], None),
    ],
)
def test_what_a_hello_offers(raw, expected):
    (found,) = read([raw])

    assert found == dissect(raw)
    if expected is None:
        assert (found.server_name, found.is_malformed) == ("whole.example", True)
    else:
        *texts_and_versions, is_ech_offered, is_malformed = expected
        assert [found.server_name, found.alpn, found.legacy_version, found.version] == list(
            texts_and_versions
        )
        assert (found.is_ech_offered, found.is_malformed) == (is_ech_offered, is_malformed)


def test_thousands_of_damaged_hellos_are_read_as_one_at_a_time():
    chance = random.Random(SEED)
    hellos = [damaged(chance) for _ in range(10_000)]

    found = read(hellos)

    assert found == [dissect(one) for one in hellos]
    assert 1_000 < sum(one.is_malformed for one in found) < 9_000


@settings(max_examples=300, deadline=None, database=None)
@given(st.lists(st.binary(max_size=300), min_size=1, max_size=5))
def test_arbitrary_bytes_are_read_as_one_at_a_time(tails):
    hellos = [hello()[:43] + tail for tail in tails]

    assert read(hellos) == [dissect(one) for one in hellos]


def test_tshark_reads_the_same_in_what_openssl_and_browsers_send(tmp_path):
    chance = random.Random(SEED + 1)
    hellos = [plausible(chance) for _ in range(1_000)]
    hellos += [real("openssl.example", ("h2", "http/1.1")), real("openssl.example"), real(None)]

    found = read(hellos)

    assert not any(one.is_malformed for one in found)
    assert [
        (one.server_name, one.alpn, one.legacy_version, one.hello_bytes) for one in found
    ] == tshark_reads(write_capture(tmp_path / "tls.pcap", map(over_tcp, range(1003), hellos)))


def over_tcp(number: int, payload: bytes) -> bytes:
    """An Ethernet frame with the hello in it, in a connection of its own to port 443."""
    tcp = (1024 + number).to_bytes(2, "big") + bytes.fromhex("01bb0000000100000001501800ff00000000")
    total = (len(payload) + 40).to_bytes(2, "big")
    ip = bytes.fromhex("4500") + total + bytes.fromhex("00000000400600000a0000010a000002")
    return bytes(12) + b"\x08\x00" + ip + tcp + payload


def tshark_reads(path) -> list[tuple]:
    lines = tshark_fields(
        path,
        *("tls.handshake.extensions_server_name", "tls.handshake.extensions_alpn_str"),
        *("tls.handshake.version", "tls.handshake.length"),
        occurrence="a",
    )
    return [(name, alpn, int(version, 0), int(length)) for name, alpn, version, length in lines]


def test_no_hellos_give_empty_columns():
    assert read([]) == []


def test_hellos_of_a_thousand_extensions_do_not_hold_up_the_agent():
    empty = extension(23, b"")
    hellos = [
        hello(*[empty] * count, alpn(*[b"x"] * ((990 - count) * 2))) for count in range(0, 980, 4)
    ]

    found = read(hellos)

    assert not any(one.is_malformed for one in found)
    assert found[0].alpn.count("x") == 1980
