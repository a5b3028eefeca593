# SPDX-License-Identifier: Apache-2.0
"""The spool keeps what it was given, in order, through kills, damage and a full disk."""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agent.segments import Name
from agent.spool import Spool
from tests.lab.agents import ROOT

PLENTY = 1 << 30


def a_batch(seq: int, *, kind: str = "flow", payload: bytes = b"x" * 100) -> tuple[Name, bytes]:
    return Name("web-1", "run-1", kind, seq, 10), payload + seq.to_bytes(4, "big")


def seqs(spool: Spool, most: int = 1000) -> list[int]:
    return [entry.name.seq for entry in spool.peek(most)]


def files(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.batches"))


@pytest.fixture
def spool(tmp_path) -> Spool:
    return Spool(tmp_path, PLENTY)


def test_batches_come_out_as_they_went_in(spool):
    spool.append([a_batch(0), a_batch(1)])
    spool.append([a_batch(0, kind="ledger")])

    assert [(entry.name, entry.payload) for entry in spool.peek(10)] == [
        a_batch(0),
        a_batch(1),
        a_batch(0, kind="ledger"),
    ]
    assert spool.waiting["run-1", "flow"].batches == 2
    assert spool.waiting["run-1", "flow"].rows == 20


def test_what_is_acknowledged_does_not_come_again_and_the_rest_does(tmp_path, spool):
    spool.append([a_batch(seq) for seq in range(5)])
    spool.peek(3)
    spool.acknowledge(2)

    assert seqs(spool) == [2, 3, 4]
    assert seqs(Spool(tmp_path, PLENTY)) == [2, 3, 4]
    spool.acknowledge(3)
    assert spool.waiting_bytes == 0
    assert not spool.waiting


def test_what_is_not_valid_yet_is_not_read(spool):
    spool.append([a_batch(0), a_batch(1)])
    valid = spool.next_number
    spool.append([a_batch(2)])

    assert [entry.name.seq for entry in spool.peek(10, valid)] == [0, 1]
    spool.acknowledge(2)
    assert not spool.peek(10, valid)
    assert seqs(spool) == [2]


def test_segments_that_are_acknowledged_are_deleted(tmp_path):
    spool = Spool(tmp_path, 64 * 1000)
    for seq in range(50):
        spool.append([a_batch(seq)])
    assert len(files(tmp_path)) > 3

    spool.peek(50)
    spool.acknowledge(50)
    spool.append([a_batch(50)])

    assert len(files(tmp_path)) == 1
    assert seqs(spool) == [50]


def test_beyond_the_bound_the_oldest_goes_first_but_not_what_is_on_its_way(tmp_path):
    spool = Spool(tmp_path, 10_000)
    for seq in range(200):
        spool.append([a_batch(seq)])
    on_their_way = seqs(spool, 2)

    lost = []
    for segment in spool.excess():
        lost += [entry.name.seq for entry in spool.entries(segment)]
        spool.give_up(segment)

    assert spool.size_bytes <= 10_000
    assert lost == list(range(lost[0], lost[-1] + 1))
    assert seqs(spool) == on_their_way + list(range(lost[-1] + 1, 200))
    assert spool.waiting["run-1", "flow"].batches == 200 - len(lost)
    spool.acknowledge(200 - len(lost))
    assert spool.waiting_bytes == 0


def test_batches_are_compressed_once_many_wait(tmp_path, spool):
    payload = b"flow after flow " * 50_000
    for seq in range(20):
        spool.append([a_batch(seq, payload=payload)])

    assert spool.size_bytes < 10 * len(payload)
    assert [entry.payload for entry in spool.peek(20)] == [
        a_batch(seq, payload=payload)[1] for seq in range(20)
    ]


def test_what_was_cut_off_while_it_was_written_is_no_entry(tmp_path, spool):
    spool.append([a_batch(0), a_batch(1)])
    (path,) = files(tmp_path)
    whole = path.read_bytes()
    end_of_first = spool.peek(1)[0].end

    for size in range(end_of_first, len(whole)):
        path.write_bytes(whole[:size])
        opened = Spool(tmp_path, PLENTY)
        assert seqs(opened) == [0]
        assert opened.damage.torn_bytes == size - end_of_first
        assert opened.damage.bytes == 0
        opened.append([a_batch(7)])
        assert seqs(opened) == [0, 7]
        opened.close()


def test_damage_costs_the_rest_of_its_segment_and_is_told_by_run_and_kind(tmp_path):
    spool = Spool(tmp_path, 64 * 1000)
    for seq in range(40):
        spool.append([a_batch(seq)])
    _, damaged, *_ = files(tmp_path)
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)

    opened = Spool(tmp_path, 64 * 1000)

    found = seqs(opened)
    lost = opened.damage.lost["run-1", "flow"]
    assert lost > 0
    assert found == sorted(found)
    assert len(found) == 40 - lost
    assert found[-1] == 39
    assert opened.damage.bytes > 0


def test_damage_that_comes_later_is_told_too(tmp_path, spool):
    spool.append([a_batch(seq) for seq in range(10)])
    (path,) = files(tmp_path)
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"\0\0\0\0")

    found = seqs(spool)

    assert found == list(range(len(found)))
    assert spool.damage.lost["run-1", "flow"] == 10 - len(found) > 0
    spool.append([a_batch(10)])
    assert seqs(spool) == [*found, 10]
    spool.acknowledge(len(found) + 1)
    assert spool.waiting_bytes == 0


