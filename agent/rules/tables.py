# SPDX-License-Identifier: Apache-2.0
"""From rules to the tables that the programs read: pure, and the same for the same rules.

Every rule has a rank, by which it comes before others; that of the allow list is the first.  A box
that asks for one address and nothing else gets a rank of its own and stands with its prefixes.  Any
other gets a bit, in the order of ranks, so that the lowest bit of what accepts a packet belongs to
the rule that decides.  schemas/refusal.py describes the tables, bpf/rules.bpf.h reads them.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from agent.rows import Rows
from agent.rules.addresses import Side, mask
from agent.rules.lines import Lines, Words
from agent.rules.tries import keys_of
from schemas.dtype import dtype_from_layout
from schemas.fields import DIRECTIONS
from schemas.refusal import (
    PRICE_SHIFT,
    RULE_ACTIONS,
    RULE_ASKS,
    RULE_BOXES,
    RULE_ENTRY,
    RULE_MASKS,
    RULE_PARTS,
    RULE_SET,
    RULE_SIDES,
    RULE_SLOTS,
    RULE_UNITS,
)
from schemas.rules.boxes import ALL_ICMP, Box
from schemas.rules.intervals import Prefix
from schemas.rules.rule import Rule, RuleError
from schemas.rules.spaces import are_met

ALLOW_LIST_SLOT = 0
# Also in bpf/rules.bpf.h.
_BIT_SEQUENCE = 0x03F79D71B4CB0A89
_WORD_BITS = 64
_ALL_BITS = (1 << _WORD_BITS) - 1
_NANOSECONDS = 1_000_000_000
_MOST = (1 << 64) - 1

_ANYTHING = Box()
# Which member of a box is about which part of a packet.  Ports and ICMP share one: no box has both.
_MEMBERS = {
    "protocol": "protocols",
    "flags": "flags",
    "dscp": "dscps",
    "version": "versions",
    "vlan": "vlans",
    "src_port": "src_ports",
    "dst_port": "dst_ports",
}

# All that a box may ask for beside addresses, whose prefixes know their version.
_beside_addresses = attrgetter(
    *(member for member in _MEMBERS.values() if member != "versions"),
    *("icmp", "directions", "interfaces"),
)
_NO_MORE = _beside_addresses(_ANYTHING)

Masks = NDArray[np.uint64]  # (values, 2)


@dataclass(frozen=True, slots=True)
class Placed:
    """A rule with its boxes and the slot that counts it."""

    rule: Rule
    boxes: tuple[Box, ...]
    slot: int


@dataclass(frozen=True, slots=True)
class Tables:
    """One set of rules, as the kernel has it.

    Shapes: `whole` (1,), `masks` (RULE_MASKS, 2), `entries` (RULE_SLOTS,), `ranks` (RULE_BOXES,),
    `lines` (lines, 16), `keys` and `values` as many as there are prefixes of IPv6.  *bits* are the
    boxes that have one.
    """

    whole: Rows
    masks: Masks
    entries: Rows
    ranks: NDArray[np.uint32]
    lines: Words
    keys: Rows
    values: Words
    bits: tuple[Box, ...]
    is_on: bool

    @property
    def is_on_ipv6(self) -> bool:
        """Whether packets of IPv6 are asked about."""
        whole = self.whole[0]
        names = ("any_src", "any_dst", "has_src_ipv6", "has_dst_ipv6")
        return self.is_on and any(whole[name] for name in names)


class Points:
    """The interface and the direction of every hook point, also of those that nobody has yet."""

    def __init__(self, names: Sequence[str], directions: NDArray[np.uint8]) -> None:
        self._names = names
        self._directions = directions

    def accepted_by(self, box: Box) -> NDArray[np.bool_]:
        """Whether each point is in the box, (points,)."""
        bits = np.where(self._directions == DIRECTIONS["ingress"], 1, 2)
        accepted: NDArray[np.bool_] = (bits & box.directions) != 0
        if box.interfaces:
            named = np.zeros(len(accepted), bool)
            named[: len(self._names)] = [are_met(box.interfaces, name) for name in self._names]
            accepted &= named
        return accepted


def tables_of(
    allowed: Sequence[Box],
    rules: Iterable[Placed],
    points: Points,
    until_jiffies: Callable[[int], int],
) -> Tables:
    """The tables of *rules*, which are in their order, behind the boxes of the allow list.

    *until_jiffies* turns wall time into the kernel's ticks.

    Raises:
        RuleError: they need more boxes or ranks than there are.
    """
    made = _Making(until_jiffies)
    if allowed:
        made.allow(allowed)
    for placed in rules:
        made.add(placed)
    return made.tables(points)


def point_masks(bits: Sequence[Box], points: Points) -> Masks:
    """The part of the masks that tells hook points apart; it changes with interfaces."""
    masks = np.zeros((_size_of("point"), 2), np.uint64)
    for number, box in enumerate(bits):
        accepted = points.accepted_by(box)
        masks[: len(accepted)][accepted] |= mask(1 << number)
    return masks


class _Making:
    """Tables while rules are being added in their order."""

    def __init__(self, until_jiffies: Callable[[int], int]) -> None:
        self._until_jiffies = until_jiffies
        self._entries = np.zeros(RULE_SLOTS, dtype_from_layout(RULE_ENTRY))
        self._rank = 0
        self._bits: list[Box] = []
        self._ranks_of_bits: list[int] = []
        self._enforced = 0
        self._allowed = 0
        # By side: what stands with each prefix, and bits of boxes that ask for an address.
        self._sides = {name: Side() for name in RULE_SIDES}

    def allow(self, boxes: Sequence[Box]) -> None:
        self._rank += 1
        entry = self._entries[self._rank]
        entry["action"], entry["slot"], entry["versions"] = (
            *(RULE_ACTIONS["pass"], ALLOW_LIST_SLOT, 3),
        )
        for box in boxes:
            self._add_bit(box, is_enforced=True)
        self._allowed = len(self._bits)

    def add(self, placed: Placed) -> None:
        rule = placed.rule
        sides = [_side_alone(box) for box in placed.boxes]
        if not all(sides):
            self._add_entry(placed, versions=3)
        for box, side in zip(placed.boxes, sides, strict=True):
            if not side:
                self._add_bit(box, is_enforced=not rule.is_observed)
        for box, side in zip(placed.boxes, sides, strict=True):
            if side:
                self._add_entry(placed, versions=box.versions)
                prefixes = _prefixes(box, side)
                self._sides[side].stand(prefixes, self._rank, is_observed=rule.is_observed)

    def _add_entry(self, placed: Placed, *, versions: int) -> None:
        if self._rank + 1 >= RULE_SLOTS:
            raise RuleError(f"more than {RULE_SLOTS - 2} rules do not fit; remove some")
        self._rank += 1
        rule, entry = placed.rule, self._entries[self._rank]
        entry["until_jiffies"] = self._until_jiffies(rule.until_ns) if rule.until_ns else 0
        entry["slot"], entry["versions"] = placed.slot, versions
        entry["action"] = RULE_ACTIONS[rule.action]
        if rule.limit is not None:
            limit = rule.limit
            entry["price"] = min((_NANOSECONDS << PRICE_SHIFT) // limit.rate, _MOST)
            entry["burst_ns"] = min(limit.burst * _NANOSECONDS // limit.rate, _MOST >> 1)
            entry["unit"] = RULE_UNITS[limit.unit]
            entry["is_per_source"] = limit.per == "source"

    def _add_bit(self, box: Box, *, is_enforced: bool) -> None:
        number = len(self._bits)
        if number >= RULE_BOXES:
            raise RuleError(
                f"the rules need more than {RULE_BOXES} boxes that ask for more than an address;"
                " remove some, or list addresses in one rule"
            )
        self._bits.append(box)
        self._ranks_of_bits.append(self._rank)
        self._enforced |= is_enforced << number
        for name, side in self._sides.items():
            if getattr(box, name) is None:
                side.accept_any(number)
            else:
                side.accept(_prefixes(box, name), number)

    def tables(self, points: Points) -> Tables:
        whole = np.zeros(1, dtype_from_layout(RULE_SET))
        whole["enforced"] = _as_bytes(self._enforced)
        whole["asks"] = sum({RULE_ASKS[part] for box in self._bits for part, _ in _asked_by(box)})
        lines, keys, values = Lines(self._allowed), [], []
        found = {name: side.addresses() for name, side in self._sides.items()}
        # What is known comes first: it is looked up more often than any line behind it.
        words = {name: lines.keep(its.ipv4) for name, its in found.items()}
        for name, its in found.items():
            whole[f"any_{name}"] = lines.keep(its.elsewhere)
            whole[f"has_{name}_ipv6"] = len(its.lengths) > 0
            keys.append(keys_of(name, its.firsts, its.lengths))
            values.append(lines.keep(its.ipv6))
        for name, its in found.items():
            lines.spread(name, its.starts, words[name])
        return Tables(
            whole,
            self._masks(points),
            self._entries,
            self._ranks(),
            lines.all(),
            np.concatenate(keys),
            np.concatenate(values),
            tuple(self._bits),
            # The allow list alone refuses nothing.
            is_on=bool(self._entries["action"][self._entries["slot"] != ALLOW_LIST_SLOT].any()),
        )

    def _masks(self, points: Points) -> Masks:
        masks = np.empty((RULE_MASKS, 2), np.uint64)
        masks[:] = mask((1 << len(self._bits)) - 1)
        for number, box in enumerate(self._bits):
            for part, accepted in _asked_by(box):
                if part == "point":  # changes with interfaces
                    continue
                refused = ~_members(accepted, _size_of(part))
                part_of(masks, part)[refused] &= mask(~(1 << number))
        part_of(masks, "point")[:] = point_masks(self._bits, points)
        return masks

    def _ranks(self) -> NDArray[np.uint32]:
        ranks = np.zeros(RULE_BOXES, np.uint32)
        for number, rank in enumerate(self._ranks_of_bits):
            word, bit = divmod(number, _WORD_BITS)
            ranks[_WORD_BITS * word + _bit_place(bit)] = rank
        return ranks


def _side_alone(box: Box) -> str | None:
    """The side whose address is all that the box asks for; None: it asks for more, or nothing."""
    if _beside_addresses(box) != _NO_MORE or (box.src is None) == (box.dst is None):
        return None
    return "dst" if box.src is None else "src"


def _asked_by(box: Box) -> Iterator[tuple[str, int]]:
    """The parts of which a box does not accept every value, and what it accepts of each, as bits."""
    for part, member in _MEMBERS.items():
        accepted = getattr(box, member)
        if part == "src_port" and box.icmp != ALL_ICMP:
            yield part, box.icmp
        elif accepted != getattr(_ANYTHING, member):
            yield part, accepted
    if box.interfaces or box.directions != _ANYTHING.directions:
        yield "point", 0  # of which points is known elsewhere


def _prefixes(box: Box, side: str) -> tuple[Prefix, ...]:
    prefixes: tuple[Prefix, ...] = getattr(box, side)
    return prefixes


def _size_of(part: str) -> int:
    starts = [*RULE_PARTS.values(), RULE_MASKS]
    following = starts[list(RULE_PARTS).index(part) + 1]
    return following - RULE_PARTS[part]


def part_of(masks: Masks, part: str) -> Masks:
    """A view of the masks for the values of one part."""
    return masks[RULE_PARTS[part] :][: _size_of(part)]


@lru_cache(maxsize=256)
def _members(numbers: int, size: int) -> NDArray[np.bool_]:
    """Which of *size* numbers are in a set that is kept as bits."""
    numbers &= (1 << size) - 1
    packed = np.frombuffer(numbers.to_bytes(-(-size // 8), "little"), np.uint8)
    return np.unpackbits(packed, bitorder="little")[:size].astype(bool)


def _as_bytes(boxes: int) -> NDArray[np.void]:
    return np.frombuffer(boxes.to_bytes(16, "little"), "V16")


def _bit_place(bit: int) -> int:
    """Where the programs look for a bit that they have isolated."""
    return ((1 << bit) * _BIT_SEQUENCE & _ALL_BITS) >> _WORD_BITS - 6
