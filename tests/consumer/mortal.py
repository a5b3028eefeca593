# SPDX-License-Identifier: Apache-2.0
"""A consumer that is killed at a point of its code: before or after it inserts, commits or sends.

    DIES="before table 1" python -m tests.consumer.mortal [as python -m consumer]

The number says which time; there are two commits for each block, of its plan and of its end, and
three tables get something of it, its rows first: it sums up even the smallest block itself.
"""

import os
import signal
import sys
from inspect import iscoroutinefunction
from typing import Any

from consumer import sink, writer
from consumer.cli import main
from consumer.membership import Membership
from consumer.quarantine import Quarantine

POINTS = {
    "table": (sink, "_insert_block"),
    "commit": (Membership, "commit"),
    "send": (Quarantine, "_send"),
}


def mortal_at(point: str, when: str, which: int) -> None:
    owner, name = POINTS[point]
    whole = getattr(owner, name)
    calls = 0

    def begin() -> bool:
        nonlocal calls
        calls += 1
        if calls == which and when == "before":
            die()
        return calls == which

    async def cut(*arguments: Any, **named: Any) -> Any:
        is_its_time = begin()
        found = await whole(*arguments, **named)
        if is_its_time:
            die()
        return found

    def cut_in_thread(*arguments: Any, **named: Any) -> None:
        is_its_time = begin()
        whole(*arguments, **named)
        if is_its_time:
            die()

    setattr(owner, name, cut if iscoroutinefunction(whole) else cut_in_thread)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    its_when, its_point, its_which = os.environ["DIES"].split()
    mortal_at(its_point, its_when, int(its_which))
    writer.SUMMED_ROWS = 1
    sys.exit(main())
