# SPDX-License-Identifier: Apache-2.0
"""When to look at the event buffers next.

Each look takes a CPU from somebody for some tenth of a millisecond, mostly to find nothing.  So an
agent whose buffers fill slowly looks less often: it still empties them long before they are full,
since the usual 4 MiB hold some 30,000 events, and is back at its pace with the first look that
finds more.
"""

import time

POLL_SECONDS = 0.02
QUIET_SECONDS = 0.05
# Of a buffer: what one look may find for the next to have time.
LITTLE_SHARE = 1 / 64
_BREATH_SECONDS = 50e-6


def pause(*, is_quiet: bool, until_due: float) -> float:
    """Seconds until the next look, which is no later than the interval's end is due.

    One that is overdue could not be told, and is tried again at the usual pace.
    """
    if until_due <= 0:
        return POLL_SECONDS
    return min(QUIET_SECONDS if is_quiet else POLL_SECONDS, until_due)


def breathe() -> None:
    """Let others have the CPU for a moment, amid what has to be done in one go.

    The kernel lets whoever runs go on for some milliseconds; who sleeps has left it at once, on any
    kernel and whatever its priority is.
    """
    time.sleep(_BREATH_SECONDS)
