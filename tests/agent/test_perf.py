# SPDX-License-Identifier: Apache-2.0
"""The perf buffer's reader, on memory laid out as the kernel lays it out."""

import mmap

import numpy as np
import pytest

from agent.perf import _CpuRing

ROW = np.dtype([("number", "<u8"), ("twice", "<u8")])
SAMPLE, LOST = 9, 2
STRIDE = 8 + 24  # a header; 4 bytes of size and 16 of data, made a multiple of 8
SIZE = mmap.PAGESIZE


class Memory:
    """A control page and the data, and the kernel's part in writing them."""

    def __init__(self, path) -> None:
        path.write_bytes(bytes(mmap.PAGESIZE + SIZE))
        self.content = np.memmap(path, np.uint8, "r+")
        self.head = 0

    def put(self, *numbers: int, misc: int = 0) -> None:
        for number in numbers:
            raw = (20).to_bytes(4, "little") + np.array([(number, 2 * number)], ROW).tobytes()
            self._put(SAMPLE, raw + bytes(4), misc)

    def lose(self, count: int) -> None:
        """The kernel's own note that *count* samples found no room."""
        self._put(LOST, bytes(8) + count.to_bytes(8, "little"), 0)

    @property
    def tail(self) -> int:
        return int(self.content[1032:1040].view(np.uint64)[0])

    def _put(self, kind: int, body: bytes, misc: int) -> None:
        size = 8 + len(body)
        record = kind.to_bytes(4, "little") + misc.to_bytes(2, "little")
        for offset, byte in enumerate(record + size.to_bytes(2, "little") + body):
            self.content[mmap.PAGESIZE + (self.head + offset) % SIZE] = byte
        self.head += size
        self.content[1024:1032].view(np.uint64)[0] = self.head


@pytest.fixture
def memory(tmp_path):
    return Memory(tmp_path / "perf")


@pytest.fixture
def ring(memory, tmp_path, monkeypatch):
    with (tmp_path / "perf").open("r+b") as file:
        monkeypatch.setattr("agent.perf._open_event", lambda _cpu: file.fileno())
        monkeypatch.setattr("agent.libbpf.update_element", lambda *_arguments: None)
        yield _CpuRing(-1, 0, SIZE, ROW)


def test_samples_come_out_in_order_and_once(memory, ring):
    memory.put(1, 2, 3)

    assert ring.drain(100)["number"].tolist() == [1, 2, 3]
    assert len(ring.drain(100)) == 0
    assert memory.tail == 3 * STRIDE


def test_the_kernels_notes_of_loss_are_passed_over(memory, ring):
    memory.lose(7)
    memory.put(1, 2)
    memory.lose(8)
    memory.put(3)

    assert ring.drain(100)["number"].tolist() == [1, 2, 3]
    assert memory.tail == memory.head


def test_flags_of_a_record_are_of_no_interest(memory, ring):
    memory.put(1, misc=0x4002)

    assert ring.drain(100)["number"].tolist() == [1]


def test_samples_that_wrap_are_whole(memory, ring):
    numbers = iter(range(10_000))
    found = []
    for turn in range(40):
        memory.lose(turn)  # moves the samples, so that one of them is split
        memory.put(*(next(numbers) for _ in range(100)))
        rows = ring.drain(1000)
        assert (rows["twice"] == 2 * rows["number"]).all()
        found += rows["number"].tolist()

    assert found == list(range(4000))


def test_a_limit_that_cuts_a_record_leaves_it_for_later(memory, ring):
    memory.lose(1)  # 24 bytes, so that the limit falls into the second sample
    memory.put(1, 2)

    assert ring.drain(2)["number"].tolist() == [1]
    assert ring.drain(2)["number"].tolist() == [2]
