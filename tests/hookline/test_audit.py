# SPDX-License-Identifier: Apache-2.0
"""The books of a few intervals, balanced and not, in a real engine and a real Kafka."""

import asyncio
import itertools
import json
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from hookline.audit.books import Amount, Batches, Books, Place, RunAndKind, Span, Stations
from hookline.audit.judgement import completeness, differences, missing_batches
from schemas import wire
from schemas.catalogue import RECORDS
from schemas.fields import DIRECTIONS
from schemas.layout import NAME
from schemas.ledger import HOOKS
from schemas.wire import Batch, Names
from tests.consumer.engine import Engine
from tests.consumer.process import delete_everything, producer, publish
from tests.lab.agents import ROOT
from tests.schemas.batches import a_batch

pytestmark = pytest.mark.services

ETH0 = Place("web-1", "eth0", "ingress")
BYTES = 100
SECOND_NS = 10**9
numbers = itertools.count()


def books(stations: Stations, *, is_all: bool = True) -> Books:
    return Books(0 if is_all else 1, 2, {ETH0: stations})


def counted(packets: int) -> Amount:
    return Amount(packets, packets * BYTES)


def even(packets: int, **changes: Amount) -> Stations:
    """Every station has the same, but for *changes*."""
    same = dict.fromkeys(("interface", "kernel", "rows", "clickhouse", "kafka"), counted(packets))
    return Stations(**{**same, **changes})


def found(stations: Stations, *, is_all: bool = True) -> list[tuple[str, int]]:
    its = differences(books(stations, is_all=is_all))
    return [(one.between, one.amount.packets) for one in its]


def test_stations_that_agree_differ_in_nothing():
    assert found(even(100)) == []
    assert completeness(books(even(100))) == 1.0


@pytest.mark.parametrize(
    ("station", "between"),
    [
        ("interface", "interface and kernel"),
        ("clickhouse", "rows and clickhouse"),
        ("kafka", "rows and kafka"),
    ],
)
def test_what_one_station_lacks_is_told_by_its_name(station, between):
    ((where, packets),) = found(even(100, **{station: counted(99)}))

    assert (where, abs(packets)) == (between, 1)


def test_what_kafka_has_not_had_to_keep_is_no_difference():
    stations = even(100)
    stations.kafka = None

    assert found(stations) == []


def test_what_is_under_way_at_the_edges_is_no_difference():
    moving = even(100, interface=counted(108), rows=counted(97), clickhouse=counted(97))
    moving.kafka = counted(97)
    assert found(moving) == [("interface and kernel", 8), ("kernel and rows", 3)]

    moving.latest = counted(7)
    moving.before = counted(1)
    assert found(moving) == []


def test_what_was_seen_while_nobody_read_the_interface_may_be_missing_there():
    stations = even(100, interface=counted(92))
    stations.unread = counted(7)
    assert found(stations) == [("interface and kernel", -8)]

    stations.unread = counted(8)
    assert found(stations) == []


def test_an_interface_may_count_super_packets_as_one():
    stations = even(100, interface=Amount(60, 100 * BYTES - 40 * 66))
    stations.extra = Amount(40, 40 * 66)

    assert found(stations) == []


def test_a_veth_with_xdp_leaves_out_the_ethernet_header():
    stations = even(100, interface=Amount(100, 100 * (BYTES - 14)))
    assert found(stations) == [("interface and kernel", 0)]

    stations.is_at_xdp = True
    assert found(stations) == []


def test_the_loopback_leaves_out_the_ethernet_header():
    books = Books(0, 2, {Place("web-1", "blue/lo", "egress"): even(100)})
    (at,) = books.stations.values()
    at.interface = Amount(100, 100 * (BYTES - 14))

    assert differences(books) == []


def test_what_was_given_up_explains_what_is_missing_and_no_more():
    stations = even(100, clickhouse=counted(90), kafka=counted(90), lost=counted(10))
    assert found(stations) == []
    assert completeness(books(stations)) == 0.9

    stations.lost = counted(7)
    assert found(stations) == [("rows and kafka", 3), ("rows and clickhouse", 3)]
    # Of a part of the time, more may have been given up than was made in it.
    stations.lost = counted(12)
    assert found(stations) == [("rows and kafka", -2), ("rows and clickhouse", -2)]
    assert found(stations, is_all=False) == []


def test_rows_that_are_stored_twice_are_a_difference():
    assert found(even(100, clickhouse=counted(101)), is_all=False) == [("rows and clickhouse", -1)]


