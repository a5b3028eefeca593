# SPDX-License-Identifier: Apache-2.0
"""Wait for what passes by itself: pauses that grow, and one log line in a while."""

import asyncio
import logging

from service.logs import RateLimit

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 10.0
# Several tables and Kafka may be away at once; one line says enough.
LOG_EVERY_S = 10.0

log = logging.getLogger(__name__)
log.addFilter(RateLimit(LOG_EVERY_S))


class Patience:
    """The pauses between attempts at one thing; *event* is what the log calls a failed one."""

    def __init__(self, event: str, **fields: object) -> None:
        self._event = event
        self._fields = fields
        self._pause_s = FIRST_PAUSE_S

    async def rest(self, reason: str) -> None:
        """Pause after an attempt that failed because of *reason*."""
        log.warning(self._event, extra={**self._fields, "reason": reason})
        await asyncio.sleep(self._pause_s)
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
