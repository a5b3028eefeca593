# SPDX-License-Identifier: Apache-2.0
"""Rules in SQL find what they say, in the real engine, by HTTP and in process."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from multiprocessing import get_context
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from consumer.alerts import reader
from consumer.alerts.alert import Sighting
from consumer.alerts.reader import Answer, Reader
from consumer.alerts.sql_rules import SqlRules, sql_rules_of
from consumer.migrations import migrate
from consumer.server import Server
from consumer.sink import Sink, SinkError, SinkUnavailable
from schemas.catalogue import RECORDS
from service.options import ConfigError
from tests.services.served_history import ServedHistory, served_history

pytestmark = pytest.mark.services

SHIPPED = Path(__file__).parents[3] / "deploy/alerts/rules.yaml"
S = 1_000_000_000
NOW_NS = time.time_ns() // S * S
# A rule over one made-up row for each number; times are there because they must be.
NUMBERS = """\
- name: numbers
  query: |
    SELECT toString(number % {groups}) AS node, number AS value FROM numbers({count})
    WHERE (now64(9) > {{since}} OR now64(9) < {{until}}) {more}
  every: 30s
  over: 5m
  above: {above}
  labels: [node]
  severity: warning
  summary: "{{node}} has {{value}}"
"""


def numbers(count: int = 3, above: float = 1, groups: int = 1000, more: str = "") -> str:
    return NUMBERS.format(count=count, above=above, groups=groups, more=more)


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedHistory]:
    with served_history(tmp_path_factory.mktemp("history")) as history:
        yield history


@pytest.fixture
def rules_file(tmp_path: Path) -> Path:
    return tmp_path / "rules.yaml"


class Running:
    """Started rules, and their numbers."""

    def __init__(self, rules: SqlRules, registry: CollectorRegistry) -> None:
        self.rules = rules
        self._registry = registry

    def count(self, name: str, rule: str = "numbers") -> float:
        value = self._registry.get_sample_value(f"alert_rule_{name}_total", {"rule": rule})
        assert value is not None
        return value

    async def found(self, now_ns: int = NOW_NS) -> list[Sighting]:
        """What is seen once everything that is due is answered."""
        await self.rules.due(now_ns)
        await self.rules.settled()
        return await self.rules.due(now_ns)


@asynccontextmanager
async def running(history: ServedHistory, path: Path, text: str = "") -> AsyncIterator[Running]:
    if text:
        path.write_text(text)
    registry = CollectorRegistry()
    rules = sql_rules_of(path, history.url, Server(), registry=registry)
    try:
        await rules.start(NOW_NS)
        yield Running(rules, registry)
    finally:
        await rules.stop()


async def test_rows_beyond_the_threshold_are_sightings(history, rules_file):
    async with running(history, rules_file, numbers(count=4, above=1)) as it:
        assert await it.rules.due(NOW_NS) == []
        found = await it.found()

    assert [(one.detector, one.labels, one.value) for one in found] == [
        ("numbers", {"node": "3"}, 3.0),
        ("numbers", {"node": "2"}, 2.0),
    ]
    assert found[0].summary == "3 has 3"
    assert (found[0].severity, found[0].threshold) == ("warning", 1.0)


async def test_the_evidence_is_what_was_asked_and_finds_the_same(history, rules_file):
    async with running(history, rules_file, numbers(count=3)) as it:
        [one] = await it.found()
        again = await asyncio.to_thread(it.rules._reader.ask, one.evidence)

    assert list(again.rows) == [("2", 2)]


async def test_a_rule_is_asked_in_its_own_time_and_its_finds_last_until_then(history, rules_file):
    async with running(history, rules_file, numbers()) as it:
        before = await it.found(NOW_NS)
        between = await it.found(NOW_NS + 29 * S)
        after = await it.found(NOW_NS + 30 * S)

    assert before == between
    assert after[0].seen_ns == before[0].seen_ns + 30 * S
    assert after[0].began_ns == before[0].began_ns


async def test_what_has_to_hold_for_a_while_is_seen_once_it_did(history, rules_file):
    text = numbers().replace("above:", "for: 1m\n  above:")
    async with running(history, rules_file, text) as it:
        assert await it.found(NOW_NS) == []
        assert await it.found(NOW_NS + 30 * S) == []
        [one] = await it.found(NOW_NS + 60 * S)

    assert one.seen_ns - one.began_ns == 60 * S


async def test_a_clock_that_is_set_back_stops_no_rule(history, rules_file):
    async with running(history, rules_file, numbers()) as it:
        await it.found(NOW_NS)
        [one] = await it.found(NOW_NS - 3600 * S)

    assert one.seen_ns < NOW_NS - 3600 * S


async def test_a_rule_that_fails_again_is_an_alert_until_it_works(history, rules_file):
    history.tell("sql CREATE TABLE IF NOT EXISTS hookline.fuse (n UInt8) ENGINE = Memory")
    fuse = "AND NOT throwIf((SELECT count() FROM fuse) > 0, 'blown')"
    async with running(history, rules_file, numbers(more=fuse)) as it:
        [one] = await it.found(NOW_NS)
        history.tell("sql INSERT INTO hookline.fuse VALUES (1)")
        still = await it.found(NOW_NS + 30 * S)
        failing = await it.found(NOW_NS + 40 * S)
        history.tell("sql TRUNCATE TABLE hookline.fuse")
        after = await it.found(NOW_NS + 50 * S)
        assert it.count("failures") == 2

    # What was found is not over because nobody can tell.
    assert still == [one]
    assert failing[0] == one
    assert failing[1].detector == "rule_fails"
    assert failing[1].labels == {"rule": "numbers", "about": "error"}
    assert "blown" in failing[1].summary
    assert "fuse" in failing[1].evidence
    assert [other.detector for other in after] == ["numbers"]


async def test_a_rule_that_finds_too_much_says_so(history, rules_file):
    async with running(history, rules_file, numbers(count=300)) as it:
        found = await it.found()

    assert len(found) == 101
    assert found[0].value == 299.0
    assert found[-1].labels == {"rule": "numbers", "about": "rows"}
    assert it.count("dropped_runs") == 1


async def test_rows_that_labels_do_not_tell_apart_are_an_alert_of_their_own(history, rules_file):
    async with running(history, rules_file, numbers(count=5, groups=2)) as it:
        found = await it.found()

    assert [(one.labels.get("node"), one.value) for one in found[:2]] == [("0", 4.0), ("1", 3.0)]
    assert found[2].summary.startswith("rule numbers has 1 rows with the labels of others")


async def test_a_question_that_takes_too_long_is_ended(history, rules_file, monkeypatch):
    monkeypatch.setitem(reader.SETTINGS, "max_execution_time", 1)
    slow = numbers(count=10**12, more="AND cityHash64(number) = 0")
    async with running(history, rules_file, slow) as it:
        assert await it.found() == []
        [one] = await it.found(NOW_NS + 10 * S)

    assert one.summary.startswith("rule numbers fails: Timeout exceeded: elapsed 1")


async def test_a_rule_is_never_asked_while_it_is_being_answered(history, rules_file):
    rules_file.write_text(numbers())
    registry = CollectorRegistry()
    rules = sql_rules_of(rules_file, history.url, Server(), registry=registry)
    await rules.start(NOW_NS)
    released, asked = threading.Event(), []
    whole = rules._reader.ask

    def held(sql: str) -> Answer:
        asked.append(sql)
        released.wait()
        return whole(sql)

    rules._reader.ask = held
    await rules.due(NOW_NS)
    for seconds in (30, 31, 60):
        await rules.due(NOW_NS + seconds * S)
    released.set()
    await rules.settled()
    found = await rules.due(NOW_NS + 61 * S)
    await rules.stop()

    assert len(asked) <= 2
    assert len(found) == 1
    assert registry.get_sample_value("alert_rule_late_runs_total", {"rule": "numbers"}) == 1


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ("number AS value, toString(numbr)", "numbr"),
        ("number AS val", "its query has no column value; it has node, val"),
        ("'many' AS value", "column value is String, which is no number"),
        ("number AS value FROM numbers(1)) --", "rules.yaml:1, rule numbers"),
        ("(SELECT count() FROM file('/etc/passwd')) AS value", "rules.yaml:1, rule numbers"),
    ],
)
async def test_a_query_that_cannot_be_asked_stops_the_start(history, rules_file, wrong, reason):
    rules_file.write_text(numbers().replace("number AS value", wrong))
    rules = sql_rules_of(rules_file, history.url, Server())
    try:
        with pytest.raises(ConfigError) as refused:
            await rules.start(NOW_NS)
    finally:
        await rules.stop()

    assert reason in str(refused.value)
    assert "rule numbers" in str(refused.value)
    assert "\n" not in str(refused.value)


async def test_tables_that_a_consumer_has_still_to_make_are_waited_for(history, rules_file):
    rules_file.write_text(numbers(more="AND (SELECT count() FROM not_yet) > 0"))
    rules = sql_rules_of(rules_file, history.url, Server())
    try:
        with pytest.raises(SinkUnavailable, match="rule numbers: .*not_yet"):
            await rules.start(NOW_NS)
    finally:
        await rules.stop()


async def test_a_server_that_is_away_is_told_apart(rules_file):
    rules_file.write_text(numbers())
    rules = sql_rules_of(rules_file, "http://127.0.0.1:1", Server())
    try:
        with pytest.raises(SinkUnavailable, match="no server answers"):
            await rules.start(NOW_NS)
    finally:
        await rules.stop()


def embedded(directory: str, path: str) -> tuple[list[Sighting], str]:
    """What shipped rules and numbers find in an engine of this process, and how a write ends."""
    dsn = f"chdb://{directory}"
    sink = Sink(dsn)
    sink.connect(["flows"])
    migrate(sink, RECORDS, retention_days=30, failures=SinkError)

    async def found() -> list[Sighting]:
        shipped, rules = (sql_rules_of(one, dsn, Server()) for one in (SHIPPED, Path(path)))
        await shipped.start(NOW_NS)
        await rules.start(NOW_NS)
        await rules.due(NOW_NS)
        await rules.settled()
        seen = await rules.due(NOW_NS)
        await shipped.stop()
        await rules.stop()
        return seen

    seen = asyncio.run(found())
    one = Reader(dsn, Server(), at_once=1)
    one.connect()
    try:
        one.ask("INSERT INTO hookline.flows (node) VALUES ('x')")
    except Exception as error:  # noqa: BLE001  # it is what is tested
        return seen, f"{type(error).__name__}: {error}"
    return seen, ""


def test_the_embedded_engine_is_asked_alike_and_never_written(tmp_path, rules_file):
    rules_file.write_text(numbers())
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        seen, write = pool.submit(embedded, str(tmp_path / "db"), str(rules_file)).result()

    assert [one.summary for one in seen] == ["2 has 2"]
    assert write.startswith("QuestionRefused")
    assert "readonly" in write


# For each shipped rule rows that it finds, and what it says of them.
CASES: dict[str, tuple[str, str]] = {
    "rows_stopped": (
        "ledger (time, end, node) VALUES (T(-600), T(-599), 'away'), (T(-30), T(-29), 'here')",
        "nothing was stored of away for 594 s",
    ),
    "lost_packets": (
        "ledger (time, end, node, lost_packets) VALUES (T(-60), T(-59), 'full', 12)",
        "full gave up the rows of 12 packets, because its spool was full",
    ),
    "lost_detail": (
        (
            "ledger (time, end, node, interface, seen_packets, overflow_packets)"
            " VALUES (T(-60), T(-59), 'small', 'eth0', 1000, 25)"
        ),
        "2.5 % of the packets at eth0 of small have no addresses, because the flow cache was full",
    ),
    "spool_not_empty": (
        (
            "deliveries (time, node, of_run, of_kind, spooled) VALUES"
            " (T(-60), 'spools', 'r', 'flow', 9), (T(-30), 'spools', 'r', 'flow', 90),"
            " (T(-30), 'spools', 'r', 'ledger', 10)"
        ),
        "100 batches wait on spools for Kafka",
    ),
    "dead_letters": (
        (
            "dead_letters (time, topic, reason) VALUES (T(-60), 'hookline.flow.v1', 'no msgpack'),"
            " (T(-59), 'hookline.flow.v1', 'no msgpack')"
        ),
        "the consumer could not use 2 records of hookline.flow.v1, as one because: no msgpack",
    ),
    "retransmits_by_service": (
        (
            "sockets (time, start, node, event, protocol, role, cookie, command, remote_port,"
            " retransmits, segments_sent) VALUES"
            # An old connection, of which only what came since counts, and a new one.
            " (T(-200), T(-9000), 'a', 'update', 6, 'client', 1, 'curl', 443, 5000, 10000),"
            " (T(-100), T(-9000), 'a', 'close', 6, 'client', 1, 'curl', 443, 5050, 10500),"
            " (T(-90), T(-90), 'a', 'close', 6, 'client', 2, 'curl', 443, 50, 500)"
        ),
        "curl, port 443: 10 % of the segments were sent again",
    ),
    "connections_fail": (
        (
            "sockets (time, node, event, protocol, role, command, remote_addr, remote_port)"
            " SELECT T(-60), 'a', if(number < 30, 'fail', 'open'), 6, 'client', 'psql',"
            " toIPv6('192.0.2.9'), 5432 FROM numbers(40)"
        ),
        "30 of 40 connections of psql to 192.0.2.9 port 5432 came to nothing",
    ),
    "dns_fails": (
        (
            "dns (time, node, is_response, response_code)"
            " SELECT T(-60), 'dns', 1, if(number < 50, 2, 0) FROM numbers(200)"
        ),
        "25 % of the DNS responses at dns are failures",
    ),
    "new_listener": (
        (
            "sockets (time, node, event, command, local_port, local_addr) VALUES"
            " (T(-200000), 'b', 'listen', 'sshd', 22, toIPv6('::')),"
            " (T(-60), 'b', 'listen', 'sshd', 22, toIPv6('::')),"
            " (T(-60), 'b', 'listen', 'nc', 4444, toIPv6('::')),"
            " (T(-60), 'b', 'listen', 'local', 4445, toIPv6('127.0.0.1')),"
            " (T(-60), 'fresh', 'listen', 'nc', 4444, toIPv6('::'))"
        ),
        "nc listens at port 4444 of b, which it did not in the week before",
    ),
    "talker_jumps": (
        (
            "flows (time, direction, src_addr, bytes) VALUES"
            " (T(-86460), 'ingress', toIPv6('192.0.2.1'), 150000000),"
            " (T(-86460), 'ingress', toIPv6('192.0.2.2'), 900000000),"
            " (T(-60), 'ingress', toIPv6('192.0.2.1'), 3000000000),"
            " (T(-60), 'egress', toIPv6('192.0.2.1'), 3000000000),"
            " (T(-60), 'ingress', toIPv6('192.0.2.2'), 3000000000)"
        ),
        "192.0.2.1 sent 2.79 GiB in 15 minutes, 20 times what it did yesterday at this time",
    ),
}


def at(seconds: str) -> str:
    return f"toDateTime64({NOW_NS // S + int(seconds)}, 9, 'UTC')"


def filled_in(rows: str) -> str:
    pieces = rows.split("T(")
    return pieces[0] + "".join(
        at(piece.partition(")")[0]) + piece.partition(")")[2] for piece in pieces[1:]
    )


async def test_each_shipped_rule_finds_what_it_is_for_and_nothing_beside(history):
    async with running(history, SHIPPED) as it:
        assert await it.found(NOW_NS - 3600 * S) == []
        for rows, _ in CASES.values():
            history.tell(f"sql INSERT INTO hookline.{filled_in(rows)}")
        first = await it.found(NOW_NS)
        for seconds in (60, 120, 180):
            last = await it.found(NOW_NS + seconds * S)

    # One has to hold for three minutes, in which others are over.
    found = [*first, *(one for one in last if one.detector == "spool_not_empty")]
    told = [(one.detector, one.summary) for one in found]
    assert sorted(told) == sorted((name, said) for name, (_, said) in CASES.items())
