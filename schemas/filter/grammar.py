# SPDX-License-Identifier: Apache-2.0
"""Read a filter: terms, joined by `and`, `or`, `not` and parentheses, as tcpdump's are.

    filter  = joint [ "and" joint ... ] | joint [ "or" joint ... ]
    joint   = "not" joint | "(" filter ")" | term | value

tcpdump gives `and` and `or` the same rank and reads from left to right; SQL and most languages do
otherwise.  Whoever mixes them means one of the two, so we ask for parentheses and agree with both.
"""

from schemas.filter.cursor import Cursor
from schemas.filter.terms import EITHER, TERMS, term_of, within
from schemas.filter.tree import EVERYTHING, All, Any, Filter, Not
from schemas.filter.values import ReadError, network_in
from schemas.filter.words import FilterError, Word, fault, words_of

# Far more than people write; a parser that calls itself needs a bound.
MAX_WORDS = 1000
MAX_DEPTH = 50


def parse(text: str, *, for_packets: bool = False) -> Filter:
    """The meaning of *text*; nothing at all means everything.

    *for_packets* refuses terms that only the rows of the history can answer.

    Raises:
        FilterError: it makes no sense; the text names the word, its place and what may stand there.
    """
    words = words_of(text)
    if not words:
        return EVERYTHING
    if len(words) > MAX_WORDS:
        raise FilterError(f"{len(words)} words are too many; write at most {MAX_WORDS}")
    cursor = Cursor(words)
    tree = _Grammar(cursor, for_packets=for_packets).filter(0)
    if cursor.next:
        raise fault(cursor.next, "stands where a filter goes on or ends", "and, or")
    return tree


class _Grammar:
    def __init__(self, cursor: Cursor, *, for_packets: bool) -> None:
        self._cursor = cursor
        self._for_packets = for_packets

    def filter(self, depth: int) -> Filter:
        if depth > MAX_DEPTH:
            raise fault(self._cursor.next, "lies too deep", f"at most {MAX_DEPTH} levels")
        parts = [self._joint(depth)]
        joint = self._cursor.key if self._cursor.key in ("and", "or") else ""
        while joint and self._cursor.takes(joint):
            parts.append(self._joint(depth))
        if joint and self._cursor.key in ("and", "or"):
            raise fault(self._cursor.next, f"follows {joint!r}", "parentheses around one of them")
        if len(parts) == 1:
            return parts[0]
        return All(tuple(parts)) if joint == "and" else Any(tuple(parts))

    def _joint(self, depth: int) -> Filter:
        cursor = self._cursor
        if cursor.takes("not"):
            if depth > MAX_DEPTH:
                raise fault(cursor.next, "lies too deep", f"at most {MAX_DEPTH} levels")
            return Not(self._joint(depth + 1))
        if cursor.takes("("):
            tree = self.filter(depth + 1)
            if not cursor.takes(")"):
                raise fault(cursor.next, "leaves a parenthesis open", "and, or, or )")
            return tree
        return self._term()

    def _term(self) -> Filter:
        cursor = self._cursor
        word = cursor.take()
        term = term_of(word.key) if word else None
        if term is None:
            return self._value(word)
        if term.only_flows and self._for_packets:
            raise FilterError(
                f"{term.key!r} at character {word.place if word else 0} can be asked of flows only:"
                " no packet tells it; ask `hookline flows`"
            )
        return term.read(cursor)

    def _value(self, word: Word | None) -> Filter:
        """A value alone: another one for the term before, or an address."""
        if word is None or word.key in ("and", "or", ")") or not word.text:
            raise fault(word, "is where a term must stand", _allowed(for_packets=self._for_packets))
        if not (word.text[0].isdigit() or ":" in word.text):
            raise fault(word, "is no word of filters", _allowed(for_packets=self._for_packets))
        if self._cursor.meaning:
            return self._cursor.meaning(word)
        try:
            return within(network_in(word.text), EITHER)
        except ReadError as error:
            raise fault(word, error.why, error.allowed) from None


def _allowed(*, for_packets: bool) -> str:
    keys = [term.key for term in TERMS if not (term.only_flows and for_packets)]
    return ", ".join(["not", "(", *keys])
