# SPDX-License-Identifier: Apache-2.0
"""Cut the text of a filter into words, each with its place."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

# Quotes let a word hold what separates words else.
_WORD = re.compile(r'\s*(?:"([^"]*)"|(&&|\|\||[()!])|((?:[^\s()!&|"]|&(?!&)|\|(?!\|))+)|(\S))')
_SAME = {"&&": "and", "||": "or", "!": "not"}


class FilterError(ValueError):
    """A filter that makes no sense; the text is one line that names the word and its place."""


@dataclass(frozen=True, slots=True)
class Word:
    """One word, and the number of its first character, counted from 1."""

    text: str
    place: int
    is_quoted: bool = False

    @property
    def key(self) -> str:
        """The word as the grammar knows it; what is quoted is never a word of the grammar."""
        return "" if self.is_quoted else _SAME.get(self.text, self.text.lower())


def words_of(text: str) -> list[Word]:
    """Every word of *text*, in order.

    Raises:
        FilterError: a quote is not closed.
    """
    found = []
    for match in _WORD.finditer(text.rstrip()):
        quoted, sign, plain, stray = match.groups()
        place = match.end() - len(match[0].lstrip()) + 1
        if stray is not None:
            raise FilterError(f"the quote at character {place} is not closed")
        word = quoted if quoted is not None else sign or plain
        found.append(Word(word, place, is_quoted=quoted is not None))
    return found


def fault(word: Word | None, why: str, allowed: str | Iterable[str]) -> FilterError:
    """The error of one word, or of an end that came too early."""
    what = allowed if isinstance(allowed, str) else ", ".join(allowed)
    where = f"{word.text!r} at character {word.place}" if word else "the filter's end"
    return FilterError(f"{where} {why}; write {what}")