@pytest.mark.parametrize(
    ("batches", "missing"),
    [
        (Batches(Span(0, 5), made_rows=50, stored=5, stored_rows=50), None),
        (Batches(Span(0, 5), made_rows=50, stored=4, stored_rows=40), (1, 10)),
        (Batches(Span(0, 5), made_rows=50, stored=5, stored_rows=60), (0, -10)),
        (Batches(Span(0, 5), made_rows=50, stored=3, stored_rows=30, lost=1, spooled=1), None),
        (Batches(Span(0, 5), made_rows=50, stored=2, stored_rows=20, lost=1, spooled=1), (1, 0)),
        # After the machine's restart nobody knows how many rows there were.
        (Batches(Span(0, 5), made_rows=0, stored=5, stored_rows=50), None),
    ],
)
def test_batches_are_missing_unless_they_were_lost_or_wait(batches, missing):
    key = RunAndKind("web-1", "r", "flow")
    told = missing_batches(Books(0, 1, batches={key: batches}))

    assert [(one.batches, one.rows) for one in told] == ([missing] if missing else [])


@dataclass
class Night:
    """What one agent has told: interval by interval, of one interface."""

    node: str = field(default_factory=lambda: f"audited-{next(numbers)}")
    run: str = "r-1"
    began_ns: int = field(default_factory=lambda: (time.time_ns() // SECOND_NS - 600) * SECOND_NS)
    batches: list[Batch] = field(default_factory=list)

    def interval(self, number: int, packets: int, **ledger: int) -> None:
        """The flows, the ledger and the deliveries of one minute."""
        end_ns = self.began_ns + (number + 1) * 60 * SECOND_NS
        start_ns = end_ns - 60 * SECOND_NS
        flows = {"time": start_ns + 1, "packets": packets, "bytes": packets * BYTES}
        self.batches.append(self._batch("flow", number, **flows))
        same = dict.fromkeys(("link_packets", "seen_packets", "flow_packets"), packets)
        same |= {name.replace("packets", "bytes"): packets * BYTES for name in same}
        books = {"time": start_ns, "end": end_ns, "hook": HOOKS["tcx"], "flow_seq": number + 1}
        self.batches.append(self._batch("ledger", number, **{**same, **books, **ledger}))
        self.batches.append(self._delivery(number, end_ns))

    def _delivery(self, number: int, end_ns: int) -> Batch:
        kinds = ("flow", "ledger", "delivery")
        return self._batch(
            "delivery",
            number,
            rows=3,
            time=end_ns,
            of_run=Names(np.zeros(3, "|u1"), (self.run,)),
            of_kind=Names(np.arange(3, dtype="|u1"), kinds),
            made=number + 1,
            made_rows=np.array([number + 1, number + 1, 0], "<u8"),
            acknowledged=number,
        )

    def _batch(self, kind: str, seq: int, rows: int = 1, **given: object) -> Batch:
        batch = a_batch(kind, rows, node=self.node, run=self.run, seq=seq)
        for one in batch.record.fields:
            value = given.get(one.name, 0)
            if one.kind is NAME:
                names = Names(np.zeros(rows, "|u1"), ("eth0" if one.name == "interface" else "",))
                batch.columns[one.name] = value if isinstance(value, Names) else names
            elif one.name == "direction":
                batch.columns[one.name] = np.full(rows, DIRECTIONS["ingress"], "|u1")
            elif one.kind.numpy.startswith("|V"):
                batch.columns[one.name] = np.zeros(rows, one.kind.numpy)
            else:
                batch.columns[one.name] = np.broadcast_to(value, rows).astype(one.kind.numpy)
        return batch

    def of(self, *kinds: str) -> list[Batch]:
        return [batch for batch in self.batches if batch.kind in kinds]


def store(data: Path, *batches: Batch) -> None:
    with Engine(data / "clickhouse") as engine:
        engine.migrate()
        for batch in batches:
            engine.store(batch)


@pytest.fixture
def kafka(kafka: str) -> str:
    """One that has deleted what it had, but for a record of an hour ago.

    So it has all of the last half hour, and not all of what there ever was.
    """

    async def begin_an_hour_ago() -> None:
        at_ms = time.time_ns() // 10**6 - 3_600_000
        topics = [record.topic for record in RECORDS]
        async with producer(kafka) as one:
            for topic in topics:
                await one.send_and_wait(topic, b"deleted", b"older")
            await delete_everything(kafka, *topics)
            for record in RECORDS:
                older = wire.encode(a_batch(record.kind, node="older"))
                await one.send_and_wait(record.topic, older, b"older", timestamp_ms=at_ms)

    asyncio.run(begin_an_hour_ago())
    return kafka


def audit(data: Path, *flags: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "hookline", "audit", "--data", str(data), *flags],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def night() -> Night:
    made = Night()
    for number, packets in enumerate((10, 20, 30, 0)):
        made.interval(number, packets)
    return made


def test_books_that_balance_are_shown_side_by_side(kafka, tmp_path, night):
    store(tmp_path, *night.batches)
    asyncio.run(publish(kafka, *night.batches, night.batches[0]))
    code, shown, said = audit(tmp_path, "--kafka", kafka, "--node", night.node, "--since", "30m")

    assert (code, said) == (0, "")
    lines = shown.splitlines()
    assert lines[3].split() == ["eth0", "ingress", *["60"] * 5, "0", "0"]
    assert lines[6].split() == ["eth0", "ingress", *["6,000"] * 5, "0", "0"]
    assert lines[10].split() == ["flow", "1", "4", "4", "4", "0", "0", "0"]
    assert lines[-1] == "the books balance; complete to 100 %"


def test_what_kafka_has_deleted_of_the_period_is_left_open(kafka, tmp_path, night):
    store(tmp_path, *night.batches)
    asyncio.run(publish(kafka, *night.batches))
    code, shown, _ = audit(tmp_path, "--kafka", kafka, "--node", night.node, "--since", "all")

    assert code == 0
    assert shown.splitlines()[3].split() == ["eth0", "ingress", *["60"] * 3, "-", "60", "0", "0"]


def test_a_batch_that_is_not_stored_is_told(kafka, tmp_path, night):
    store(tmp_path, *(one for one in night.batches if (one.kind, one.seq) != ("flow", 1)))
    asyncio.run(publish(kafka, *night.batches))
    code, shown, _ = audit(tmp_path, "--kafka", kafka, "--node", night.node)

    assert code == 1
    assert (
        f"{night.node} eth0 ingress: between rows and clickhouse 20 packets and 2,000 bytes are not"
        " accounted for" in shown
    )
    assert f"{night.node} run r-1 flow: 1 batches and 1 rows are missing" in shown
    assert shown.endswith("the books do not balance; complete to 66.67 %\n")


def test_a_period_takes_its_own_intervals_by_the_numbers_of_batches(tmp_path, night):
    # A flow that began before the period, and was told in it.
    late = night.of("flow")[2]
    late.columns["time"] = late.columns["time"] - 100 * SECOND_NS
    store(tmp_path, *night.batches)
    since = int(time.time() - night.began_ns / SECOND_NS) - 130
    code, shown, _ = audit(tmp_path, "--since", f"{since}s", "--format", "json")

    assert code == 0
    place, *batches = (json.loads(line) for line in shown.splitlines())
    assert place["clickhouse"] == place["rows"] == {"packets": 30, "bytes": 3000}
    assert place["before"] == {"packets": 20, "bytes": 2000}
    assert place["kafka"] is None
    flows = next(one for one in batches if one["kind"] == "flow")
    assert (flows["span"], flows["stored"]) == ([2, 4], 2)


def test_rows_that_were_given_up_are_named_and_balance(tmp_path, night):
    night.interval(4, 0, lost_packets=20, lost_bytes=2000)
    store(tmp_path, *(one for one in night.batches if (one.kind, one.seq) != ("flow", 1)))
    code, shown, _ = audit(tmp_path, "--since", "all")

    # The packets are accounted for; that their batch is missing was not told in `deliveries`.
    assert code == 1
    assert "20 packets are lost: rows that agents gave up since spools were full" in shown
    assert "not accounted for" not in shown


def test_a_query_says_how_complete_its_answer_can_be(tmp_path, night):
    store(tmp_path, *(one for one in night.batches if (one.kind, one.seq) != ("flow", 1)))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "hookline", "query", "--data", str(tmp_path)),
            *("--completeness", "1h", "--format", "csv", "SELECT sum(packets) AS n FROM flows"),
        ],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )

    assert done.stdout == '"n"\n40\n'
    assert done.stderr == (
        "complete to 66.67 % of 60 packets that 1 hooks of 1 nodes saw; hookline audit tells more\n"
    )


def test_a_history_without_a_ledger_is_told(tmp_path):
    store(tmp_path)

    assert audit(tmp_path) == (
        1,
        "",
        "hookline audit: there is no ledger of that period: no agent has reported\n",
    )
