# SPDX-License-Identifier: Apache-2.0
"""Requests run side by side, each with its own settings, and are stopped when nobody waits."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from urllib.parse import quote

import pytest

from tests.consumer.api.conftest import FLOWS, Ask
from tests.services.served_history import ServedHistory, served_history

SLOW = "SELECT sum(sipHash64(number)) FROM numbers({})"
ENDLESS = "SELECT number + {} FROM system.numbers"
RUNNING = (
    "SELECT count() FROM system.processes WHERE query LIKE '%{}%' AND query NOT LIKE '%processes%'"
)
DEADLINE_S = 20


def fetch(port: int, sql: str, url: str = "") -> tuple[int, bytes]:
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", f"/?query={quote(sql)}{url}")
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, body


def eventually(condition) -> bool:
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


@pytest.fixture
def narrow_history(tmp_path) -> Iterator[ServedHistory]:
    with served_history(tmp_path, max_queries=2) as served:
        yield served


def test_a_slow_query_does_not_hold_up_a_quick_one(history: ServedHistory, ask: Ask):
    slow = threading.Thread(
        target=fetch, args=(history.port, SLOW.format(10**11), "&max_execution_time=4")
    )
    slow.start()
    assert eventually(lambda: ask(RUNNING.format(10**11)).body == b"1\n")

    times = []
    for _ in range(10):
        started = time.monotonic()
        assert int(ask("SELECT count() FROM flows").body) >= FLOWS
        times.append(time.monotonic() - started)

    assert slow.is_alive()
    assert sorted(times)[5] < 0.5
    slow.join()


def test_queries_overlap(history: ServedHistory):
    started = time.monotonic()
    with ThreadPoolExecutor(8) as threads:
        replies = list(threads.map(lambda _: fetch(history.port, "SELECT sleep(1)"), range(8)))

    assert {status for status, _ in replies} == {200}
    assert time.monotonic() - started < 4


def test_queries_are_answered_while_rows_are_inserted(history: ServedHistory, ask: Ask):
    counts = set()
    assert history.tell("busy") == "done"

    assert eventually(
        lambda: counts.add(int(ask("SELECT count() FROM flows").body)) or len(counts) >= 5
    )
    assert history.tell("rest") == "done"


def test_settings_stay_with_their_request(history: ServedHistory):
    def reply(number: int) -> tuple[int, bytes]:
        rows, url = number % 50, f"&max_result_rows={1000 + number}&param_n={number}"
        sql = "SELECT {n:UInt32}, getSetting('max_result_rows')" + f", {rows}"
        return fetch(history.port, sql, url)

    def default(_: int) -> tuple[int, bytes]:
        return fetch(history.port, "SELECT getSetting('max_result_rows'), getSetting('limit')")

    with ThreadPoolExecutor(8) as threads:
        chosen = threads.map(reply, range(200))
        plain = threads.map(default, range(200))
        failed = threads.map(
            lambda n: fetch(history.port, f"SELECT throwIf({n} >= 0)", "&limit=1"), range(50)
        )

    assert list(chosen) == [
        (200, f"{number}\t{1000 + number}\t{number % 50}\n".encode()) for number in range(200)
    ]
    assert set(plain) == {(200, b"0\t0\n")}
    assert {status for status, _ in failed} == {500}


def test_settings_of_a_statement_stay_with_it(ask: Ask):
    sql = "SELECT getSetting('max_threads') = 1"

    assert ask(sql + " SETTINGS max_threads = 1").body == b"1\n"
    assert ask(sql + " SETTINGS max_threads = 1 FORMAT CSV", max_threads=2).body == b"1\n"
    assert ask(sql, max_threads=2).body == b"0\n"


def test_too_many_queries_are_turned_away_with_503(narrow_history: ServedHistory):
    port = narrow_history.port

    def sleep_for_a_while() -> bool:
        return eventually(lambda: fetch(port, "SELECT sleep(3)")[0] == 200)

    with ThreadPoolExecutor(2) as threads:
        slow = [threads.submit(sleep_for_a_while) for _ in range(2)]
        assert eventually(lambda: all(fetch(port, "SELECT 1")[0] == 503 for _ in range(3)))

        status, body = fetch(port, "SELECT 1")

        assert status == 503
        assert body.startswith(b"Code: 202. DB::Exception: Too many simultaneous queries")
        assert all(future.result() for future in slow)
    assert fetch(port, "SELECT 1") == (200, b"1\n")


@pytest.mark.parametrize("sql", [SLOW, ENDLESS])
def test_a_query_ends_when_its_client_hangs_up(history: ServedHistory, ask: Ask, sql: str):
    mark = 10**12 + 1
    running = RUNNING.format(mark)
    connection = HTTPConnection("127.0.0.1", history.port)
    connection.request("GET", f"/?query={quote(sql.format(mark))}")
    assert eventually(lambda: ask(running).body == b"1\n")

    connection.close()

    assert eventually(lambda: ask(running).body == b"0\n")


def test_the_time_of_a_query_is_bounded(ask: Ask):
    reply = ask(SLOW.format(10**12), max_execution_time=1)

    assert (reply.status, reply.code) == (408, "159")


def test_the_size_of_a_result_in_one_piece_is_bounded(ask: Ask):
    assert ask("SELECT * FROM system.numbers FORMAT JSON").code == "396"
    assert ask("SELECT * FROM system.numbers", wait_end_of_query=1).code == "396"


def test_few_large_results_in_one_piece_are_made_at_once(history: ServedHistory):
    sql = "SELECT sleep(2), number FROM numbers(10) FORMAT JSON"
    url = "&max_result_bytes=200000000"

    with ThreadPoolExecutor(4) as threads:
        replies = list(threads.map(lambda _: fetch(history.port, sql, url), range(4)))

    assert sorted(status for status, _ in replies) == [200, 200, 503, 503]


def test_the_memory_of_a_query_is_bounded(ask: Ask):
    reply = ask("SELECT groupArray(number) FROM system.numbers", max_memory_usage=100_000_000)

    assert reply.code == "241"


def test_connections_are_bounded(history: ServedHistory):
    connections = [HTTPConnection("127.0.0.1", history.port) for _ in range(80)]
    statuses = []
    for connection in connections:
        connection.request("GET", "/ping")
        response = connection.getresponse()
        response.read()
        statuses.append(response.status)
    for connection in connections:
        connection.close()

    assert 50 < statuses.count(200) <= 64
    assert set(statuses) == {200, 503}
    assert eventually(lambda: fetch(history.port, "SELECT 1")[0] == 200)


def test_stopping_ends_what_runs(tmp_path):
    with served_history(tmp_path) as served, ThreadPoolExecutor(1) as threads:
        slow = threads.submit(fetch, served.port, SLOW.format(10**12))
        assert eventually(lambda: fetch(served.port, RUNNING.format(10**12)) == (200, b"1\n"))
        started = time.monotonic()
        served.process.stdin.close()

        assert served.process.wait(timeout=20) == 0
        assert time.monotonic() - started < 10
        assert slow.exception(timeout=5) is not None or slow.result()[0] >= 400
