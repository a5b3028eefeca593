# SPDX-License-Identifier: Apache-2.0
"""`hookline query` and `hookline flows` find the history and print what it holds."""

import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.ipc
import pytest

from hookline.cli import parser_for
from hookline.history import PlaceError, open_history
from tests.hookline.commands import Commands
from tests.services.served_history import ROOT, ServedHistory, served_history

Run = Callable[..., subprocess.CompletedProcess[str]]
# One moment for all, whatever the engine takes.
NOW = f"toDateTime64({time.time():.0f}, 9)"
# An hour to either side of what the tests ask for, since a machine may be slow.
FIXED_ROWS = rf"""
sql INSERT INTO hookline.flows (time, end, node, interface, direction, src_addr, dst_addr,
 src_port, dst_port, protocol, ethertype, packets, bytes, tcp_flags, pid, command, cgroup, unit,
 container) VALUES
 ({NOW} + 3580, {NOW} + 3590, 'alpha', 'eth0', 'ingress', '::ffff:10.0.0.1', '::ffff:10.9.0.2',
  51000, 443, 6, 2048, 1000, 1234567, 2, 77, 'nginx', '/w/nginx.service', 'nginx.service', ''),
 ({NOW} + 3590, {NOW} + 3600, 'alpha', 'eth0', 'ingress', '::ffff:10.0.0.1', '::ffff:10.9.0.2',
  51000, 443, 6, 2048, 1, 1, 16, 77, 'nginx', '/w/nginx.service', 'nginx.service', ''),
 ({NOW} + 3591, {NOW} + 3591, 'alpha', 'eth0', 'egress', '2001:db8::1', '2001:db8::2',
  40000, 53, 17, 34525, 2, 200, 0, 0, '', '/docker', '', repeat('4f66ad9a', 8)),
 ({NOW} + 3592, {NOW} + 3593, 'alpha', 'veth_1', 'ingress', '::', '::', 0, 0, 0, 2054, 3, 180, 0,
  0, '', '', '', ''),
 ({NOW} - 3600, {NOW} - 3599, 'be\\ta', 'wlan0', 'egress', '::ffff:192.168.1.7',
  '::ffff:224.0.0.1', 0, 0, 2, 2048, 1, 60, 0, 0, '', '', '', '')
"""


def hookline(
    *words: str, columns: int = 100, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hookline", *words],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": str(columns), **environment},
        capture_output=True,
        text=True,
        errors="surrogateescape",
        check=False,
    )


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedHistory]:
    with served_history(tmp_path_factory.mktemp("served")) as served:
        assert served.tell(FIXED_ROWS.strip().replace("\n", " ")) == "done"
        yield served


