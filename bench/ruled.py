# SPDX-License-Identifier: Apache-2.0
"""Rules in force on programs that were loaded to be measured, and the lists that are in them."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from ipaddress import IPv4Network

import numpy as np

from agent.clock import KernelClock
from agent.maps import mapped_array
from agent.rules.kernel import KernelRules
from agent.rules.tables import Placed, Points, tables_of
from bench.programs import Hooks, hooks
from schemas.fields import DIRECTIONS
from schemas.rules.boxes import boxes_of
from schemas.rules.decide import in_order
from schemas.rules.rule import Rule

# The networks of a list, every second /24 from here on: so a lookup of an address between two of
# them goes as deep as one of an address in them.
FIRST = 11 << 24
DISTANCE = 512
BETWEEN = 256
# From one packet of a stream to the next, in addresses of a list.  It has no factor in common with
# powers of ten, so that all of them have their turn.
LEAP = 61_643


@cache
def listed(count: int, bits: int = 24) -> tuple[IPv4Network, ...]:
    """A list of *count* prefixes."""
    return tuple(IPv4Network((FIRST + number * DISTANCE, bits)) for number in range(count))


def enforced(name: str, match: str = "", **others: object) -> Rule:
    return Rule(name=name, match=match, **{"is_observed": False} | others)


@contextmanager
def ruled(*rules: Rule, **options: object) -> Iterator[Hooks]:
    """Programs of their own with these rules in force."""
    with hooks(**options) as loaded:
        put(loaded, rules)
        yield loaded


def put(loaded: Hooks, rules: tuple[Rule, ...]) -> None:
    pins = loaded.plan.pins
    anchor = KernelClock(pins, loaded.maps.clock).anchor()
    placed = [Placed(rule, boxes_of(rule), slot) for slot, rule in enumerate(in_order(rules), 1)]
    points = Points(["", "lo", "lo"], np.array([1, *DIRECTIONS.values(), 1], np.uint8))
    kernel = KernelRules(pins, loaded.plan.sizes, partial(mapped_array, pins))
    try:
        kernel.put(tables_of((), placed, points, anchor.jiffies_at))
    finally:
        kernel.close()
