# SPDX-License-Identifier: Apache-2.0
"""What the founding claim is measured with measures right."""

import json
import shutil
import socket
import subprocess
import threading
import time

import numpy as np
import pytest

from agent.config import Config
from bench import claim, load
from bench import claim_tables as tables
from bench.claim_tables import CLOSE, STAY, Found
from bench.load import Answers
from bench.observers import BARE, OBSERVERS, PROXY, Observer

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nyes!"
HTTP_404 = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
WRK = """\
Running 1s test @ http://198.18.0.2:80/
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.03ms    1.41ms  19.63ms   92.61%
    Req/Sec    59.05k     4.31k   63.88k    80.00%
  Latency Distribution
     50%  812.00us
     75%    1.02ms
     90%    1.77ms
     99%    6.86ms
  58872 requests in 1.01s, 20.10MB read
Requests/sec:  58210.33
Transfer/sec:     19.87MB
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    if shutil.which("clang") is None:
        pytest.skip("clang is missing; install it")
    return load.compiled(tmp_path_factory.mktemp("load"))


def run(program, *words, **options):
    done = subprocess.run(
        [program, *map(str, words)], capture_output=True, text=True, check=True, **options
    )
    return json.loads(done.stdout)


def test_percentiles_are_those_of_the_values_to_a_128th(program):
    values = np.random.default_rng(1).lognormal(13, 2, 100_000).astype(np.int64)

    found = run(program, "percentiles", input="\n".join(map(str, values)))

    values.sort()
    for name, not_above in (("p50_ns", 50_000), ("p99_ns", 99_000), ("p999_ns", 99_900)):
        exact = values[not_above - 1]
        assert exact <= found[name] <= exact * (1 + 1 / 128)
    assert found["counted"] == len(values)
    assert found["longest_ns"] == values.max()


@pytest.mark.parametrize("value", [0, 1, 127, 128, 129, 255, 256, 1 << 40])
def test_a_single_value_is_every_percentile(program, value):
    found = run(program, "percentiles", input=str(value))

    assert found["p50_ns"] == found["p999_ns"] == value


class Server:
    """Answers each request after what *delays* say, and the last of them ever after."""

    def __init__(self, *delays, answer=ANSWER, closes=False):
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self._delays = list(delays)
        self._answer, self._closes = answer, closes
        self.port = self._listener.getsockname()[1]

    def __enter__(self):
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._listener.close()

    def _serve(self):
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            with peer:
                while peer.recv(1000):
                    time.sleep(self._delays.pop(0) if len(self._delays) > 1 else self._delays[0])
                    peer.sendall(self._answer)
                    if self._closes:
                        break


def test_what_had_to_wait_for_a_slow_answer_counts_from_when_it_was_due(program):
    with Server(0.5, 0) as server:
        found = run(program, "127.0.0.1", server.port, 100, 1, 0, 1, "keep")

    # A hundred were due in that second, half of them while the first one was not answered.
    assert found["counted"] == 100
    assert found["answered"] >= 95
    assert found["longest_ns"] >= 0.5e9
    assert found["p99_ns"] > 0.4e9
    assert found["p50_ns"] < 0.3e9


def test_what_was_never_answered_is_not_left_out(program):
    with Server(60) as server:
        found = run(program, "127.0.0.1", server.port, 100, 2, 0, 0.5, "keep")

    assert found["answered"] == 0
    assert found["counted"] == 50
    assert 0.2e9 < found["p50_ns"] < 0.3e9


def test_a_connection_for_each_request_is_made_and_ends(program):
    with Server(0, closes=True) as server:
        found = run(program, "127.0.0.1", server.port, 200, 16, 0, 0.5, "close")

    assert found["counted"] == 100
    assert found["answered"] >= 99
    assert found["failed"] == 0


def test_an_answer_that_is_a_refusal_ends_the_measurement(program):
    with Server(0, answer=HTTP_404) as server:
        found = run(program, "127.0.0.1", server.port, 100, 1, 0, 0.2, "keep")

    assert found["failed"] == found["answered"]
    with pytest.raises(AssertionError, match="refused"):
        load.from_load(json.dumps(found))


def test_what_wrk_prints_is_read_with_its_units():
    found = load.from_wrk(WRK, 0.7)

    assert found == Answers(58872, 58210.33, 0.812, 6.86, 6.86, 0.7)


def test_answers_that_wrk_calls_errors_are_not_taken_for_answers():
    with pytest.raises(AssertionError, match="Non-2xx"):
        load.from_wrk(WRK + "  Non-2xx or 3xx responses: 12\n")


def runs_of(name, kind, *cpu_ms):
    answers = Answers(10_000, 1000.0, 0.1, 0.5, 1.0, 0.0)
    return {(name, kind): [Found(answers, ms / 1000, 0.0) for ms in cpu_ms]}


def test_the_cpus_that_the_claim_needs_follow_from_what_an_answer_took():
    runs = runs_of(BARE, STAY, 200, 200) | runs_of(BARE, CLOSE, 1500, 1700)

    rows = tables.cpus(runs)["rows"]

    assert [row[0] for row in rows] == [BARE]
    assert rows[0][1]["median"] == 2.0
    assert rows[0][2]["median"] == 16.0


def test_a_peer_that_is_missing_is_said_to_be():
    missing = Observer(OBSERVERS[PROXY].begin, ("no-such-proxy",), "no-such-package")
    runs = {}
    for name in OBSERVERS:
        if name != PROXY:
            runs |= runs_of(name, STAY, 300, 320)

    rows = {row[0]: row[1:] for row in tables.at_rate(runs, {PROXY: missing.why_not()})["rows"]}

    assert rows[PROXY][0] == "not installed: apt-get install no-such-package"
    assert rows[BARE][-1]["median"] == 0
    assert list(rows) == list(OBSERVERS)


def test_the_ends_of_an_agents_intervals_are_in_each_turn():
    assert claim.TURN_S % Config(node="bench").interval == 0


def test_a_file_that_is_no_envoy_is_refused_in_one_line(tmp_path):
    with pytest.raises(SystemExit, match=r"^bench: --envoy .*/proxy: there is no program"):
        claim.put_in_path(tmp_path / "proxy")


def test_without_a_web_server_nothing_is_measured_and_the_remedy_is_named(monkeypatch):
    monkeypatch.setenv("PATH", "")

    (table,) = claim.measure(claim.Scale(rounds=1, few_rounds=1, seconds=0.1))

    assert table["rows"][0][1] == "not installed: apt-get install nginx-light clang"


def test_tables_are_made_of_what_could_be_measured():
    skipped = {name: "not installed" for name, one in OBSERVERS.items() if one.programs}
    here = [name for name in OBSERVERS if name not in skipped]
    at_10k, ladder = {}, {}
    for name in here:
        at_10k |= runs_of(name, STAY, 300, 320)
        for kind in (CLOSE, *(f"{rate:,}" for rate in tables.LADDER)):
            ladder |= runs_of(name, kind, 300, 320)
    times = {(name, kind): [10.0, 12.0] for name in tables.CLOCKED for kind in (STAY, CLOSE)}

    made = tables.all_of(at_10k, ladder, {}, times, {**skipped, "wrk": "not installed"})

    assert {BARE, PROXY} <= {row[0] for row in made[0]["rows"]}
    assert all(len(row) == len(one["columns"]) for one in made for row in one["rows"])
    assert made[-1]["rows"] == [["a program is missing", "not installed"]]
