# SPDX-License-Identifier: Apache-2.0
"""Wait for what must come, with a deadline that says what did not."""

import time
from collections.abc import Callable
from typing import TypeVar

_POLL_S = 0.02

T = TypeVar("T")


def wait_until(look: Callable[[], T | None], what: str, deadline_s: float = 60.0) -> T:
    """What *look* returns as soon as that is true."""
    deadline = time.monotonic() + deadline_s
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(_POLL_S)
    raise AssertionError(f"waited {deadline_s:g} s in vain for {what}")