@pytest.mark.parametrize("number", range(11))
def test_entries_that_never_became_valid_are_cut_off(tmp_path, number):
    spool = Spool(tmp_path, 64 * 500)
    for seq in range(10):
        spool.append([a_batch(seq)])

    spool.close()
    spool = Spool(tmp_path, 64 * 500)
    spool.forget_from(number)
    assert spool.found["run-1", "flow"] == number - 1 if number < 10 else 9
    spool.append([a_batch(99)])

    assert seqs(spool) == [*range(number), 99]
    assert spool.next_number == number + 1
    assert spool.waiting["run-1", "flow"].batches == number + 1


def test_a_disk_without_room_leaves_the_log_as_it_was(tmp_path):
    program = f"""
import resource, signal, sys
from pathlib import Path
from agent.spool import Spool
from tests.agent.test_spool import a_batch
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
spool = Spool(Path({str(tmp_path)!r}), {PLENTY})
spool.append([a_batch(0)])
try:
    spool.append([a_batch(1), a_batch(2, payload=b"y" * 2000)])
except OSError as error:
    print(error.errno)
spool.append([a_batch(3)])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True
    )

    assert done.stdout.strip() == "27"  # EFBIG, as a full disk would say ENOSPC
    assert seqs(Spool(tmp_path, PLENTY)) == [0, 3]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_a_writer_that_is_killed_loses_nothing_that_append_returned(tmp_path):
    program = f"""
from itertools import count
from pathlib import Path
from agent.spool import Spool
from tests.agent.test_spool import a_batch
spool = Spool(Path({str(tmp_path)!r}), {64 * 5000})
for seq in count():
    spool.append([a_batch(seq, payload=bytes(seq % 3000))])
    print(seq, flush=True)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as writer:
        written = [int(writer.stdout.readline()) for _ in range(300)]
        os.kill(writer.pid, signal.SIGKILL)
        written += [int(line) for line in writer.stdout.read().split("\n")[:-1]]

    found = seqs(Spool(tmp_path, 64 * 5000), 1 << 20)

    assert found[: len(written)] == written
    # It may have come to one more before it could say so.
    assert len(found) - len(written) <= 1


def test_what_was_appended_is_brought_onto_the_disk_once(spool):
    spool.append([a_batch(0)])
    sync = spool.syncing()
    assert sync is not None
    spool.peek(1)
    spool.acknowledge(1)
    sync()

    assert spool.syncing() is None


class Model(RuleBasedStateMachine):
    """A spool beside a list, through restarts, give-ups and acknowledgements in any order."""

    @initialize(most=st.integers(2_000, 20_000))
    def begin(self, most: int) -> None:
        self.directory = Path(os.environ["SPOOL_MODEL"]) / str(id(self))
        self.most = most
        self.spool = Spool(self.directory, most)
        self.expected: list[int] = []
        self.next = 0

    @rule(sizes=st.lists(st.integers(0, 900), min_size=1, max_size=5))
    def append(self, sizes: list[int]) -> None:
        batches = [a_batch(self.next + at, payload=bytes(size)) for at, size in enumerate(sizes)]
        self.spool.append(batches)
        self.expected += range(self.next, self.next + len(sizes))
        self.next += len(sizes)

    @rule(most=st.integers(1, 8), acknowledged=st.integers(0, 8))
    def publish(self, most: int, acknowledged: int) -> None:
        entries = self.spool.peek(most)
        assert [entry.name.seq for entry in entries] == self.expected[: len(entries)]
        count = min(acknowledged, len(entries))
        self.spool.acknowledge(count)
        del self.expected[:count]

    @rule()
    def give_up(self) -> None:
        for segment in self.spool.excess():
            lost = {entry.name.seq for entry in self.spool.entries(segment)}
            self.spool.give_up(segment)
            assert lost <= set(self.expected)
            self.expected = [seq for seq in self.expected if seq not in lost]

    @rule()
    def restart(self) -> None:
        self.spool.close()
        self.spool = Spool(self.directory, self.most)

    @precondition(lambda self: self.expected)
    @rule(back=st.integers(1, 6))
    def restart_without_the_last(self, back: int) -> None:
        back = min(back, len(self.expected))
        self.restart()
        # Numbers of entries follow one another whatever is given up.
        self.spool.forget_from(self.spool.next_number - back)
        del self.expected[len(self.expected) - back :]

    @invariant()
    def counts_are_right(self) -> None:
        waiting = self.spool.waiting.get(("run-1", "flow"))
        assert (waiting.batches if waiting else 0) == len(self.expected)
        assert (self.spool.waiting_bytes == 0) == (not self.expected)

    def teardown(self) -> None:
        if hasattr(self, "spool"):
            assert [one.name.seq for one in self.spool.peek(10_000)] == self.expected
            self.spool.close()


def test_any_order_of_events_agrees_with_a_list(tmp_path, monkeypatch):
    monkeypatch.setenv("SPOOL_MODEL", str(tmp_path))
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(Model, settings=settings(max_examples=60, deadline=None))


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_no_content_of_the_files_confuses_it(tmp_path_factory, data):
    directory = tmp_path_factory.mktemp("spool")
    spool = Spool(directory, 64 * 800)
    for seq in range(12):
        spool.append([a_batch(seq)])
    spool.close()
    path = data.draw(st.sampled_from(files(directory)))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        match data.draw(st.sampled_from(["flip", "cut", "insert"])):
            case "flip":
                content[at] ^= data.draw(st.integers(1, 255))
            case "cut":
                del content[at : at + data.draw(st.integers(1, 40))]
            case _:
                content[at:at] = data.draw(st.binary(min_size=1, max_size=60))
    path.write_bytes(content)

    opened = Spool(directory, 64 * 800)
    found = [(entry.name, entry.payload) for entry in opened.peek(100)]

    assert found == [a_batch(name.seq) for name, _ in found]
    assert [name.seq for name, _ in found] == sorted(name.seq for name, _ in found)
    opened.append([a_batch(50)])
    assert opened.peek(100)[-1].name.seq == 50
    opened.close()
