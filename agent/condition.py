# SPDX-License-Identifier: Apache-2.0
"""A filter as an expression in C, which bpf/capture.bpf.h asks of every packet.

The expression is arithmetic on 0 and 1 without a branch, in the words of that file.  Only numbers
get into it: names of interfaces become hook points before, and nothing that somebody typed is
compiled.
"""

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

from schemas.fields import DIRECTIONS, TUNNELS
from schemas.filter.tree import All, Any, Between, Filter, HasBits, Like, Named, Not, Within

# More ranges of hook points than this exhaust the verifier before they help anybody.
MAX_RANGES = 64

NamesOfPoints = Sequence[str]
_PACKET = "(packet)"
_NUMBERS = {"direction": DIRECTIONS, "tunnel": TUNNELS}


class ConditionError(ValueError):
    """A filter that cannot be asked of packets; the text is one line for a human."""


def condition(tree: Filter, names: NamesOfPoints) -> str:
    """The C of *tree*; *names* has the interface of every hook point.

    Raises:
        ConditionError: it names something no packet has, or too many interfaces.
    """
    match tree:
        case All(parts):
            return _joined(" & ", [condition(part, names) for part in parts], "1ULL")
        case Any(parts):
            return _joined(" | ", [condition(part, names) for part in parts], "0ULL")
        case Not(part):
            return f"({condition(part, names)} ^ 1)"
        case Between(column, first, last):
            return _between(column, first, last)
        case Within(column):
            return _within(tree, column)
        case Named(column, name):
            number = _NUMBERS[column][name]
            return _between(column, number, number)
        case HasBits(column, bits):
            return f"has_bits({_PACKET}->{column}, {bits:#x})"
        case Like("interface", glob):
            return _points(lambda name: matches(name, glob), names)
        case _:
            raise ConditionError(f"no packet has a {tree.column}; ask `hookline flows`")


def matches(name: str, glob: str) -> bool:
    """Whether a glob with * and ?, which knows nothing else, means *name*."""
    return fnmatchcase(name, glob.replace("[", "[[]"))


def _joined(sign: str, parts: list[str], nothing: str) -> str:
    return f"({sign.join(parts)})" if parts else nothing


def _between(column: str, first: int, last: int) -> str:
    return f"between({_PACKET}->{column}, {first}, {last})"


def _within(tree: Within, column: str) -> str:
    # Addresses lie in memory as on the wire; two little-endian words are what C compares.
    numbers = []
    for half in (slice(0, 8), slice(8, 16)):
        for whole in (tree.mask, tree.first):
            word = int.from_bytes(whole.to_bytes(16, "big")[half], "little")
            numbers.append(f"{word:#x}ULL")
    return f"within({_PACKET}->{column}, {', '.join(numbers)})"


def _points(is_meant: Callable[[str], bool], names: NamesOfPoints) -> str:
    ranges = _ranges([point for point, name in enumerate(names) if is_meant(name)])
    if len(ranges) > MAX_RANGES:
        raise ConditionError(
            f"the interfaces asked for lie in {len(ranges)} ranges, and {MAX_RANGES} fit;"
            " choose fewer, or all with '*'"
        )
    return _joined(" | ", [_between("point", *ends) for ends in ranges], "0ULL")


def _ranges(points: Sequence[int]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for point in points:
        if found and found[-1][1] == point - 1:
            found[-1] = found[-1][0], point
        else:
            found.append((point, point))
    return found
