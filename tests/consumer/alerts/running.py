# SPDX-License-Identifier: Apache-2.0
"""Outlets that run for the length of a block, and a destination for them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from prometheus_client import CollectorRegistry

from consumer.alerts.outlets import worker
from consumer.alerts.outlets.outlets import Outlets, outlets_of
from tests.consumer.alerts.receiver import DEADLINE_S, Receiver


def a_webhook(receiver: Receiver, **options: Any) -> dict[str, Any]:
    url = f"{receiver.url}/hook"
    return {"name": "pager", "type": "webhook", "url": url, "group_wait": 0.0, **options}


class Running:
    """Outlets, and their numbers."""

    def __init__(self, outlets: Outlets, registry: CollectorRegistry) -> None:
        self.outlets = outlets
        self.deliver = outlets.deliver
        self._registry = registry

    def count(self, name: str, outlet: str = "pager") -> float:
        value = self._registry.get_sample_value(f"alert_outlet_{name}", {"outlet": outlet})
        assert value is not None
        return value

    async def until(self, name: str, value: float) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while self.count(name) != value:
                await asyncio.sleep(0.01)


@asynccontextmanager
async def running(folder: Path, *entries: dict[str, Any]) -> AsyncIterator[Running]:
    """Outlets of these *entries*; a pause that a destination does not ask for is over at once."""
    registry = CollectorRegistry()
    outlets = outlets_of({"outlet": list(entries)}, folder, registry)
    with mock.patch.object(worker, "pause_s", _impatient):
        await outlets.start()
        try:
            yield Running(outlets, registry)
            assert outlets.failure() is None
        finally:
            await outlets.stop()


def _impatient(failures: int, asked_s: float | None, chance: object) -> float:
    return 0.01 if asked_s is None else asked_s
