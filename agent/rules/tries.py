# SPDX-License-Identifier: Apache-2.0
"""The tries of prefixes of IPv6: one for each set of rules, in an array from which programs take them.

A set gets a new trie each time it is written.  So nothing is deleted, a trie has the size that it
needs, and what a program has looked up stays as it is until that program is done.
"""

import os

import numpy as np
from numpy.typing import NDArray

from agent import libbpf, newmaps
from agent.plan import Pins
from agent.rows import Rows
from schemas.dtype import dtype_from_layout
from schemas.refusal import RULE_PREFIX_KEY, RULE_SETS, RULE_SIDES

TRIES = "rule_tries"
KEY = dtype_from_layout(RULE_PREFIX_KEY)
# A word of agent/rules/lines.py.
VALUE = np.dtype(np.uint32)
_SIDE_BITS = 32


def make_tries(pins: Pins) -> None:
    """Make the array, empty, unless it is there; before the programs are loaded."""
    path = pins.map(TRIES)
    if not path.exists():
        newmaps.pin_array_of_maps(path, _create(1), RULE_SETS)


def put_trie(tries_fd: int, number: int, keys: Rows, values: Rows) -> None:
    """Give a set a new trie with these prefixes; rows of KEY and VALUE.

    Raises:
        OSError: the kernel has no memory for it; the set has its former one then.
    """
    trie = _create(max(len(keys), 1))
    try:
        libbpf.update_elements(trie, keys, values)
        libbpf.update_element(tries_fd, number, trie.to_bytes(4, "little"))
    finally:
        os.close(trie)


def keys_of(side: str, firsts: Rows, lengths: NDArray[np.uint32]) -> Rows:
    """Keys of prefixes of one side: (n,) addresses of 16 bytes, and (n,) lengths in bits."""
    keys = np.zeros(len(lengths), KEY)
    keys["bits"], keys["side"], keys["packed"] = _SIDE_BITS + lengths, RULE_SIDES[side], firsts
    return keys


def _create(count: int) -> int:
    return newmaps.create_map(
        "rule_trie",
        newmaps.LPM_TRIE,
        key_bytes=KEY.itemsize,
        value_bytes=VALUE.itemsize,
        count=count,
        flags=newmaps.BPF_F_NO_PREALLOC,
    )
