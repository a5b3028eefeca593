# SPDX-License-Identifier: Apache-2.0
"""The ring buffer's reader, on memory laid out as the kernel lays it out."""

import mmap
import random

import numpy as np
import pytest

from agent.ring import RingBuffer, RingError

BUSY, DISCARD = 1 << 31, 1 << 30
ROW = np.dtype([("number", "<u8"), ("twice", "<u8")])
STRIDE = 8 + ROW.itemsize
SIZE = mmap.PAGESIZE
PAGE = mmap.PAGESIZE


class Memory:
    """A file with a ring buffer in it, and the kernel's part in writing it.

    The kernel maps the data twice in a row.  A file cannot, so what is written is written twice.
    """

    def __init__(self, path) -> None:
        path.write_bytes(bytes(2 * PAGE + 2 * SIZE))
        self.content = np.memmap(path, np.uint8, "r+")
        self.produced = 0

    def reserve(self, size: int = ROW.itemsize) -> int:
        """Where a new record is, busy until it is committed."""
        at = self.produced
        self._header(at, size | BUSY)
        self.produced += 8 + size
        self.content[PAGE : PAGE + 8].view(np.uint64)[0] = self.produced
        return at

    def commit(self, at: int, number: int, *, size: int = ROW.itemsize) -> None:
        self._put(at + 8, np.array([(number, 2 * number)], ROW).tobytes())
        self._header(at, size)

    def discard(self, at: int) -> None:
        self._header(at, ROW.itemsize | DISCARD)

    def put(self, *numbers: int) -> None:
        for number in numbers:
            self.commit(self.reserve(), number)

    @property
    def consumed(self) -> int:
        return int(self.content[:8].view(np.uint64)[0])

    def _header(self, at: int, length: int) -> None:
        self._put(at, int(length).to_bytes(4, "little") + bytes(4))

    def _put(self, at: int, data: bytes) -> None:
        for offset, byte in enumerate(data):
            place = (at + offset) % SIZE
            self.content[2 * PAGE + place] = self.content[2 * PAGE + SIZE + place] = byte


@pytest.fixture
def memory(tmp_path, monkeypatch):
    memory = Memory(tmp_path / "ring")
    # A file is opened where the real one asks the kernel for a pinned map.
    monkeypatch.setattr("agent.libbpf.opened", lambda path: path.open("r+b"))
    monkeypatch.setattr("agent.ring.mmap.mmap", _mapping_of_file(mmap.mmap))
    return memory


def _mapping_of_file(real):
    return lambda file, *arguments, **named: real(file.fileno(), *arguments, **named)


@pytest.fixture
def ring(memory, tmp_path):
    return RingBuffer(tmp_path / "ring", SIZE, ROW)


def taken(ring: RingBuffer, limit: int = 1 << 20) -> np.ndarray:
    """What can be drained, released at once."""
    rows = ring.drain(limit)
    ring.release(ring.drained())
    return rows


def test_records_come_out_in_order_and_once(memory, ring):
    memory.put(1, 2, 3)

    assert ring.drain()["number"].tolist() == [1, 2, 3]
    assert len(ring.drain()) == 0


def test_their_space_is_given_back_once_it_is_released(memory, ring):
    memory.put(1, 2)
    ring.drain(limit=1)
    position = ring.drained()
    ring.drain()
    assert memory.consumed == 0

    ring.release(position)
    assert memory.consumed == STRIDE
    assert ring.held_share == STRIDE / SIZE
    ring.release(ring.drained())
    assert memory.consumed == 2 * STRIDE
    assert ring.held_share == 0.0


def test_stops_before_a_record_that_is_not_finished(memory, ring):
    memory.put(1)
    busy = memory.reserve()
    memory.put(3)
    first = ring.drain()
    memory.commit(busy, 2)

    assert first["number"].tolist() == [1]
    assert ring.drain()["number"].tolist() == [2, 3]


def test_a_busy_first_record_gives_nothing_and_moves_nothing(memory, ring):
    memory.reserve()
    memory.put(2)

    assert len(ring.drain()) == 0
    assert memory.consumed == 0


def test_discarded_records_are_passed_over(memory, ring):
    memory.put(1)
    memory.discard(memory.reserve())
    memory.put(3)

    assert taken(ring)["number"].tolist() == [1, 3]
    assert memory.consumed == 3 * STRIDE


def test_a_discarded_record_before_a_busy_one_is_passed_over_too(memory, ring):
    memory.discard(memory.reserve())
    memory.reserve()

    assert len(taken(ring)) == 0
    assert memory.consumed == STRIDE


def test_records_that_wrap_are_whole(memory, ring):
    room = SIZE // STRIDE
    numbers = iter(range(1000))
    found = []
    for _ in range(5):
        memory.put(*(next(numbers) for _ in range(room)))
        rows = taken(ring)
        assert (rows["twice"] == 2 * rows["number"]).all()
        found += rows["number"].tolist()

    assert found == list(range(5 * room))
    assert memory.produced > 4 * SIZE


