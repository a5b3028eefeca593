# SPDX-License-Identifier: Apache-2.0
"""The lines of addresses tell of each address what all prefixes around it say."""

import random

import numpy as np
import pytest

from agent.rules.addresses import Addresses, Side
from agent.rules.lines import MOST_LINES, Lines, Words
from schemas.dtype import dtype_from_layout
from schemas.refusal import LINE_WORDS, RULE_KNOWN, RULE_WORDS
from schemas.rules.intervals import Prefix, last_of
from schemas.rules.rule import RuleError

MAPPED = 0xFFFF << 32


def known_of(lines: Words, side: str, address: int) -> tuple[int, int, int]:
    """As the programs look an address of IPv4 up: boxes, and the ranks of either kind."""
    words = lines.reshape(-1)
    word = int(words[("src", "dst").index(side) << 16 | address >> 16])
    for shift in (12, 8, 4, 0):
        if word & RULE_WORDS["is_line"]:
            line = word & MOST_LINES - 1
            word = int(words[line * LINE_WORDS + (address >> shift & 15)])
    assert not word & RULE_WORDS["is_line"]
    if not word:
        return 0, 0, 0
    row = lines[word & MOST_LINES - 1].tobytes()
    boxes, *ranks = np.frombuffer(row, dtype_from_layout(RULE_KNOWN), 1)[0]
    assert bool(word & RULE_WORDS["has_boxes"]) == any(bytes(boxes))
    assert bool(word & RULE_WORDS["has_ranks"]) == any(ranks)
    return int.from_bytes(bytes(boxes), "little"), *map(int, ranks)


def a_prefix(draw: random.Random) -> Prefix:
    """One of IPv4, many of which are in each other."""
    length = draw.choice((96, 97, 104, 111, 112, 113, 118, 120, 124, 125, 127, 128, 128))
    first = (
        MAPPED | draw.choice((0, 10, 255)) << 24 | draw.choice((0, 1)) << 16 | draw.randrange(600)
    )
    return first >> 128 - length << 128 - length, length


def spread(found: Addresses, lines: Lines, side: str = "src") -> Words:
    lines.spread(side, found.starts, lines.keep(found.ipv4))
    return lines.all()


@pytest.mark.parametrize("seed", range(4))
def test_an_address_is_known_by_all_prefixes_around_it(seed):
    draw = random.Random(seed)
    side, asked = Side(), []
    for rank in range(1, 40):
        prefixes = tuple(a_prefix(draw) for _ in range(draw.randrange(1, 4)))
        kind = draw.choice(("box", "enforced", "observed"))
        asked += [(prefix, kind, rank) for prefix in prefixes]
        if kind == "box":
            side.accept(prefixes, rank)
        else:
            side.stand(prefixes, rank, is_observed=kind == "observed")
    side.accept_any(100)
    lines = spread(side.addresses(), Lines())
    edges = [edge for prefix, *_ in asked for edge in (prefix[0] - 1, prefix[0], last_of(prefix))]
    for address in {edge for edge in edges if edge >> 32 == 0xFFFF} | {MAPPED | 5 << 24}:
        around = [one for one in asked if one[0][0] <= address <= last_of(one[0])]
        boxes = {rank for _, kind, rank in around if kind == "box"} | {100}
        ranks = [
            min((rank for _, its, rank in around if its == kind), default=0)
            for kind in ("enforced", "observed")
        ]
        wanted = (sum(1 << number for number in boxes), *ranks)
        assert known_of(lines, "src", address & 0xFFFF_FFFF) == wanted


def test_what_is_around_ipv4_holds_for_ipv4_and_what_is_beside_it_does_not():
    side = Side()
    side.stand(((0, 1), (MAPPED | 10 << 24, 104)), 7, is_observed=False)
    side.stand(((0x2001 << 112, 16),), 8, is_observed=False)
    side.stand(((0, 2), (0x2001 << 112, 32)), 3, is_observed=True)
    found = side.addresses()
    lines = spread(found, Lines(), "dst")
    assert known_of(lines, "dst", 10 << 24) == known_of(lines, "dst", 99) == (0, 7, 3)
    assert found.lengths.tolist() == [1, 2, 16, 32]
    assert found.ipv6.rows()["enforced"].tolist() == [7, 7, 7, 7]
    assert found.ipv6.rows()["observed"].tolist() == [0, 3, 3, 3]
    assert bytes(found.firsts[3]) == bytes([0x20, 1]) + bytes(14)


def test_sides_share_lines_and_what_nobody_asks_for_is_a_word_of_zeros():
    lines = Lines()
    for name in ("src", "dst"):
        side = Side()
        side.stand(((MAPPED | 10 << 24, 128),), 7, is_observed=False)
        found = spread(side.addresses(), lines, name)
    assert known_of(found, "src", 10 << 24) == known_of(found, "dst", 10 << 24) == (0, 7, 0)
    assert known_of(found, "src", 11 << 24) == known_of(found, "dst", (10 << 24) + 1) == (0, 0, 0)
    assert not found.reshape(-1)[11 << 8]


def test_a_list_takes_at_most_four_lines_an_address():
    draw = np.random.default_rng(1)
    starts = np.unique(np.append(draw.integers(0, 1 << 32, 100_000, np.uint64), np.uint64(0)))
    words = (np.arange(len(starts)) % 2).astype(np.uint32)
    lines = Lines()
    lines.spread("src", starts, words)
    assert len(lines.all()) < 8192 + 4 * 100_000


def test_lists_that_take_too_much_memory_are_refused_with_what_to_do(monkeypatch):
    monkeypatch.setattr("agent.rules.lines.MOST_LINES", 2 * (1 << 16) // LINE_WORDS + 3)
    lines, starts = Lines(), np.array([0, 77], np.uint64)
    lines.spread("src", starts[:1], np.zeros(1, np.uint32))

    with pytest.raises(RuleError, match=r"the addresses of all rules need .* MB .*; put networks"):
        lines.spread("src", starts, np.array([0, 1], np.uint32))
