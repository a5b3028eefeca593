# SPDX-License-Identifier: Apache-2.0
"""Columns are cut into batches that a broker takes, numbered without holes."""

import os

import numpy as np

from agent.batch import Batcher
from agent.columns import typed
from schemas.dns import DNS
from schemas.flow import FLOW
from schemas.packet import HEADER_BYTES, PACKET
from schemas.wire import Names, encode
from tests.schemas.batches import plain_texts, text_column

ANCHOR = {"monotonic_ns": 1, "wall_ns": 2}
# What an Apache Kafka broker accepts by default (message.max.bytes), less its own overhead.
MOST_BYTES = 1_000_000


def a_batcher() -> Batcher:
    return Batcher(node="node-1", boot_id="boot", run="run")


def flows(count: int) -> dict:
    names = Names(np.arange(count, dtype=np.uint8) % 2, ("eth0", "eth1"))
    given = {
        "time": np.arange(count, dtype=np.int64),
        "interface": names,
        "packets": np.arange(count),
    }
    return typed(FLOW, given)


def random_packets(count: int) -> dict:
    """Packets whose every byte is random, so that compression gains nothing."""
    columns = typed(PACKET, {"time": np.zeros(count, np.int64)})
    for name, column in columns.items():
        if isinstance(column, np.ndarray):
            columns[name] = np.frombuffer(os.urandom(column.nbytes), column.dtype)
    assert columns["header"].dtype.itemsize == HEADER_BYTES
    return columns


def long_names(count: int) -> dict:
    """Among short names some of the longest that can be written, all of them in one place."""
    names = [os.urandom(1016 if number > count - 2000 else 9) for number in range(count)]
    return typed(DNS, {"time": np.zeros(count, np.int64), "query_name": text_column(names)})


def test_rows_are_cut_in_order_and_none_is_left_out():
    batches = list(a_batcher().batches("flow", flows(20_000), ANCHOR))
    packets = np.concatenate([batch.columns["packets"] for batch in batches])
    codes = np.concatenate([batch.columns["interface"].codes for batch in batches])

    assert packets.tolist() == list(range(20_000))
    assert codes.tolist() == [0, 1] * 10_000
    assert sum(batch.rows for batch in batches) == 20_000


def test_texts_stay_with_their_rows():
    names = [b"%d" % number * (number % 7) for number in range(20_000)]
    columns = typed(DNS, {"time": np.zeros(20_000, np.int64), "query_name": text_column(names)})

    batches = a_batcher().batches("dns", columns, ANCHOR)

    assert [name for batch in batches for name in plain_texts(batch.columns["query_name"])] == names


def test_every_kind_is_numbered_by_itself():
    batcher = a_batcher()
    numbers = [
        [batch.seq for batch in batcher.batches(kind, columns, ANCHOR)]
        for kind, columns in (("flow", flows(1)), ("flow", flows(1)), ("packet", random_packets(1)))
    ]

    assert numbers == [[0], [1], [0]]


def test_no_rows_give_no_batch_and_use_no_number():
    batcher = a_batcher()

    assert list(batcher.batches("flow", flows(0), ANCHOR)) == []
    assert [batch.seq for batch in batcher.batches("flow", flows(1), ANCHOR)] == [0]


def test_a_batch_carries_the_identity_of_its_run():
    (batch,) = a_batcher().batches("flow", flows(1), ANCHOR)

    assert (batch.node, batch.boot_id, batch.run, batch.anchor) == ("node-1", "boot", "run", ANCHOR)


def test_no_payload_is_larger_than_brokers_accept_even_if_it_cannot_be_compressed():
    batches = [
        *a_batcher().batches("packet", random_packets(20_000), ANCHOR),
        *a_batcher().batches("flow", flows(20_000), ANCHOR),
        *a_batcher().batches("dns", long_names(20_000), ANCHOR),
    ]

    assert max(len(encode(batch)) for batch in batches) < MOST_BYTES
