# SPDX-License-Identifier: Apache-2.0
"""The table of sockets against a plain list of them, and its bounds."""

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.sockettable import OPEN, Owners, SocketTable
from agent.tuples import TCP, UDP, keys_of

MINUTE_NS = 60_000_000_000
SECOND_NS = 1_000_000_000
Socket = tuple[int, int]  # number of the client, protocol


def keys(*sockets: Socket) -> np.ndarray:
    count = len(sockets)
    client = np.zeros((count, 16), np.uint8)
    client[:, 15] = [number % 256 for number, _ in sockets]
    return keys_of(
        local_addr=np.zeros((count, 16), np.uint8),
        local_port=np.full(count, 443, np.uint16),
        remote_addr=client,
        remote_port=np.array([5000 + number // 256 for number, _ in sockets], np.uint16),
        protocol=np.array([protocol for _, protocol in sockets], np.uint8),
    )


def owned_by(*pids: int) -> Owners:
    none = np.zeros(len(pids), np.uint64)
    return Owners(np.array(pids, np.uint32), none.astype(np.uint32), none, none)


def times(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def opened(table: SocketTable, socket: Socket, at: int, pid: int, **seen: int) -> None:
    table.open(keys(socket), times(at), owned_by(pid), **seen)


def owner_of(table: SocketTable, socket: Socket, first_ns: int, last_ns: int | None = None) -> int:
    (slot,) = table.find(keys(socket), times(first_ns), times(last_ns or first_ns))
    return int(table.owners.pid[slot])


def test_a_row_belongs_to_the_process_that_had_the_tuple_at_its_time():
    table = SocketTable(8)
    opened(table, (1, TCP), 100, pid=11)
    table.close(keys((1, TCP)), times(200))
    opened(table, (1, TCP), 300, pid=22)

    assert owner_of(table, (1, TCP), 150) == 11
    assert owner_of(table, (1, TCP), 250, 260) == 11
    assert owner_of(table, (1, TCP), 250, 310) == 22
    assert owner_of(table, (1, TCP), 300) == 22
    assert owner_of(table, (2, TCP), 300) == 0


def test_the_packet_that_asks_for_a_connection_belongs_to_it_before_it_is_open():
    table = SocketTable(8)
    opened(table, (1, TCP), 100, pid=11)

    assert owner_of(table, (1, TCP), 90, 95) == 11


def test_packets_may_follow_the_end_of_a_socket_for_as_long_as_its_protocol_has_it():
    table = SocketTable(8)
    for protocol in (TCP, UDP):
        opened(table, (1, protocol), 100, pid=11)
        table.close(keys((1, protocol)), times(200))

    assert owner_of(table, (1, TCP), 200 + MINUTE_NS) == 11
    assert owner_of(table, (1, TCP), 201 + MINUTE_NS) == 0
    assert owner_of(table, (1, UDP), 200 + SECOND_NS) == 11
    assert owner_of(table, (1, UDP), 201 + SECOND_NS) == 0


def test_what_has_closed_is_forgotten_when_no_row_can_need_it():
    table = SocketTable(8)
    opened(table, (1, UDP), 100, pid=11)
    opened(table, (2, UDP), 100, pid=12)
    table.close(keys((1, UDP)), times(200))
    table.forget_closed(200 + SECOND_NS)

    assert len(table) == 2
    table.forget_closed(201 + SECOND_NS)
    assert len(table) == 1
    assert owner_of(table, (1, UDP), 150) == 0
    assert owner_of(table, (2, UDP), 150) == 12


def test_a_tuple_that_is_taken_again_and_again_does_not_pile_up():
    table = SocketTable(8)
    for number in range(5):
        opened(table, (1, TCP), 100 * number, pid=11 + number)
        table.close(keys((1, TCP)), times(100 * number + 50))
    table.forget_closed(351)

    assert len(table) == 2
    assert owner_of(table, (1, TCP), 360) == 14


def test_who_had_a_tuple_before_is_forgotten_whichever_is_told_first():
    table = SocketTable(8)
    opened(table, (1, TCP), 100, pid=11)
    opened(table, (1, TCP), 300, pid=22)
    table.close(keys((1, TCP)), times(200))

    table.forget_closed(299)
    assert len(table) == 2
    table.forget_closed(300)
    assert len(table) == 1
    assert owner_of(table, (1, TCP), 400) == 22


def test_what_was_forgotten_is_told_by_its_keys():
    table = SocketTable(8)
    for number, protocol in ((1, UDP), (2, UDP), (3, TCP)):
        opened(table, (number, protocol), 100, pid=number)
    table.close(keys((1, UDP), (3, TCP)), times(200, 200))

    assert np.array_equal(table.forget_closed(201 + SECOND_NS), keys((1, UDP)))
    assert not len(table.forget_closed(201 + SECOND_NS))


def test_a_slot_that_was_freed_is_not_freed_again():
    table = SocketTable(1)
    opened(table, (1, UDP), 100, pid=11)
    table.close(keys((1, UDP)), times(200))
    table.forget_closed(201 + SECOND_NS)
    opened(table, (2, UDP), 5 * SECOND_NS, pid=22)
    table.forget_closed(6 * SECOND_NS)

    assert owner_of(table, (2, UDP), 6 * SECOND_NS) == 22


def test_few_keys_are_found_in_a_large_table_as_many_are():
    table = SocketTable(4000)
    numbers = list(range(4000))
    table.open(
        keys(*[(n, TCP) for n in numbers]), times(*numbers), owned_by(*[n + 1 for n in numbers])
    )
    few = [owner_of(table, (n, TCP), 5000) for n in (0, 17, 3999, 4001)]
    many = table.find(
        keys(*[(n, TCP) for n in numbers]), times(*[5000] * 4000), times(*[5000] * 4000)
    )

    assert few == [1, 18, 4000, 0]
    assert table.owners.pid[many].tolist() == [n + 1 for n in numbers]


def test_a_socket_that_is_told_of_again_is_one_and_gets_its_process():
    table = SocketTable(8)
    opened(table, (1, TCP), 0, pid=0, seen_ns=50)
    opened(table, (1, TCP), 0, pid=11, seen_ns=60)
    opened(table, (1, TCP), 100, pid=11)
    opened(table, (2, TCP), 100, pid=11)
    opened(table, (2, TCP), 100, pid=22)

    assert len(table) == 2
    assert owner_of(table, (1, TCP), 150) == 11
    # Another process accepted the connection than the one that listened.
    assert owner_of(table, (2, TCP), 150) == 22


def test_what_was_seen_before_it_closed_does_not_open_it_again():
    table = SocketTable(8)
    opened(table, (1, TCP), 100, pid=11)
    table.close(keys((1, TCP)), times(200))
    opened(table, (1, TCP), 0, pid=11, seen_ns=150)
    opened(table, (1, TCP), 0, pid=22, seen_ns=250)

    assert len(table) == 2
    assert owner_of(table, (1, TCP), 260) == 22


def test_a_full_table_lets_closed_sockets_go_first_then_those_not_asked_for_longest():
    table = SocketTable(4)
    for number in range(4):
        opened(table, (number, TCP), 100 + number, pid=11 + number)
    table.close(keys((3, TCP)), times(200))
    owner_of(table, (0, TCP), 300)
    opened(table, (4, TCP), 400, pid=15)
    opened(table, (5, TCP), 400, pid=16)

    assert table.evicted_total == 2
    assert [owner_of(table, (number, TCP), 500) for number in range(6)] == [11, 0, 13, 0, 15, 16]


def test_more_sockets_at_once_than_there_is_room_for_leave_the_newest():
    table = SocketTable(4)
    opened(table, (9, TCP), 1, pid=9)
    many = [(number, TCP) for number in range(6)]
    table.open(keys(*many), times(*range(10, 16)), owned_by(*range(1, 7)))

    assert len(table) == 4
    assert table.evicted_total == 3
    assert [owner_of(table, one, 100) for one in many] == [0, 0, 3, 4, 5, 6]


@dataclass
class Life:
    opened_ns: int
    pid: int
    closed_ns: int = OPEN


@dataclass
class Model:
    """The same rules, socket by socket."""

    lives: dict[Socket, list[Life]] = field(default_factory=dict)

    def open(self, socket: Socket, at: int, pid: int) -> None:
        lives = self.lives.setdefault(socket, [])
        newest = lives[-1] if lives else None
        if newest is None or at > newest.closed_ns or (pid != newest.pid and at > newest.opened_ns):
            lives.append(Life(at, pid))
        elif at == newest.opened_ns:
            newest.pid = pid

    def close(self, socket: Socket, at: int) -> None:
        for life in self.lives.get(socket, []):
            if life.opened_ns <= at < life.closed_ns:
                life.closed_ns = at

    def find(self, socket: Socket, first_ns: int, last_ns: int) -> int:
        lives = self.lives.get(socket, [])
        if not lives:
            return 0
        before = [number for number, life in enumerate(lives) if life.opened_ns <= first_ns]
        number = before[-1] if before else 0
        life = lives[number]
        if life.closed_ns >= first_ns:
            return life.pid
        after = lives[number + 1 : number + 2]
        if after and after[0].opened_ns <= last_ns:
            return after[0].pid
        aftermath_ns = MINUTE_NS if socket[1] == TCP else SECOND_NS
        return life.pid if first_ns <= life.closed_ns + aftermath_ns else 0


SOCKETS = st.tuples(st.integers(0, 40), st.sampled_from([TCP, UDP]))
STEPS = st.lists(
    st.tuples(st.booleans(), st.lists(SOCKETS, max_size=30, unique=True), st.integers(1, 3)),
    max_size=12,
)


@settings(max_examples=200, deadline=None, database=None)
@given(STEPS, st.lists(st.tuples(SOCKETS, st.integers(0, 13), st.integers(0, 2)), min_size=1))
def test_whole_arrays_are_answered_as_one_by_one(steps, rows):
    table, model = SocketTable(1000), Model()
    for number, (is_open, sockets, pid) in enumerate(steps):
        at = number * SECOND_NS
        if is_open:
            table.open(keys(*sockets), times(*[at] * len(sockets)), owned_by(*[pid] * len(sockets)))
        else:
            table.close(keys(*sockets), times(*[at] * len(sockets)))
        for socket in sockets:
            (model.open(socket, at, pid) if is_open else model.close(socket, at))
    spans = [(first * SECOND_NS, (first + length) * SECOND_NS) for _, first, length in rows]
    found = table.find(
        keys(*[socket for socket, _, _ in rows]),
        times(*[first for first, _ in spans]),
        times(*[last for _, last in spans]),
    )

    expected = [model.find(row[0], *span) for row, span in zip(rows, spans, strict=True)]
    # A lookup steps back over so many sockets of a tuple, which is more than anybody opens.
    is_deep = [len(model.lives.get(row[0], [])) > 8 for row in rows]
    answers = table.owners.pid[found].tolist()
    assert [a for a, deep in zip(answers, is_deep, strict=True) if not deep] == [
        e for e, deep in zip(expected, is_deep, strict=True) if not deep
    ]


def test_every_one_of_many_sockets_is_found_after_others_have_gone():
    table = SocketTable(20_000)
    numbers = list(range(20_000))
    table.open(
        keys(*[(n, TCP) for n in numbers]), times(*numbers), owned_by(*[n + 1 for n in numbers])
    )
    table.close(keys(*[(n, TCP) for n in numbers[::2]]), times(*[20_000] * 10_000))
    table.forget_closed(20_001 + MINUTE_NS)
    found = table.find(
        keys(*[(n, TCP) for n in numbers]), times(*[30_000] * 20_000), times(*[30_000] * 20_000)
    )

    expected = [0 if n % 2 == 0 else n + 1 for n in numbers]
    assert table.owners.pid[found].tolist() == expected
    assert all(a != b for a, b in pairwise(expected))
