# SPDX-License-Identifier: Apache-2.0
"""Show how far something has come, in one line of the terminal, once it takes long."""

import sys
import time
from typing import Self, TextIO

PATIENCE_S = 2.0
_REFRESH_S = 0.2


class Progress:
    """A line `what: 45 %` on standard error from `__enter__` to `__exit__`, which clears it.

    Nothing is shown where nobody sees it, nor before `PATIENCE_S` are over.
    """

    def __init__(self, what: str, total: int, *, out: TextIO | None = None) -> None:
        self._what = what
        self._total = total
        self._out = sys.stderr if out is None else out
        self._done = 0
        self._is_shown = False
        self._next = time.monotonic() + PATIENCE_S

    def add(self, count: int) -> None:
        """So much more is done."""
        self._done += count
        if (now := time.monotonic()) < self._next or not self._out.isatty():
            return
        self._next = now + _REFRESH_S
        self._is_shown = True
        percent = 100 * self._done // max(self._total, 1)
        self._out.write(f"\r{self._what}: {min(percent, 100)} %\x1b[K")
        self._out.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_shown:
            self._out.write("\r\x1b[K")
            self._out.flush()