@pytest.fixture(scope="module")
def left_behind(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a history that nobody holds any more; its `up.json` is still there."""
    with served_history(tmp_path_factory.mktemp("left")) as served:
        assert served.tell(FIXED_ROWS.strip().replace("\n", " ")) == "done"
    return served.directory


@pytest.fixture(scope="module")
def asked() -> Iterator[Run]:
    """Run hookline on whatever is named."""
    with Commands() as commands:
        yield commands.run


@pytest.fixture(scope="module", params=["served", "left_behind"])
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    """Run hookline on a history that is served, and on one that is not."""
    history = request.getfixturevalue(request.param)
    directory = history.directory if request.param == "served" else history
    with Commands() as commands:
        yield lambda *words, **rest: commands.run(*words, "--data", str(directory), **rest)


def test_a_table_shows_every_digit_and_addresses_as_they_were_on_the_wire(run: Run):
    sql = "SELECT 12345678901234567890 AS big, toDateTime64('2026-01-02 03:04:05.000000006', 9, 'UTC')"

    done = run("query", sql + " AS t, toIPv6('::ffff:10.0.0.1') AS a, 'x' AS s;")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split("\n")[1].split() == [
        "12345678901234567890", "2026-01-02", "03:04:05.000000006", "10.0.0.1", "x",
    ]  # fmt: skip


def test_hookline_is_the_default_database(run: Run):
    assert run("query", "SELECT count() FROM flows").stdout.split() == ["count()", "5"]


def test_what_would_steer_the_terminal_is_spelled_out(run: Run):
    done = run("query", "SELECT concat('a', char(27), '[31m') AS x, unhex('FF00') AS y")

    assert done.stdout.split("\n")[1].split() == ["a\\x1b[31m", "\\xff\\x00"]


def test_json_is_one_object_a_line_and_csv_has_a_header(run: Run):
    sql = "SELECT number AS n, 'a,b' AS s FROM numbers(2)"

    json_lines = run("query", sql, "--format", "json").stdout.splitlines()
    assert [json.loads(line) for line in json_lines] == [{"n": 0, "s": "a,b"}, {"n": 1, "s": "a,b"}]
    assert run("query", sql, "--format", "csv").stdout == '"n","s"\n0,"a,b"\n1,"a,b"\n'


def test_arrow_is_a_stream(run: Run):
    done = run("query", "SELECT bytes FROM flows", "--format", "arrow")
    table = pyarrow.ipc.open_stream(
        io.BytesIO(done.stdout.encode(errors="surrogateescape"))
    ).read_all()

    assert table.num_rows == 5


def test_a_statement_may_name_its_own_format(run: Run):
    assert run("query", "SELECT 1 AS a FORMAT Vertical").stdout.endswith("a: 1\n")


@pytest.mark.parametrize(
    ("sql", "line"),
    [
        ("SELEC 1", "Syntax error: failed at position 7"),
        ("SELECT * FROM nope", "Unknown table expression identifier 'nope'"),
        ("CREATE TABLE x (a UInt8) ENGINE = Memory", "READONLY"),
        ("SELECT throwIf(1, 'on purpose')", "on purpose"),
    ],
)
def test_an_error_is_one_clear_line(run: Run, sql: str, line: str):
    done = run("query", sql)

    assert done.returncode == 1
    assert done.stdout == ""
    assert re.fullmatch(r"hookline query: [^\n]+\n", done.stderr)
    assert line in done.stderr
    assert "FORMAT" not in done.stderr


def test_an_empty_statement_is_bad_usage(run: Run):
    done = run("query", " ; ")

    assert (done.returncode, done.stdout) == (2, "")
    assert "there is no statement" in done.stderr


def test_a_table_stops_at_what_anybody_reads(run: Run):
    done = run("query", "SELECT number FROM numbers(100000)")

    assert done.stdout.count("\n") == 10_001
    assert "only the first 10000 rows" in done.stderr


def test_flows_are_summed_by_five_tuple_interface_and_direction(run: Run):
    lines = run("flows").stdout.splitlines()

    assert len(lines) == 4
    assert lines[1].split() == [
        "10.0.0.1:51000", "10.9.0.2:443", "tcp", "1.00", "k", "1.23", "M", "494", "k",
        "20.0", "s", "SA", "eth0", "ingress", "nginx/77", "nginx.service",
    ]  # fmt: skip
    assert lines[0].split()[-2:] == ["process", "unit"]
    assert lines[2].split()[-2:] == ["-", "4f66ad9a4f66"]
    assert lines[2].split()[:3] == ["[2001:db8::1]:40000", "[2001:db8::2]:53", "udp"]
    assert lines[3].split()[:3] == ["-", "-", "arp"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--from", "10.0.0.0/8"], [1234568]),
        (["--to", "10.9.0.2"], [1234568]),
        (["--to", "2001:db8::/32"], [200]),
        (["--port", "443"], [1234568]),
        (["--port", "50-60"], [200]),
        (["--protocol", "udp"], [200]),
        (["--protocol", "6"], [1234568]),
        (["--interface", "eth*"], [1234568, 200]),
        (["--interface", "veth?1"], [180]),
        (["--interface", "veth_?"], [180]),
        (["--interface", "%"], []),
        (["--node", "alpha", "--limit", "1"], [1234568]),
        (["--node", "be\\ta", "--since", "2h"], [60]),
        (["--node", "' OR 1=1 --"], []),
        (["--process", "ngin*"], [1234568]),
        (["--process", "77"], [1234568]),
        (["--process", "nginx", "--port", "53"], []),
        (["--unit", "nginx.service"], [1234568]),
        (["--container", "4f66ad9a4f66"], [200]),
        (["--container", "4f66ad9a" * 8], [200]),
        (["not", "process", "nginx"], [200, 180]),
        (["unit nginx* or container 4f66"], [1234568, 200]),
        (["--since", "2h"], [1234568, 200, 180, 60]),
    ],
)
def test_flows_are_chosen_by_each_option(run: Run, words: list[str], expected: list[int]):
    done = run("flows", "--format", "json", *words)

    assert [json.loads(line)["bytes"] for line in done.stdout.splitlines()] == expected


def test_the_statement_that_is_printed_gives_the_same_flows(run: Run):
    words = [
        "flows",
        "--from",
        "10.0.0.0/8",
        "--port",
        "1-999",
        "--interface",
        "e*",
        "--since",
        "1h",
    ]
    sql = run(*words, "--sql").stdout

    assert run("query", sql, "--format", "json").stdout == run(*words, "--format", "json").stdout
    assert "{" not in sql


def test_addresses_stay_whole_on_a_narrow_terminal(served: ServedHistory):
    command = f"stty cols 80; {sys.executable} -m hookline flows --data {served.directory}"
    shown = subprocess.run(
        ["script", "-qec", command, "/dev/null"],
        cwd=ROOT,
        env={**os.environ, "TERM": "dumb"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    assert max(len(line) for line in shown.splitlines()) <= 80
    assert "10.0.0.1:51000" in shown
    assert "10.9.0.2:443" in shown


@pytest.mark.parametrize(
    ("option", "value", "fix"),
    [
        ("--since", "5", "write 30s, 5m, 2h or 7d"),
        ("--since", "0s", "write 30s, 5m, 2h or 7d"),
        ("--from", "10.0.0", "write 10.0.0.7, 10.0.0.0/8 or 2001:db8::/32"),
        ("--to", "10.0.0.0/33", "write 10.0.0.7, 10.0.0.0/8 or 2001:db8::/32"),
        ("--port", "65536", "write 443 or 8000-8100, up to 65535"),
        ("--port", "20-10", "write 443 or 8000-8100, up to 65535"),
        ("--protocol", "256", "or a number to 255"),
        ("--limit", "0", "write 1 to 999999"),
        ("--process", "4294967296", "write 0 to 4294967295"),
    ],
)
def test_a_bad_value_is_named_with_its_fix(asked: Run, option: str, value: str, fix: str):
    done = asked("flows", option, value)

    assert done.returncode == 2
    assert repr(value) in done.stderr.splitlines()[-1]
    assert done.stderr.endswith(fix + "\n")


def test_nothing_there_yet_is_said_and_stays_nothing(tmp_path: Path):
    done = hookline("query", "SELECT 1", "--data", str(tmp_path))

    assert done.returncode == 1
    assert f"there is no history in {tmp_path} yet" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_history_that_another_process_holds_is_said_to_be_held(tmp_path: Path):
    with served_history(tmp_path) as served:
        (served.directory / "up.json").unlink()

        done = hookline("query", "SELECT 1", "--data", str(tmp_path))

    assert done.returncode == 1
    assert re.fullmatch(r"hookline query: another process holds [^\n]+\n", done.stderr)


def test_a_server_is_asked_by_url_or_environment(asked: Run, served: ServedHistory, monkeypatch):
    url = served.url.replace("//", "//hookline@")
    assert asked("query", "SELECT 1 AS a", "--url", url).stdout.split() == ["a", "1"]

    monkeypatch.setenv("HOOKLINE_CLICKHOUSE", url)
    assert asked("query", "SELECT 2 AS a").stdout.split() == ["a", "2"]


@pytest.mark.parametrize(
    ("url", "code", "line"),
    [
        ("ftp://x", 2, "'ftp://x' is no URL of a server"),
        ("localhost", 2, "'localhost' is no URL of a server"),
        ("http://x:y", 2, "'http://x:y' is no URL"),
        ("http://127.0.0.1:1", 1, "cannot ask http://127.0.0.1:1: connection refused"),
    ],
)
def test_a_url_that_leads_nowhere_is_one_clear_line(asked: Run, url: str, code: int, line: str):
    done = asked("query", "SELECT 1", "--url", url)

    assert done.returncode == code
    assert re.fullmatch(r"hookline query: [^\n]+\n", done.stderr)
    assert line in done.stderr


def test_a_wrong_password_is_one_clear_line(asked: Run, served: ServedHistory):
    with_password = {"HOOKLINE_CLICKHOUSE": served.url.replace("//", "//root:secret@")}
    beside = {"HOOKLINE_CLICKHOUSE_PASSWORD": "secret"}

    for done in (
        asked("query", "SELECT 1", **with_password),
        asked("query", "SELECT 1", "--url", served.url.replace("//", "//root@"), **beside),
    ):
        assert done.returncode == 1
        assert "Authentication failed" in done.stderr
        assert "secret" not in done.stderr


def test_an_error_in_the_middle_of_a_result_is_told_apart_from_it(
    asked: Run, served: ServedHistory
):
    sql = "SELECT intDiv(1, 2000000 - number) AS x FROM numbers(3000000)"

    done = asked("query", sql, "--format", "json", "--data", str(served.directory))

    assert done.returncode == 1
    assert "Division by zero" in done.stderr
    assert "__exception__" not in done.stdout
    assert done.stdout.endswith('{"x":0}\n')


def test_version_help_and_usage(asked: Run):
    assert asked("--version").stdout.startswith("hookline ")
    assert "examples:" in asked("--help").stdout
    assert "examples:" in asked("flows", "--help").stdout
    assert asked().returncode == 2
    assert asked("nonsense").returncode == 2


def test_a_password_in_a_url_that_was_typed_is_refused_and_not_repeated(monkeypatch, capsys):
    url = "https://me:hunter2@db:8443"
    monkeypatch.delenv("HOOKLINE_CLICKHOUSE", raising=False)

    with pytest.raises(SystemExit) as refused:
        parser_for(["query"]).parse_args(["query", "--url", url, "SELECT 1"])

    said = capsys.readouterr().err
    assert refused.value.code == 2
    assert "hunter2" not in said
    assert "HOOKLINE_CLICKHOUSE_PASSWORD" in said
    monkeypatch.setenv("HOOKLINE_CLICKHOUSE", url)
    assert parser_for(["query"]).parse_args(["query", "SELECT 1"]).url == url


def test_a_url_that_is_none_is_told_without_its_password(tmp_path):
    for url in ("ftp://me:hunter2@db", "http://me:hunter2@db:port", "http://me:hunter2@[db"):
        with pytest.raises(PlaceError) as refused:
            open_history(data=tmp_path, url=url)
        assert "hunter2" not in str(refused.value)
