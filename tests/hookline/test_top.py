# SPDX-License-Identifier: Apache-2.0
"""`hookline top` says of rollups what it would say of the rows, and which of them it asked."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from hookline.cli import main
from hookline.history import History, open_history
from hookline.sums import Wanted, summed
from hookline.top import BY, asked_of
from schemas.filter.grammar import parse
from schemas.rollup import ROLLUPS
from tests.services.served_history import ServedHistory, served_history

pytestmark = pytest.mark.services

DAYS = 86_400
# Two thousand rows of four days, of both directions, with and without ports.
ROWS = """
sql INSERT INTO hookline.flows (time, end, node, interface, direction, src_addr, dst_addr,
 src_port, dst_port, protocol, ethertype, packets, bytes, command, unit)
 SELECT now64(9) - toIntervalSecond(number * 171) AS t, t, concat('node-', toString(number % 3)),
  ['eth0', 'veth1'][number % 2 + 1], ['ingress', 'egress'][cityHash64(number) % 2 + 1],
  toIPv6(toIPv4(toUInt32(167772160 + number % 17))), toIPv6(toIPv4(toUInt32(167772160 + number % 13))),
  if(number % 5 = 0, 0, if(number % 2, 443, 40000 + number)), if(number % 5 = 0, 0, if(number % 2, 50000 + number, 53)),
  if(number % 5 = 0, 1, 6), 2048, number % 7 + 1, cityHash64(number, 1) % 10000,
  ['nginx', 'redis', ''][number % 3 + 1], ['a.service', ''][number % 2 + 1]
 FROM numbers(2000)
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedHistory]:
    with served_history(tmp_path_factory.mktemp("served")) as served:
        assert served.tell(ROWS.strip().replace("\n", " ")) == "done"
        yield served


@pytest.fixture
def history(served: ServedHistory) -> Iterator[History]:
    with open_history(data=served.directory, url=None) as opened:
        yield opened


def answers(history: History, by: str, text: str, since_s: int) -> tuple[object, object, str]:
    """What the rows say, what is said of its own choice, and what was chosen."""
    wanted = Wanted(BY[by], parse(text), since_s)
    chosen, rows = summed(history, wanted), summed(history, wanted, only_rows=True)
    # Time goes on while both are asked.
    rows.values["since"] = chosen.values["since"]
    found = [asked_of(source, by, 10_000) for source in (rows, chosen)]
    said = [history.rows(asked.sql, asked.parameters).rows for asked in found]
    return *said, chosen.origin


@pytest.mark.parametrize(
    ("by", "since_s"), [*((one, 3 * DAYS) for one in BY), ("port", 3 * 3600), ("edge", 0)]
)
def test_rollups_and_rows_give_the_same_sums(history, by, since_s):
    rows, found, origin = answers(history, by, "egress", since_s)

    assert rows
    assert found == rows
    assert origin != "flows"


@pytest.mark.parametrize(
    ("by", "text", "origin"),
    [
        ("source", "", "addresses_1d"),
        ("destination", "ingress", "addresses_1d"),
        ("source", "host 10.0.0.3 and tcp", "edges_1d"),
        ("edge", "src net 10.0.0.0/29 and not process nginx", "edges_1d"),
        ("interface", "node node-1 and ip", "flows_1m"),
        ("node", "interface veth* and egress", "flows_1m"),
        ("source", "port 443", "flows"),
        ("process", "flag syn or interface eth0", "flows"),
    ],
)
def test_a_filter_is_answered_by_what_has_its_columns(history, by, text, origin):
    rows, found, chosen = answers(history, by, text, 3 * DAYS)

    assert found == rows
    assert chosen == origin


def test_a_few_hours_are_asked_of_minutes_and_many_days_of_days(history):
    assert answers(history, "port", "", 3600)[2] == "flows_1m"
    assert answers(history, "port", "", 3 * DAYS)[2] == "edges_1d"


def test_what_is_older_than_a_rollup_is_summed_up_from_the_rows(served, history):
    yesterday = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(
        days=1
    )
    for rollup in ROLLUPS:
        comment = f"Whole from {yesterday:%Y-%m-%d %H:%M:%S} UTC on."
        served.tell(f"sql ALTER TABLE hookline.{rollup.table} MODIFY COMMENT '{comment}'")
        served.tell(
            f"sql ALTER TABLE hookline.{rollup.table} DELETE"
            f" WHERE {rollup.time.field.name} < toDateTime({yesterday.timestamp():.0f})"
            " SETTINGS mutations_sync = 2"
        )

    for by in ("source", "service", "interface"):
        rows, found, origin = answers(history, by, "", 0)
        assert found == rows
        assert origin != "flows"


def test_a_history_without_rollups_is_asked_for_its_rows(tmp_path):
    with served_history(tmp_path) as served:
        for rollup in ROLLUPS:
            served.tell(f"sql DROP TABLE hookline.{rollup.view}")
            served.tell(f"sql DROP TABLE hookline.{rollup.table}")
        with open_history(data=served.directory, url=None) as history:
            assert answers(history, "source", "", 0) == ([], [], "flows")


def test_the_table_is_for_people_and_says_what_it_was_made_of(served, capsys):
    code = main(["top", "--by", "service", "--since", "all", "--data", str(served.directory)])

    shown = capsys.readouterr()
    assert code == 0
    assert shown.out.split()[:6] == [
        "address",
        "protocol",
        "service_port",
        "flows",
        "packets",
        "bytes",
    ]
    assert "10.0.0." in shown.out
    assert shown.err.startswith("summed up from edges_1d")


def test_a_filter_that_makes_no_sense_is_told_in_one_line(
    served, capsys: pytest.CaptureFixture[str]
):
    assert main(["top", "--data", str(served.directory), "hosts"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
