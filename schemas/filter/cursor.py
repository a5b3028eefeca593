# SPDX-License-Identifier: Apache-2.0
"""A place in the words of a filter, and the few ways in which terms move it on."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TypeVar

from schemas.filter.tree import Any, Filter
from schemas.filter.values import ReadError
from schemas.filter.words import Word, fault

Value = TypeVar("Value")
# Who means one of these writes it in quotes.
_NO_VALUES = ("(", ")", "and", "or", "not")
Meaning = Callable[[Word | None], Filter]


@dataclass(slots=True)
class Cursor:
    """The words of one filter, and how far they are read."""

    words: list[Word]
    at: int = 0
    # What a value alone stands for, as the 443 in `port 80 or 443`.
    meaning: Meaning | None = None

    @property
    def next(self) -> Word | None:
        return self.words[self.at] if self.at < len(self.words) else None

    @property
    def key(self) -> str:
        """The next word as the grammar knows it; "" at the end and for what is quoted."""
        return self.next.key if self.next else ""

    def take(self) -> Word | None:
        word = self.next
        self.at += 1
        return word

    def takes(self, *keys: str) -> str:
        """Move past the next word if it is one of *keys*; returns which, or ""."""
        key = self.key
        if not key or key not in keys:
            return ""
        self.at += 1
        return key

    def looks_ahead(self, *keys: str) -> bool:
        """Whether the words to come are these."""
        ahead = self.words[self.at : self.at + len(keys)]
        return [word.key for word in ahead] == list(keys)

    def values(
        self, read: Callable[[str], Value], claim: Callable[[Value], Filter], *, expected: str
    ) -> Filter:
        """One value, or several in parentheses with `or` between."""

        def meaning(word: Word | None) -> Filter:
            if word is None or word.key in _NO_VALUES or word.text == "":
                raise fault(word, "lacks a value", expected)
            try:
                return claim(read(word.text))
            except ReadError as error:
                raise fault(word, error.why, error.allowed) from None

        self.meaning = meaning
        if not self.takes("("):
            return meaning(self.take())
        parts = [meaning(self.take())]
        while self.takes("or"):
            parts.append(meaning(self.take()))
        if not self.takes(")"):
            raise fault(self.next, "ends no list of values", "or, or )")
        return Any(tuple(parts))

    def require(self, keys: Collection[str], why: str) -> str:
        """Move past the next word, which must be one of *keys*."""
        key = self.takes(*keys)
        if not key:
            raise fault(self.next, why, sorted(keys))
        return key
