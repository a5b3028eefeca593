# SPDX-License-Identifier: Apache-2.0
"""Numbers of 64 bits that stand for rows, to find equal ones by sorting.

They are keyed with what nobody else knows, so that who chooses addresses and names cannot make
two rows alike.
"""

import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.wire import Text

Keys = NDArray[np.uint64]

_MAX_TEXT_BYTES = 1 << 11


def _random_odd() -> Keys:
    drawn = np.frombuffer(secrets.token_bytes(8 * _MAX_TEXT_BYTES), np.uint64)
    odd: Keys = drawn | np.uint64(1)
    return odd


def halves(addresses: NDArray[Any]) -> list[NDArray[np.uint64]]:
    """Addresses as two words each."""
    words = np.ascontiguousarray(addresses).view(np.uint64)
    return [words[0::2], words[1::2]]


@dataclass(frozen=True, slots=True)
class Hashing:
    """One secret."""

    factors: Keys = field(default_factory=_random_odd)

    def keys(self, words: Iterable[NDArray[Any]]) -> Keys:
        """One key for the *words* of each row."""
        keys: Keys = np.zeros(1, np.uint64)
        for word, factor in zip(words, self.factors, strict=False):
            keys = (keys ^ word.astype(np.uint64)) * factor
            # Products carry upwards only.
            keys ^= keys >> np.uint64(32)
        return keys

    def of_names(self, names: Text) -> Keys:
        """One word for the text of each row, whatever the case of its letters."""
        ends = np.cumsum(names.lengths, dtype=np.int64)
        starts = ends - names.lengths
        within = np.arange(len(names.content)) - np.repeat(starts, names.lengths)
        is_capital = (names.content >= ord("A")) & (names.content <= ord("Z"))
        letters = names.content.astype(np.uint64) + is_capital * np.uint64(0x20)
        products = (letters + np.uint64(1)) * self.factors[within]
        sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(products, dtype=np.uint64)])
        words: Keys = sums[ends] - sums[starts]
        return words
