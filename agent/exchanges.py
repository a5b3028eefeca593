# SPDX-License-Identifier: Apache-2.0
"""Match DNS responses with their queries, to know how long they took.

Events of one key (addresses, ports, id, name, interface) are put in the order of their time.  A
query begins an exchange unless one is open; responses are measured from its beginning.  So a
query that is sent again counts from its first time, as its client feels it, and what an
interface shows twice, as loopback does, is measured twice.

Only times of events are used, never a clock of ours, so what was recorded long ago is measured
as well as what happens now.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from agent.keys import Keys

# Resolvers give up sooner.  Then a query with the same id is another one.
OPEN_NS = 30 * 10**9
# An exchange that was answered is only remembered for answers that are seen again.
ANSWERED_NS = 10**9
MAX_OPEN = 1 << 17


@dataclass(slots=True)
class Exchanges:
    """The exchanges that were open when events were last looked at."""

    _keys: Keys = field(default_factory=lambda: np.empty(0, np.uint64))
    _times: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    _is_response: NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, np.bool_))

    def latencies(
        self, keys: Keys, times: NDArray[np.int64], is_response: NDArray[np.bool_]
    ) -> NDArray[np.int64]:
        """For each event, nanoseconds since its exchange began; 0 for queries and strays."""
        known = len(self._keys)
        keys = np.concatenate([self._keys, keys])
        times = np.concatenate([self._times, times])
        is_response = np.concatenate([self._is_response, is_response])
        order = np.lexsort((times, keys))
        keys, times, is_response = keys[order], times[order], is_response[order]
        begun = _beginnings(keys, is_response)
        latencies = np.empty(len(order), np.int64)
        latencies[order] = np.where(is_response & (begun >= 0), times - times[begun], 0)
        self._remember(keys, times, is_response, begun)
        return latencies[known:]

    def _remember(
        self,
        keys: Keys,
        times: NDArray[np.int64],
        is_response: NDArray[np.bool_],
        begun: NDArray[np.int64],
    ) -> None:
        """Keep the beginning of each key's last exchange, and its last event where that differs."""
        if not len(keys):
            return
        is_last = np.append(keys[1:] != keys[:-1], True)
        age_ns = times.max() - times
        is_last &= (begun >= 0) & (age_ns < np.where(is_response, ANSWERED_NS, OPEN_NS))
        last = np.flatnonzero(is_last)
        kept = np.unique(np.concatenate([begun[last], last]))
        if len(kept) > MAX_OPEN:
            kept = kept[np.argsort(times[kept], kind="stable")[-MAX_OPEN:]]
        self._keys, self._times, self._is_response = keys[kept], times[kept], is_response[kept]


def _beginnings(keys: Keys, is_response: NDArray[np.bool_]) -> NDArray[np.int64]:
    """For each event, in order of key and time, where its exchange began; -1 where unknown."""
    count = len(keys)
    is_first = np.ones(count, np.bool_)
    is_first[1:] = keys[1:] != keys[:-1]
    is_beginning = ~is_response
    is_beginning[1:] &= is_first[1:] | is_response[:-1]
    places = np.arange(count)
    begun = np.maximum.accumulate(np.where(is_beginning, places, -1))
    first = np.maximum.accumulate(np.where(is_first, places, 0))
    return np.where(begun >= first, begun, -1)
