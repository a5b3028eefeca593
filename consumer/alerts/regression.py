# SPDX-License-Identifier: Apache-2.0
"""Values that get worse than they used to be: one baseline for each of many keys.

What is measured of a key is averaged over steps of some seconds.  Of the steps before there is an
exponentially weighted mean and variance (Finch, 2009).  A step is worse when it is beyond a multiple
of the mean, and beyond so many standard deviations, and two of them in a row are a regression.  What
is worse is learned ten times more slowly, so a regression does not become ordinary at once, and does
in the end.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from consumer.alerts.sketches import Keys, Places, Values

_WORSE_WEIGHT = 0.1


@dataclass(frozen=True, slots=True)
class Worse:
    """Keys that are worse, by their place among those given, and how much."""

    at: NDArray[np.intp]
    values: Values
    means: Values


class Regression:
    """Baselines of up to 4 x *sets* keys.

    *factor* above 1 looks for values that rise to so much of the mean, below 1 for those that fall.
    A step counts with *least_weight*, a key once it has had *history* steps, and *memory* of them
    make the mean.
    """

    def __init__(
        self,
        *,
        sets: int,
        step_s: float,
        factor: float,
        sigmas: float,
        least_weight: float,
        history: int,
        memory: int,
        in_a_row: int = 2,
    ) -> None:
        self._step_s = step_s
        self._factor = factor
        self._sigmas = sigmas
        self._least_weight = least_weight
        self._history = history
        self._memory = memory
        self._in_a_row = in_a_row
        self._places = Places(sets, keep_s=memory * step_s)
        count = len(self._places)
        self._steps = np.zeros(count)
        self._sums = np.zeros((count, 2))
        # Steps that were learned, mean, variance, worse ones in a row.
        self._past = np.zeros((count, 4))

    @property
    def size_bytes(self) -> int:
        return self._steps.nbytes + self._sums.nbytes + self._past.nbytes + 16 * len(self._places)

    def add(self, keys: Keys, amounts: Values, weights: Values, now: float) -> Worse:
        """Add to the current step of *keys*, which differ; those whose last step was worse."""
        places, is_new = self._places.of(keys, now)
        at = np.flatnonzero(places >= 0)
        places, is_new = places[at], is_new[at]
        step = np.floor(now / self._step_s)
        self._steps[places[is_new]] = step
        self._sums[places[is_new]] = 0
        self._past[places[is_new]] = 0
        is_over = self._steps[places] < step
        worse = self._finish(at[is_over], places[is_over])
        self._steps[places] = step
        self._sums[places] += np.column_stack([amounts[at], weights[at]])
        return worse

    def _finish(self, at: NDArray[np.intp], places: NDArray[np.intp]) -> Worse:
        sums, self_sums = self._sums[places], self._sums
        is_enough = sums[:, 1] >= self._least_weight
        self_sums[places] = 0
        at, places, sums = at[is_enough], places[is_enough], sums[is_enough]
        values = sums[:, 0] / sums[:, 1]
        learned, means, variances, beyond = self._past[places].T
        is_worse = (learned >= self._history) & self._is_worse(values, means, variances)
        beyond = np.where(is_worse, beyond + 1, 0)
        weight = np.maximum(1 / (learned + 1), 1 / self._memory)
        weight = np.where(is_worse, weight * _WORSE_WEIGHT, weight)
        change = values - means
        self._past[places] = np.column_stack(
            [
                learned + 1,
                means + weight * change,
                (1 - weight) * (variances + weight * change * change),
                beyond,
            ]
        )
        is_told = beyond >= self._in_a_row
        return Worse(at[is_told], values[is_told], means[is_told])

    def _is_worse(self, values: Values, means: Values, variances: Values) -> NDArray[np.bool_]:
        margins = self._sigmas * np.sqrt(variances)
        if self._factor > 1:
            return np.asarray((values >= self._factor * means) & (values >= means + margins))
        return np.asarray((values <= self._factor * means) & (values <= means - margins))
