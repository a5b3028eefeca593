# SPDX-License-Identifier: Apache-2.0
"""Take turns: machines like ours change their speed within seconds, and all must see both.

Every round runs every variant once, in an order that alternates.  What is compared is compared
within a round; what is reported is the median over rounds with its quartiles.
"""

from collections.abc import Callable, Hashable, Mapping
from statistics import quantiles

Samples = dict[Hashable, list[float]]
Cell = dict[str, float]


def interleave(variants: Mapping[Hashable, Callable[[], float]], rounds: int) -> Samples:
    """*rounds* results of each of *variants*; one round before them is thrown away."""
    samples: Samples = {name: [] for name in variants}
    order = list(variants)
    for number in range(-1, rounds):
        for name in order:
            found = variants[name]()
            if number >= 0:
                samples[name].append(found)
        order.reverse()
    return samples


def net(samples: Samples, name: Hashable, baseline: Hashable) -> list[float]:
    """What *name* took above *baseline*, round by round."""
    return [a - b for a, b in zip(samples[name], samples[baseline], strict=True)]


def ratio(samples: Samples, name: Hashable, baseline: Hashable) -> list[float]:
    """How many times *baseline* it was, round by round."""
    return [a / b for a, b in zip(samples[name], samples[baseline], strict=True)]


def cell(values: list[float], digits: int | None = None) -> Cell:
    """The median of *values* with its quartiles, and of how many it is."""
    low, middle, high = quantiles(values, n=4, method="inclusive")
    names = ("median", "low", "high")
    found = dict(zip(names, (round(one, digits) for one in (middle, low, high)), strict=True))
    return found | {"rounds": len(values)}


def table(title: str, columns: list[str], rows: list[list[object]], note: str = "") -> dict:
    """What a subject's result is made of, and the report shows.

    Of how many rounds its cells are is said once, as the least and the most.
    """
    counts = [one["rounds"] for row in rows for one in row if isinstance(one, dict)]
    rounds = [min(counts), max(counts)] if counts else []
    return {"title": title, "columns": columns, "rows": rows, "note": note, "rounds": rounds}
