# SPDX-License-Identifier: Apache-2.0
import numpy as np

from agent.rows import chosen, copied, joined
from schemas.dtype import dtype_from_layout
from schemas.packet import PACKET_EVENT

DTYPE = dtype_from_layout(PACKET_EVENT)


def some_rows(count):
    content = np.random.default_rng(7).integers(0, 256, count * DTYPE.itemsize, np.uint8)
    return content.view(DTYPE)


def test_chosen_copies_whole_rows_by_index_and_by_mask():
    rows = some_rows(8)
    is_odd = np.arange(8) % 2 == 1

    for odd in (chosen(rows, np.array([1, 3, 5, 7])), chosen(rows, is_odd)):
        assert odd.dtype == DTYPE
        assert odd.tobytes() == b"".join(rows[at].tobytes() for at in (1, 3, 5, 7))
        assert not np.shares_memory(odd, rows)


def test_joined_keeps_every_byte_of_every_part_in_order():
    rows = some_rows(9)

    together = joined([rows[:4], rows[4:4], rows[4:]])

    assert together.dtype == DTYPE
    assert together.tobytes() == rows.tobytes()


def test_copied_shares_nothing_with_what_it_copies():
    rows = some_rows(5)

    copy = copied(rows)

    assert copy.tobytes() == rows.tobytes()
    assert not np.shares_memory(copy, rows)
