# SPDX-License-Identifier: Apache-2.0
"""The start and the end of a service: wait for what it needs, and stop its parts in reverse.

What a service needs may be started after it, so at the start it keeps asking until the deadline;
afterwards the parts themselves know what to retry.
"""

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from time import monotonic
from typing import Any, TypeVar

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 2.0
CLOSE_TIMEOUT_S = 15.0

T = TypeVar("T")
log = logging.getLogger(__name__)


class StartError(Exception):
    """A part could not be started, or stayed away for too long; the text is one line."""


class Stopped(Exception):  # noqa: N818  # it is no error
    """We were asked to stop before we had started."""


def until_signal() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


class Parts(AsyncExitStack):
    """What has been started, to be stopped in reverse, each within a deadline."""

    closed = True

    def stop_with(self, name: str, stop: Callable[[], Awaitable[Any]]) -> None:
        self.push_async_callback(self._stop, name, stop)

    async def _stop(self, name: str, stop: Callable[[], Awaitable[Any]]) -> None:
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await stop()
        except TimeoutError:
            self.closed = False
            log.warning("part does not stop", extra={"part": name, "deadline_s": CLOSE_TIMEOUT_S})


class Start:
    """The time that the start may take, ended early when we are asked to stop."""

    def __init__(
        self, stop: asyncio.Event, timeout_s: float, unavailable: tuple[type[Exception], ...]
    ) -> None:
        """*unavailable* are the errors that pass once a part is there."""
        self._stop = stop
        self._timeout_s = timeout_s
        self._unavailable = unavailable
        self._deadline = monotonic() + timeout_s

    async def until_available(self, what: str, attempt: Callable[[], Awaitable[T]]) -> T:
        """The result of *attempt*, repeated while *what* is unavailable."""
        pause_s = FIRST_PAUSE_S
        reason = "it does not answer"
        while self._left() > 0:
            try:
                return await self.within(what, attempt(), reason)
            except self._unavailable as error:
                if reason != str(error):
                    log.warning("waiting", extra={"part": what, "reason": str(error)})
                reason = str(error)
            await self._pause(min(pause_s, self._left()))
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        raise self._too_late(what, reason)

    async def within(
        self, what: str, awaited: Awaitable[T], reason: str = "it does not answer"
    ) -> T:
        """The result of *awaited*, unless the time runs out or we are asked to stop."""
        task = asyncio.ensure_future(awaited)
        stopping = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait(
            {task, stopping}, timeout=self._left(), return_when=asyncio.FIRST_COMPLETED
        )
        stopping.cancel()
        if task.done():
            return task.result()
        task.cancel()
        if self._stop.is_set():
            raise Stopped
        raise self._too_late(what, reason)

    def _too_late(self, what: str, reason: str) -> StartError:
        return StartError(f"{what} is not available after {self._timeout_s:g} s: {reason}")

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        except TimeoutError:
            return
        raise Stopped

    def _left(self) -> float:
        return max(0.0, self._deadline - monotonic())
