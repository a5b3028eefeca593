# SPDX-License-Identifier: Apache-2.0
"""Run a single-node Apache Kafka for as long as this process lives.

Broker and controller share one JVM (KRaft), listen on loopback only and keep everything in one
directory: a second start there continues where the first one ended.  The JVM is a child that
cannot outlive us: the kernel kills it when the thread that started it ends.
"""

import asyncio
import contextlib
import fcntl
import os
import re
import signal
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self, TextIO

from hookline.broker_files import LOOPBACK, Ports, Retention, write_files
from hookline.jvm import java_command
from service.secrets import without_options

START_DEADLINE_S = 60.0  # a cold disk and a busy machine; two seconds are usual
STOP_DEADLINE_S = 15.0
# The kernel may still be ending the broker of a parent that was killed a moment ago.
LOCK_DEADLINE_S = 2.0
POLL_S = 0.02

# ApiVersions v0: size, api key 18, version 0, correlation id 1, no client id.
API_VERSIONS_REQUEST = struct.pack(">ihhih", 10, 18, 0, 1, -1)


class KafkaError(Exception):
    """The broker did not start; the text is one line and names the remedy where there is one."""


@dataclass(slots=True)
class Kafka:
    """One embedded broker: `async with Kafka(directory) as kafka: ... kafka.bootstrap`.

    *port* 0 takes a free one, which is known after the start.  *partitions* is how many a topic
    gets that nobody created explicitly.  *settings* are the broker's own, and win over ours.
    """

    directory: Path
    port: int = 0
    partitions: int = 1
    retention: Retention = field(default_factory=Retention)
    archive_flags: tuple[str, ...] = ()
    settings: Mapping[str, object] = field(default_factory=dict)
    _process: asyncio.subprocess.Process | None = None
    _claim: socket.socket | None = None

    @property
    def bootstrap(self) -> str:
        """The address for clients: host and port."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int:
        return self._running().pid

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self, deadline_s: float = START_DEADLINE_S) -> None:
        """Start the JVM and return when the broker answers.

        Call it from the thread that lives as long as the broker should, usually the main one.
        Raises: KafkaError, JavaError; nothing is left running then.
        """
        command = java_command(*self.archive_flags)
        self.port = self.port or free_port()
        refuse_taken(self.port)
        self._claim = self._claim or claimed(self.port)
        try:
            with await self._hold_directory() as lock:
                self._write_files()
                self._process = await self._spawn(command, lock)
        except BaseException:
            self._end()
            raise
        try:
            async with asyncio.timeout(deadline_s):
                await self._until_it_answers()
        except TimeoutError:
            await self._kill()
            raise KafkaError(
                f"kafka did not answer on {self.bootstrap} within {deadline_s:g} s: "
                f"{self._last_words()}"
            ) from None
        except BaseException:
            await self._kill()
            raise

    async def stop(self, deadline_s: float = STOP_DEADLINE_S) -> None:
        """Let the broker close its logs; kill it when that takes longer than *deadline_s*."""
        if self._process is None:
            return
        # It may have exited on its own, which is for `wait` to tell.
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(deadline_s):
                await self._process.wait()
        except TimeoutError:
            await self._kill()
        self._end()

    async def wait(self) -> str:
        """Return when the JVM has exited, with one line that says why."""
        code = await self._running().wait()
        return f"kafka exited with {code}: {self._last_words()}"

    def _running(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise KafkaError("kafka is not running")
        return self._process

    async def _hold_directory(self) -> TextIO:
        """Lock the directory through a file that the JVM inherits, so until it has ended."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            lock = (self.directory / "lock").open("w")
        except OSError as error:
            raise KafkaError(f"cannot write {error.filename}: {error.strerror}") from None
        try:
            async with asyncio.timeout(LOCK_DEADLINE_S):
                while not is_locked_by_us(lock):
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            lock.close()
            raise KafkaError(f"another broker is running in {self.directory}") from None
        return lock

    def _write_files(self) -> None:
        ports = Ports(broker=self.port, controller=free_port())
        try:
            write_files(
                self.directory,
                ports=ports,
                partitions=self.partitions,
                retention=self.retention,
                settings=self.settings,
            )
        except OSError as error:
            raise KafkaError(f"cannot write {error.filename}: {error.strerror}") from None

    async def _spawn(self, command: list[str], lock: TextIO) -> asyncio.subprocess.Process:
        with (self.directory / "kafka.out").open("wb") as out:
            return await asyncio.create_subprocess_exec(
                *command,
                cwd=self.directory,
                env=without_options(os.environ),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                pass_fds=(lock.fileno(),),
                # Ctrl-C is for us: we stop the broker after those who still write to it.
                start_new_session=True,
            )

    async def _until_it_answers(self) -> None:
        while not await answers(self.port):
            if self._running().returncode is not None:
                raise KafkaError(await self.wait())
            await asyncio.sleep(POLL_S)

    async def _kill(self) -> None:
        process = self._running()
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        self._end()

    def _end(self) -> None:
        self._process = None
        if self._claim is not None:
            self._claim.close()
            self._claim = None

    def _last_words(self) -> str:
        # What the JVM itself prints comes before what its logging writes.
        said = [read_text(self.directory / name) for name in ("kafka.out", "kafka.0.log")]
        return telling_line(said[0]) or telling_line(said[1]) or f"see {self.directory}"


async def answers(port: int) -> bool:
    """Tell whether a Kafka broker on *port* of loopback answers an ApiVersions request."""
    try:
        reader, writer = await asyncio.open_connection(LOOPBACK, port)
    except OSError:
        return False
    try:
        writer.write(API_VERSIONS_REQUEST)
        return len(await reader.readexactly(8)) == 8
    except (OSError, asyncio.IncompleteReadError):
        return False
    finally:
        writer.close()


def claimed(port: int) -> socket.socket:
    """Tell other brokers of ours that this port is taken, seconds before the JVM listens on it.

    They would take its answers for those of their own.  A name of a Unix socket without a file is as
    good as a port: it belongs to the network namespace, and goes with whoever has it.
    Raises: KafkaError when another has it.
    """
    claim = socket.socket(socket.AF_UNIX)
    try:
        claim.bind(f"\0hookline-kafka-{port}")
    except OSError as error:
        claim.close()
        raise KafkaError(
            f"cannot listen on {LOOPBACK}:{port} ({error.strerror}): choose another port"
        ) from None
    return claim


def refuse_taken(port: int) -> None:
    """Raises: KafkaError when something listens on *port* of loopback already."""
    with socket.socket() as probe:
        # As the broker does: connections that linger from an earlier run do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            raise KafkaError(
                f"cannot listen on {LOOPBACK}:{port} ({error.strerror}): choose another port"
            ) from None


def is_locked_by_us(lock: TextIO) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def read_text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return ""


def telling_line(log: str) -> str:
    """Pick what a person wants to read: the innermost cause of the last error, else the end."""
    causes = re.findall(r"^(?:Caused by: )?[\w.$]+(?:Exception|Error): (.+)$", log, re.MULTILINE)
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return next(iter([*causes[-1:], *lines[-1:]]), "")
