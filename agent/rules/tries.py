# SPDX-License-Identifier: Apache-2.0
"""The tries of prefixes: one for each set of rules, in an array from which programs take them.

A set gets a new trie each time it is written.  So nothing is deleted, a trie has the size that it
needs, and what a program has looked up stays as it is until that program is done.
"""

import os

import numpy as np

from agent import libbpf
from agent.plan import Pins
from agent.rows import Rows
from schemas.dtype import dtype_from_layout
from schemas.refusal import RULE_PREFIX, RULE_PREFIX_KEY, RULE_SETS, RULE_SIDES

TRIES = "rule_tries"
KEY = dtype_from_layout(RULE_PREFIX_KEY)
VALUE = dtype_from_layout(RULE_PREFIX)
# IPv4 is mapped into ::ffff/96.
MAPPED_BITS = 96
_MAPPED_WORD = np.uint64(0xFFFF0000)
_LOW_WORD = np.uint64(0xFFFFFFFF)
_SIDE_BITS = 32


def make_tries(pins: Pins) -> None:
    """Make the array, empty, unless it is there; before the programs are loaded."""
    path = pins.map(TRIES)
    if path.exists():
        return
    pattern = _create(1)
    fd = libbpf.create_array_of_maps(pattern, RULE_SETS)
    try:
        libbpf.pin(fd, path)
    finally:
        os.close(pattern)
        os.close(fd)


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


def keys_of(side: str, firsts: Rows, lengths: Rows) -> Rows:
    """Keys of prefixes of one side: (n,) mapped addresses of 16 bytes, and (n,) lengths in bits."""
    keys = np.zeros(len(lengths), KEY)
    words = firsts.view("<u8").reshape(-1, 2).copy()
    is_ipv4 = (lengths >= MAPPED_BITS) & (words[:, 0] == 0)
    is_ipv4 &= words[:, 1] & _LOW_WORD == _MAPPED_WORD
    words[is_ipv4, 0] = words[is_ipv4, 1] >> np.uint64(32)
    words[is_ipv4, 1] = 0
    keys["bits"] = _SIDE_BITS + lengths - np.where(is_ipv4, MAPPED_BITS, 0)
    keys["side"] = np.where(is_ipv4, RULE_SIDES[f"{side}_ipv4"], RULE_SIDES[side])
    keys["packed"] = words.view(KEY["packed"]).reshape(-1)
    return keys


def _create(count: int) -> int:
    return libbpf.create_map(
        "rule_trie",
        libbpf.MAP_LPM_TRIE,
        key_bytes=KEY.itemsize,
        value_bytes=VALUE.itemsize,
        count=count,
        flags=libbpf.BPF_F_NO_PREALLOC,
    )
