# SPDX-License-Identifier: Apache-2.0
"""The stock clickhouse-connect, over HTTP, finds a ClickHouse."""

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import clickhouse_connect
import pytest
from clickhouse_connect.driver.exceptions import DatabaseError

from tests.consumer.api.conftest import FLOWS
from tests.services.served_history import ServedHistory


@pytest.fixture
def client(history: ServedHistory) -> Iterator[Any]:
    client = clickhouse_connect.get_client(host="127.0.0.1", port=history.port)
    yield client
    client.close()


def test_rows_and_parameters(client: Any):
    result = client.query(
        "SELECT node, direction, bytes FROM flows WHERE bytes > {least:UInt64} LIMIT 3",
        parameters={"least": 100},
    )

    assert len(result.result_rows) == 3
    assert result.column_names == ("node", "direction", "bytes")
    assert int(result.summary["read_rows"]) > 0


def test_arrow_and_blocks(client: Any):
    table = client.query_arrow("SELECT bytes FROM flows LIMIT 5")
    with client.query_row_block_stream("SELECT number FROM numbers(500000)") as blocks:
        rows = sum(len(block) for block in blocks)

    assert table.num_rows == 5
    assert rows == 500_000


def test_commands_and_raw_queries(client: Any):
    assert client.ping()
    assert client.command("SELECT count() FROM flows") >= FLOWS
    assert client.raw_query("SELECT 1 AS a", fmt="JSONEachRow") == b'{"a":1}\n'
    assert client.query("SELECT 1 AS a LIMIT 0").column_names == ("a",)


def test_settings_that_the_client_learns_from_the_server(client: Any):
    sql = "SELECT getSetting('max_threads')"

    assert client.query(sql, settings={"max_threads": 1}).result_rows == [(1,)]
    assert client.server_settings["max_threads"].readonly == 0


def test_errors_before_and_in_the_middle_of_a_result(client: Any):
    with pytest.raises(DatabaseError, match="UNKNOWN_TABLE"):
        client.query("SELECT * FROM nope")
    with pytest.raises(DatabaseError, match="Division by zero"):
        client.query("SELECT intDiv(1, 2000000 - number) FROM numbers(3000000)")
    assert client.query("SELECT 1").result_rows == [(1,)]


def test_inserts_are_refused(client: Any):
    with pytest.raises(DatabaseError, match="read-only"):
        client.insert("flows", [["x"]], column_names=["node"])


async def test_the_asynchronous_client_asks_side_by_side(history: ServedHistory):
    client = await clickhouse_connect.get_async_client(host="127.0.0.1", port=history.port)
    started = time.monotonic()

    results = await asyncio.gather(
        *(client.query("SELECT {n:UInt8}, sleep(1)", parameters={"n": n}) for n in range(6))
    )

    assert [result.result_rows[0][0] for result in results] == list(range(6))
    assert time.monotonic() - started < 3
    await client.close()