@pytest.mark.parametrize("before", [SIZE // STRIDE - 2, SIZE // STRIDE, SIZE // STRIDE + 2])
def test_what_is_not_finished_or_not_kept_is_seen_wherever_a_record_lies(memory, ring, before):
    for _ in range(2):
        memory.put(*range(before - 3))
        taken(ring)
        memory.put(1)
        memory.discard(memory.reserve())
        busy = memory.reserve()
        memory.put(4)
        assert taken(ring)["number"].tolist() == [1]
        memory.commit(busy, 3)
        rows = taken(ring)
        assert rows["number"].tolist() == [3, 4]
        assert rows["twice"].tolist() == [6, 8]

    assert memory.produced > SIZE


@pytest.mark.parametrize("seed", range(4))
def test_each_kept_record_comes_once_and_in_order_whatever_happens_between_drains(
    memory, ring, seed
):
    chance = random.Random(seed)
    busy, kept, found = [], [], []
    for number in range(2_000):
        if memory.produced - memory.consumed <= SIZE - STRIDE:
            busy.append((memory.reserve(), number))
        # Several CPUs write, so what was begun first need not be finished first.
        while busy and chance.random() < 0.6:
            at, written = busy.pop(chance.randrange(len(busy)))
            if chance.random() < 0.02:
                memory.discard(at)
            else:
                memory.commit(at, written)
                kept.append(written)
        if chance.random() < 0.05:
            rows = taken(ring, limit=chance.choice((1, 7, 1000)))
            assert (rows["twice"] == 2 * rows["number"]).all()
            found += rows["number"].tolist()
    for at, _ in busy:
        memory.discard(at)
    found += taken(ring)["number"].tolist()

    assert found == sorted(kept)
    assert memory.consumed == memory.produced > 4 * SIZE


def test_nothing_that_was_released_is_taken_back(memory, ring):
    memory.put(1, 2)
    ring.drain(limit=1)
    early = ring.drained()
    taken(ring)

    ring.release(early)
    assert memory.consumed == 2 * STRIDE
    memory.put(3)
    assert ring.drain()["number"].tolist() == [3]


def test_a_limit_leaves_the_rest_for_later(memory, ring):
    memory.put(1, 2, 3)

    assert ring.drain(limit=2)["number"].tolist() == [1, 2]
    assert ring.drain(limit=2)["number"].tolist() == [3]


def test_rows_are_ours_to_change(memory, ring):
    memory.put(1, 2)
    rows = taken(ring)
    rows["number"] = 7

    assert rows.flags.c_contiguous
    assert rows.dtype == ROW
    assert rows.tolist() == [(7, 2), (7, 4)]


def test_rows_outlive_the_space_they_came_from(memory, ring):
    memory.put(1)
    rows = taken(ring)
    memory.put(*range(2, 2 + SIZE // STRIDE))

    assert rows["number"].tolist() == [1]


def test_tells_when_everything_up_to_a_position_was_drained(memory, ring):
    memory.put(1, 2)
    position = ring.position()
    assert not ring.has_passed(position)
    ring.drain(limit=1)
    assert not ring.has_passed(position)
    ring.drain()
    memory.put(3)

    assert ring.has_passed(position)


def test_a_second_reader_goes_on_where_the_first_released(memory, ring, tmp_path):
    memory.put(1, 2)
    taken(ring, limit=1)
    ring.drain()

    assert RingBuffer(tmp_path / "ring", SIZE, ROW).drain()["number"].tolist() == [2]


def test_a_second_reader_passes_over_what_is_told_although_it_was_not_released(
    memory, ring, tmp_path
):
    memory.put(1, 2)
    ring.drain(limit=1)
    told = ring.drained()

    second = RingBuffer(tmp_path / "ring", SIZE, ROW)
    second.release(told)
    assert second.drain()["number"].tolist() == [2]
    assert memory.consumed == STRIDE


def test_a_reader_passes_over_what_another_released_since_it_was_opened(memory, ring, tmp_path):
    second = RingBuffer(tmp_path / "ring", SIZE, ROW)
    memory.put(1, 2)
    taken(ring)

    second.release(ring.drained())
    memory.put(3)
    assert second.drain()["number"].tolist() == [3]


@pytest.mark.parametrize("before", [0, 1, SIZE // STRIDE])
@pytest.mark.parametrize("count", [1, 2, 3, 100])
def test_records_of_another_size_are_refused_by_their_size(memory, ring, before, count):
    memory.put(*range(before))
    taken(ring)
    for number in range(count):
        memory.commit(memory.reserve(size=24), number, size=24)

    with pytest.raises(RingError, match="^a record has 24 bytes, not 16; restart the agent$"):
        ring.drain()


def test_a_record_of_another_size_among_ours_is_refused_too(memory, ring):
    memory.put(1)
    memory.commit(memory.reserve(size=24), 2, size=24)
    memory.put(3)

    with pytest.raises(RingError, match="^a record has 24 bytes, not 16; restart the agent$"):
        ring.drain()
