# SPDX-License-Identifier: Apache-2.0
"""Data in DNS is found, and the names of ordinary hosts are not."""

import base64
import random

import pytest

from consumer.alerts.detectors.dns_tunnel import DnsTunnel, Options
from consumer.alerts.dns_names import names_in
from tests.consumer.alerts.scenes import batch, show
from tests.schemas.batches import text_column

RANDOM = random.Random(1)


def data(count, *, size=30, domain="t.example.com"):
    return [
        base64.b32encode(RANDOM.randbytes(size)).decode().strip("=").lower() + f".{domain}"
        for _ in range(count)
    ]


def asks(names, *, time=0.0, client="10.0.0.7", **columns):
    return batch(
        "dns", rows=len(names), time=time, src_addr=client, query_name=names, protocol=17, **columns
    )


def test_many_long_random_names_under_one_domain_carry_data():
    [found] = show(DnsTunnel(Options()), asks(data(150)), now=1.0)

    assert found.labels == {"client": "10.0.0.7", "domain": "example.com"}
    assert 145 <= found.value <= 150


def test_fewer_names_than_the_threshold_carry_none():
    assert not show(DnsTunnel(Options()), asks(data(99)), now=1.0)


def test_a_slow_tunnel_is_found_when_it_has_asked_for_enough():
    detector = DnsTunnel(Options())
    found = [
        second
        for second in range(0, 500, 4)
        if show(detector, asks(data(1), time=second), now=second + 1.0)
    ]

    assert found[0] == pytest.approx(400, abs=8)


@pytest.mark.parametrize(
    "names",
    [
        data(1) * 500,
        [f"server-{number}.eu-central-1.compute.example.com" for number in range(500)],
        [
            "this-is-a-long-name-in-words-that-people-can-read-" + "a" * n + ".example.com"
            for n in range(9)
        ]
        * 60,
        [f"{'.'.join('0123456789abcdef' * 2)}.{number}.ip6.arpa" for number in range(500)],
        data(500, size=15),
        [one for number in range(60) for one in data(8, domain=f"cdn{number}.net")],
    ],
    ids=["the same", "short", "of words", "reverse", "hashes of content", "of many domains"],
)
def test_ordinary_names_carry_none(names):
    assert not show(DnsTunnel(Options()), asks(names), now=1.0)


def test_responses_are_not_counted_beside_their_queries():
    names = data(60)

    assert not show(DnsTunnel(Options()), asks(names), asks(data(60), is_response=1), now=1.0)


def test_a_domain_to_be_ignored_is_left_alone():
    detector = DnsTunnel(Options(ignore=("Example.com.",)))

    assert not show(detector, asks(data(500)), now=1.0)


def test_names_without_number_do_not_grow_a_detector_of_tunnels():
    detector = DnsTunnel(Options())
    before = detector.size_bytes
    for second in range(5):
        names = [
            f"{RANDOM.getrandbits(160):040x}x.{RANDOM.getrandbits(48):x}.com" for _ in range(8000)
        ]
        assert not show(detector, asks(names, time=second), now=second + 1.0)

    assert detector.size_bytes == before


@pytest.mark.parametrize(
    ("name", "domain"),
    [
        ("a.b.c.example.com", "example.com"),
        ("A.B.Example.CO.uk", "example.co.uk"),
        ("a.b.example.com.au", "example.com.au"),
        ("a.b.t.io", "t.io"),
        (r"a.b\.c.example.org", "example.org"),
        ("x.co.company", "co.company"),
    ],
)
def test_the_registered_domain_is_what_names_are_under(name, domain):
    column = text_column([b"", name.encode(), b".", b"com"])

    names = names_in(column, [True] * 4, least_bytes=1)

    assert names.rows.tolist() == [1]
    assert names.domain(0) == domain
