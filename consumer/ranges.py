# SPDX-License-Identifier: Apache-2.0
"""A set of whole numbers that mostly follow each other, kept as ranges."""

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator

_RANGE = re.compile(r"(\d{1,19})(?:-(\d{1,19}))?")


class Ranges:
    """Whole numbers, as ascending ranges between which something is missing."""

    def __init__(self, numbers: Iterable[int] = ()) -> None:
        # The last number of a range is in it.
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        for number in numbers:
            self.add(number)

    def add(self, number: int) -> None:
        self.add_range(number, number)

    def add_range(self, first: int, last: int) -> None:
        """Add all numbers from *first* to *last*, which must not be less."""
        # Ranges that overlap this one, or touch it, become one with it.
        begin = bisect_right(self._lasts, first - 2)
        end = bisect_right(self._firsts, last + 1)
        if begin < end:
            first = min(first, self._firsts[begin])
            last = max(last, self._lasts[end - 1])
        self._firsts[begin:end] = [first]
        self._lasts[begin:end] = [last]

    def forget_lowest(self) -> None:
        """Take the lowest range out."""
        del self._firsts[0], self._lasts[0]

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self._firsts, number) - 1
        return at >= 0 and number <= self._lasts[at]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Each range: its first and its last number."""
        return iter(zip(self._firsts, self._lasts, strict=True))

    def __len__(self) -> int:
        """How many ranges there are."""
        return len(self._firsts)

    @property
    def highest(self) -> int:
        """The highest number; -1 where there is none."""
        return self._lasts[-1] if self._lasts else -1

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Ranges):
            return NotImplemented
        return (self._firsts, self._lasts) == (other._firsts, other._lasts)

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __repr__(self) -> str:
        return f"Ranges({self})"

    def __str__(self) -> str:
        """As in `3-5,9`."""
        return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in self)


def ranges_in(text: object) -> Ranges:
    """The numbers that *text* names as `str()` of them does.

    Raises:
        ValueError: it is no such text.
    """
    if not isinstance(text, str):
        raise ValueError(f"{text!r} is no text")  # noqa: TRY004  # it came from outside
    found = Ranges()
    for one in text.split(",") if text else ():
        if not (match := _RANGE.fullmatch(one)):
            raise ValueError(f"{one[:40]!r} is no range of whole numbers")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ValueError(f"range {one} runs backwards")
        found.add_range(first, last)
    return found
