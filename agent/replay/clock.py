# SPDX-License-Identifier: Apache-2.0
"""The clock of a capture: it stands at the end of the interval whose packets are being fed."""

from agent.clock import Anchor
from agent.plan import REPLAY_TICK_NS
from agent.rows import Rows


class CaptureClock:
    """Takes anchors as the kernel's clock does; all three clocks show the capture's wall time."""

    def __init__(self, shared: Rows, *, interval_ns: int) -> None:
        self._shared = shared
        self._interval_ns = interval_ns
        self.end_ns = 0

    def go_to(self, time_ns: int) -> int:
        """Stand at the end of the interval in which *time_ns* is; returns when it started."""
        start_ns = time_ns // self._interval_ns * self._interval_ns
        self.end_ns = start_ns + self._interval_ns
        return start_ns

    def anchor(self) -> Anchor:
        # A tick is taken for its end, but what is noted here of a time is exactly that: so the
        # tick of the anchor is the one behind it.
        jiffies = self.end_ns // REPLAY_TICK_NS + 1
        return Anchor(jiffies, self.end_ns, self.end_ns, REPLAY_TICK_NS)

    def begin_interval(self) -> None:
        """What comes from here on belongs to a new interval: no packet is being counted now."""
        self._shared["interval_jiffies"][0] = self.end_ns // REPLAY_TICK_NS & 0xFFFFFFFF
