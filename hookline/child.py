# SPDX-License-Identifier: Apache-2.0
"""Run one of our services as a child that cannot outlive us.

The child's log goes to a file.  What it says at level warning or above, and what it says before
it is ready or as it ends, is for the human too.
"""

import asyncio
import os
import re
import sys
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from service.secrets import without_passwords

# A log line of service/logs.py: time, level, phrase and fields.
_EVENT = re.compile(r"\S+Z (?P<level>[a-z]+) (?P<text>.*)")
_KILL_AFTER_SECONDS = 10.0


class ChildError(Exception):
    """A child ended that should have run on; the text is its last word."""

    def __init__(self, text: str, *, code: int) -> None:
        super().__init__(text)
        self.code = code


class Child:
    """One service, from its start to its end."""

    def __init__(self, name: str, log_path: Path, tell: Callable[[str], None]) -> None:
        self.name = name
        self._log_path = log_path
        self._tell = tell
        self._ready = asyncio.Event()
        self._last_words: deque[str] = deque(maxlen=1)
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self, arguments: Sequence[str]) -> None:
        """Start `python -m NAME` and return when it has said that it is ready.

        Raises:
            ChildError: it ended before.
        """
        self._process = await asyncio.create_subprocess_exec(
            # On SIGTERM it detaches and closes its files, so nothing of ours outlives our SIGKILL.
            *("setpriv", "--pdeathsig", "TERM", "--"),
            *(sys.executable, "-m", self.name, *arguments),
            # All of it is on loopback.
            env=without_passwords(os.environ),
            stdin=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            # Ctrl-C is for us: we stop the services in their order.
            start_new_session=True,
        )
        self._reader = asyncio.create_task(self._read())
        ready = asyncio.create_task(self._ready.wait())
        await asyncio.wait({ready, self._reader}, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if not self._ready.is_set():
            raise await self.ended()

    async def ended(self) -> ChildError:
        """Wait until the child has ended; what to say of it."""
        if self._process is None or self._reader is None:
            return ChildError(f"{self.name} was not started", code=1)
        # Who waits for the end may be cancelled; the reader reads on.
        await asyncio.shield(self._reader)
        code = await self._process.wait()
        if code < 0:
            text = f"{self.name} was killed by signal {-code}"
        elif self._last_words:
            text = self._last_words[-1]
        else:
            text = f"{self.name} ended with {code}"
        return ChildError(text, code=code if code > 0 else 1)

    async def stop(self, deadline_seconds: float) -> int:
        """Ask the child to stop, and end it when it has not after the deadline; its exit code."""
        if self._process is None:
            return 0
        if self._process.returncode is None:
            self._process.terminate()
        try:
            async with asyncio.timeout(deadline_seconds + _KILL_AFTER_SECONDS):
                code = await self._process.wait()
        except TimeoutError:
            self._tell(f"{self.name} does not stop; ending it")
            self._process.kill()
            code = await self._process.wait()
        if self._reader is not None:
            await self._reader
        return code

    async def _read(self) -> None:
        if self._process is None or self._process.stderr is None:
            return
        if self._log_path.exists():
            # The run before may have ended for a reason that is still looked for.
            self._log_path.replace(self._log_path.with_suffix(".log.1"))
        with self._log_path.open("w") as log:
            async for line in self._process.stderr:
                text = line.decode(errors="replace").rstrip("\n")
                log.write(text + "\n")
                log.flush()
                self._hear(text)

    def _hear(self, text: str) -> None:
        event = _EVENT.fullmatch(text)
        said = event["text"] if event else text
        if said.startswith(f"{self.name} ready"):
            self._ready.set()
        elif event is None:
            # Not a log line: a plain word to a human, as services end with.
            self._last_words.append(said.removeprefix(f"{self.name}: "))
        elif event["level"] in ("warning", "error", "critical"):
            self._tell(f"{self.name}: {said}")
