# SPDX-License-Identifier: Apache-2.0
"""When an outlet may send again: a rate limit, and pauses that grow after failures."""

import random

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 300.0


class Bucket:
    """Tokens, *per_minute* more a minute up to *burst*; each request takes one."""

    def __init__(self, per_minute: float, burst: int, now: float) -> None:
        self._per_s = per_minute / 60
        self._burst = float(burst)
        self._tokens = self._burst
        self._at = now

    def tokens(self, now: float) -> int:
        """How many requests may be made now."""
        self._tokens = min(self._burst, self._tokens + max(0.0, now - self._at) * self._per_s)
        self._at = now
        return int(self._tokens + 1e-9)  # so that the wait below always suffices

    def take(self) -> None:
        self._tokens -= 1

    def wait_s(self) -> float:
        """Until there is a token."""
        return max(0.0, (1 - self._tokens) / self._per_s)


def pause_s(failures: int, asked_s: float | None, chance: random.Random) -> float:
    """How long to rest after so many failures in a row; *asked_s* is what the server wants.

    A half of it is chance, so that many who lost one server do not come back to it at once.
    """
    grown = min(FIRST_PAUSE_S * 2 ** min(failures - 1, 20), LONGEST_PAUSE_S)
    own = grown / 2 + chance.random() * grown / 2
    return own if asked_s is None else max(asked_s, own if failures > 1 else 0.0)
