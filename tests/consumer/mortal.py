# SPDX-License-Identifier: Apache-2.0
"""A consumer that is killed at a point of its code: before or after it inserts, commits or sends.

    DIES="before insert 1" python -m tests.consumer.mortal [as python -m consumer]

The number says which time; there are two commits for each block, of its plan and of its end.
"""

import os
import signal
import sys
from typing import Any

from consumer.cli import main
from consumer.membership import Membership
from consumer.quarantine import Quarantine
from consumer.sink import Sink

POINTS = {
    "insert": (Sink, "insert"),
    "commit": (Membership, "commit"),
    "send": (Quarantine, "_send"),
}


def mortal_at(point: str, when: str, which: int) -> None:
    owner, name = POINTS[point]
    whole = getattr(owner, name)
    calls = 0

    async def cut(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        is_its_time = calls == which
        if is_its_time and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        found = await whole(*arguments, **named)
        if is_its_time:
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    setattr(owner, name, cut)


if __name__ == "__main__":
    its_when, its_point, its_which = os.environ["DIES"].split()
    mortal_at(its_point, its_when, int(its_which))
    sys.exit(main())
