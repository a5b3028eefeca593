# SPDX-License-Identifier: Apache-2.0
"""Start the parts of a consumer, run its pipeline, stop the parts in reverse.

ClickHouse comes first: it is migrated, and in embedded mode it answers queries even while
Kafka is away.  Both may be started after us, so at the start we keep asking for them until the
deadline; afterwards the parts themselves know what to retry.
"""

import asyncio
import logging
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar
from urllib.parse import urlsplit

from consumer.config import CLIENT_ID, Config
from consumer.metrics import Metrics
from consumer.migrations import migrate
from consumer.pipeline import Pipeline
from consumer.quarantine import Quarantine
from consumer.sink import Sink, SinkError, SinkUnavailable
from consumer.source import Positions, Source, create_topics
from schemas import dead_letter
from schemas.catalogue import RECORDS
from service.broker import BrokerUnavailable
from service.logs import quiet_kafka_client
from service.options import host_and_port
from service.reach import reach

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 2.0
CLOSE_TIMEOUT_S = 15.0

T = TypeVar("T")
log = logging.getLogger(__name__)


class StartError(Exception):
    """A part could not be started, or stayed away for too long; the text is one line."""


class Stopped(Exception):  # noqa: N818  # it is no error
    """We were asked to stop before we had started."""


async def serve(config: Config) -> bool:
    """Run until SIGTERM or SIGINT; False where not everything could be stored or closed."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    parts = Parts()
    try:
        async with parts:
            stored = await _run(config, stop, parts)
    except Stopped:
        stored = True
    return stored and parts.closed


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

    def __init__(self, stop: asyncio.Event, timeout_s: float) -> None:
        self._stop = stop
        self._timeout_s = timeout_s
        self._deadline = monotonic() + timeout_s

    async def until_available(self, what: str, attempt: Callable[[], Awaitable[T]]) -> T:
        """The result of *attempt*, repeated while *what* is unavailable."""
        pause_s = FIRST_PAUSE_S
        reason = "it does not answer"
        while self._left() > 0:
            try:
                return await self.within(what, attempt(), reason)
            except (BrokerUnavailable, SinkUnavailable) as error:
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


async def _run(config: Config, stop: asyncio.Event, parts: Parts) -> bool:
    start = Start(stop, config.start_timeout)
    metrics = Metrics(RECORDS)
    if config.metrics_listen:
        metrics.listen(*host_and_port(config.metrics_listen, "metrics_listen"))
    sink = await _open_clickhouse(config, start, parts)
    dead_letters = Quarantine(config.broker(CLIENT_ID).connection())
    pipeline = Pipeline(
        sink,
        dead_letters,
        metrics,
        kinds=RECORDS,
        max_rows=config.max_rows,
        max_age_s=config.max_age,
    )
    source = _source(config, pipeline, metrics)
    await _open_kafka(config, dead_letters, source, start, parts)
    sys.stderr.write(f"consumer ready: {config.kafka} -> {config.clickhouse.masked}\n")
    return await pipeline.run(source, stop, stop_timeout_s=config.stop_timeout)


async def _open_clickhouse(config: Config, start: Start, parts: Parts) -> Sink:
    sink = Sink(config.clickhouse, server=config.server())
    parts.stop_with("clickhouse", partial(asyncio.to_thread, sink.close))
    tables = [record.table for record in RECORDS]
    await start.until_available(
        f"clickhouse at {config.clickhouse.masked}",
        partial(asyncio.to_thread, sink.connect, tables),
    )
    changed = await asyncio.to_thread(
        migrate, sink, RECORDS, retention_days=config.retention_days, failures=SinkError
    )
    log.info("clickhouse is ready", extra={"statements": changed})
    if config.serve:
        await _serve_queries(config, parts)
    return sink


def _engine_directory(dsn: str) -> str:
    # The engine compares paths as they are written, and the client resolves links in its own.
    return str(Path(urlsplit(dsn).path).resolve())


async def _serve_queries(config: Config, parts: Parts) -> None:
    # Only the embedded mode needs the HTTP interface; a consumer of a server never loads it.
    from consumer.api.server import ApiServer, ApiUnavailable  # noqa: PLC0415

    host, port = host_and_port(config.serve, "serve")
    try:
        server = ApiServer(_engine_directory(config.clickhouse), host=host, port=port)
        await asyncio.to_thread(server.start)
    except ApiUnavailable as error:
        raise StartError(str(error)) from None
    parts.stop_with("http interface", partial(asyncio.to_thread, server.stop))


def _source(config: Config, pipeline: Pipeline, metrics: Metrics) -> Source:
    async def assigned(assignment: int, positions: Positions) -> None:
        await pipeline.take_over(source, assignment, positions)

    source = Source(
        config.broker(CLIENT_ID).connection(),
        group=config.group,
        group_instance=config.group_instance,
        topics=[record.topic for record in RECORDS],
        on_revoked=pipeline.release,
        on_assigned=assigned,
        on_lost=lambda topic, records: metrics.lost_records.labels(topic).inc(records),
    )
    return source


async def _open_kafka(
    config: Config, dead_letters: Quarantine, source: Source, start: Start, parts: Parts
) -> None:
    topics = [*(record.topic for record in RECORDS), dead_letter.TOPIC]
    quiet_kafka_client(quiet=True)
    broker = config.broker(CLIENT_ID)
    steps: list[Callable[[], Coroutine[Any, Any, None]]] = [
        # It knows the reason where the others only know that there is no broker.
        partial(reach, broker),
        partial(create_topics, broker.connection(), topics),
        dead_letters.start,
        source.start,
    ]
    for step in steps:
        await start.until_available(f"kafka at {config.kafka}", step)
    parts.stop_with("dead letters", dead_letters.stop)
    parts.stop_with("kafka", source.stop)
    await start.within(f"consumer group {config.group}", source.until_assigned())
    quiet_kafka_client(quiet=False)
