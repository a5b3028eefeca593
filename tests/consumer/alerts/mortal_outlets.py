# SPDX-License-Identifier: Apache-2.0
"""Outlets that are killed at a point of their work.

    python -m tests.consumer.alerts.mortal_outlets FOLDER URL POINT

Points: `kept`, once an alert is on disk; `begun`, once its delivery is; `sent`, once the
destination has taken it and nothing of that is on disk.
"""

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

from consumer.alerts.outlets import worker
from consumer.alerts.outlets.outlets import outlets_of
from tests.consumer.alerts.alerts import an_alert

CHANGED_NS = 1_700_000_000_000_000_000


def die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def main(folder: str, url: str, point: str) -> None:
    whole = worker.post

    async def cut(*arguments: Any) -> Any:
        if point == "begun":
            die()
        outcome = await whole(*arguments)
        assert outcome.is_taken, outcome
        die()

    worker.post = cut
    wait = 3600.0 if point == "kept" else 0.0
    entry = {"name": "pager", "type": "webhook", "url": url, "group_wait": wait}
    outlets = outlets_of({"outlet": [entry]}, Path(folder))
    await outlets.start()
    await outlets.deliver([an_alert(changed_ns=CHANGED_NS)])
    if point == "kept":
        die()
    await asyncio.sleep(60)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
