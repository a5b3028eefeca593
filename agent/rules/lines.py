# SPDX-License-Identifier: Apache-2.0
"""The lines in which the programs look up what is known of addresses: pure.

A line is one cache line, of 16 words.  A word tells what is known of the addresses that it stands
for, by the number of the line where that is kept; or it names a line that decides by the next four
bits of the address.  The first lines have a word for each value of an address's first 16 bits, of
either side.  So an address of IPv4 is looked up in one to five steps, however many prefixes there are.
"""

import numpy as np
from numpy.typing import NDArray

from agent.rules.addresses import Known, mask
from schemas.refusal import CHUNK_LINES, LINE_WORDS, RULE_CHUNKS, RULE_SIDES, RULE_WORDS
from schemas.rules.rule import RuleError

MOST_LINES = RULE_CHUNKS * CHUNK_LINES
LINE_BYTES = 4 * LINE_WORDS
_MOST_MEGABYTES = MOST_LINES * LINE_BYTES >> 20
_IS_LINE = sum(RULE_WORDS.values())  # in which there may be anything
_ADDRESS_BITS = 32
_FIRST_BITS = 16
_LINE_BITS = 4
_FIRST_LINES = (1 << _FIRST_BITS) // LINE_WORDS

Words = NDArray[np.uint32]


class Lines:
    """Lines while they are being filled; the first boxes, so many, are *allowed* ones."""

    def __init__(self, allowed: int = 0) -> None:
        self._allowed = mask((1 << allowed) - 1)
        self._firsts = np.zeros((len(RULE_SIDES), 1 << _FIRST_BITS), np.uint32)
        self._parts: list[Words] = [self._firsts.reshape(-1, LINE_WORDS)]
        self._count = len(self._parts[0])

    def keep(self, known: Known) -> Words:
        """Give what is known lines of its own, the same one for the same; the words that name it."""
        once, places = known.unique()
        rows = once.rows()
        lines = np.zeros((len(rows), LINE_BYTES), np.uint8)
        lines[:, : rows.itemsize] = rows.view(np.uint8).reshape(len(rows), rows.itemsize)
        words = self._add(lines.view(np.uint32))
        is_anything = np.zeros(len(rows), bool)
        for name, is_so in (
            ("has_ranks", (rows["enforced"] | rows["observed"]) != 0),
            ("has_boxes", once.boxes.any(axis=1)),
            ("has_rules", (once.boxes & ~self._allowed).any(axis=1)),
        ):
            words[is_so] |= np.uint32(RULE_WORDS[name])
            is_anything |= is_so
        words[~is_anything] = 0
        return words[places]

    def spread(self, side: str, starts: NDArray[np.uint64], words: Words) -> None:
        """Have addresses of IPv4 find these words: each from its start to the next one's."""
        is_other = np.ones(len(words), bool)
        is_other[1:] = words[1:] != words[:-1]
        starts, words = starts[is_other].astype(np.int64), words[is_other]
        table = self._firsts[RULE_SIDES[side]]
        # What each word of the table stands for begins there, and has so many bits.
        heads, bits = np.arange(len(table)) << _FIRST_BITS, _ADDRESS_BITS - _FIRST_BITS
        while True:
            table[:] = words[np.searchsorted(starts, heads, "right") - 1]
            split = starts[starts & (1 << bits) - 1 != 0] >> bits
            split = split[np.diff(split, prepend=-1) != 0]
            if not len(split):
                return
            lines = np.zeros((len(split), LINE_WORDS), np.uint32)
            table[np.searchsorted(heads, split << bits)] = self._add(lines) | _IS_LINE
            bits -= _LINE_BITS
            heads = np.add.outer(split << bits + _LINE_BITS, np.arange(LINE_WORDS) << bits).ravel()
            table = lines.reshape(-1)

    def _add(self, lines: Words) -> Words:
        """Their numbers."""
        numbers = np.arange(self._count, self._count + len(lines), dtype=np.uint32)
        self._count += len(lines)
        if self._count > MOST_LINES:
            raise RuleError(
                f"the addresses of all rules need more than {_MOST_MEGABYTES} MB of the kernel's"
                " memory; put networks in the place of single addresses, or remove some"
            )
        self._parts.append(lines)
        return numbers

    def all(self) -> Words:
        """Lines as they stand in memory, (lines, 16)."""
        return np.concatenate(self._parts)
