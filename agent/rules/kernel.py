# SPDX-License-Identifier: Apache-2.0
"""The rules' tables in the kernel: written aside, put in force in one step, read for what they count.

The maps are pinned with those of the programs.  So rules stay in force while no agent runs, each
until its end.
"""

import os
import time
from collections.abc import Sequence

import numpy as np

from agent import libbpf
from agent.maps import Mapped
from agent.plan import Pins, Sizes
from agent.rows import Rows, chosen
from agent.rules.chunks import Chunks
from agent.rules.tables import Masks, Tables, part_of
from agent.rules.tries import TRIES, put_trie
from schemas.refusal import (
    RULE_BOOKS,
    RULE_BOXES,
    RULE_BUCKET,
    RULE_CONTROL,
    RULE_ENTRY,
    RULE_MASK,
    RULE_MASKS,
    RULE_RANK,
    RULE_SET,
    RULE_SETS,
    RULE_SLOTS,
)

# A packet that was asking about the former set is done before this.
LAST_PACKETS_SECONDS = 0.02


class KernelRules:
    """The maps of one agent's rules."""

    def __init__(self, pins: Pins, sizes: Sizes, mapped: Mapped) -> None:
        """*mapped* opens an array."""
        self._control = mapped("rule_control", RULE_CONTROL, 1, is_writable=True)
        self._sets = mapped("rule_sets", RULE_SET, RULE_SETS, is_writable=True)
        masks = mapped("rule_masks", RULE_MASK, RULE_SETS * RULE_MASKS, is_writable=True)
        self._masks = masks.view(np.uint64).reshape(RULE_SETS, RULE_MASKS, 2)
        entries = mapped("rule_entries", RULE_ENTRY, RULE_SETS * RULE_SLOTS, is_writable=True)
        self._entries = entries.reshape(RULE_SETS, RULE_SLOTS)
        ranks = mapped("rule_ranks", RULE_RANK, RULE_SETS * RULE_BOXES, is_writable=True)
        self._ranks = ranks["rank"].reshape(RULE_SETS, RULE_BOXES)
        self._buckets = mapped("rule_buckets", RULE_BUCKET, RULE_SLOTS, is_writable=True)
        count = sizes.cpus * RULE_SLOTS
        books = mapped("rule_books", RULE_BOOKS, count, is_writable=True)
        self._books = books.reshape(sizes.cpus, RULE_SLOTS)
        self._chunks = Chunks(pins)
        self._tries_fd = libbpf.open_pinned(pins.map(TRIES))
        self._changed_at = 0.0

    def close(self) -> None:
        self._chunks.close()
        os.close(self._tries_fd)

    @property
    def is_on(self) -> bool:
        """Whether packets are asked about."""
        return bool(self._control["is_on"][0])

    def put(self, tables: Tables) -> None:
        """Put *tables* in force: from one packet to the next, all of them.

        Raises:
            OSError: the kernel has no room for them; the former stay in force.
        """
        self._await_last_packets()
        number = 1 - int(self._control["set"][0])
        self._chunks.put(number, tables.lines)
        put_trie(self._tries_fd, number, tables.keys, tables.values)
        self._sets[number] = tables.whole[0]
        self._masks[number] = tables.masks
        self._entries[number] = tables.entries
        self._ranks[number] = tables.ranks
        self._switch(number, tables)

    def put_points(self, masks: Masks) -> None:
        """Tell the set in force what hook points stand for now."""
        part_of(self._masks[int(self._control["set"][0])], "point")[:] = masks

    def clear(self, slot: int) -> None:
        """Have the rule that gets the slot begin with nothing; while no rule has it."""
        self._buckets[slot] = 0
        self._books[:, slot] = 0

    def counted(self, slots: Sequence[int]) -> Rows:
        """What every CPU has counted in these slots, (cpus, slots)."""
        places = np.arange(len(self._books))[:, None] * RULE_SLOTS + np.array(slots, np.intp)
        return chosen(self._books.reshape(-1), places.reshape(-1)).reshape(places.shape)

    def _switch(self, number: int, tables: Tables) -> None:
        # One store of eight bytes: programs never see half of it.
        word = self._control.view(np.uint64)
        control = np.zeros(1, self._control.dtype)
        control["set"], control["is_on"] = number, tables.is_on
        control["is_on_ipv6"] = tables.is_on_ipv6
        word[:] = control.view(np.uint64)
        self._changed_at = time.monotonic()

    def _await_last_packets(self) -> None:
        if (left := self._changed_at + LAST_PACKETS_SECONDS - time.monotonic()) > 0:
            time.sleep(left)
