# SPDX-License-Identifier: Apache-2.0
"""Start the parts of a consumer, run its pipeline, stop the parts in reverse.

ClickHouse comes first: it is migrated, and in embedded mode it answers queries even while
Kafka is away.  Both may be started after us, so at the start we keep asking for them until the
deadline; afterwards the parts themselves know what to retry.
"""

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from consumer.config import CLIENT_ID, Config
from consumer.metrics import Metrics
from consumer.migrations import migrate
from consumer.pipeline import Pipeline
from consumer.positions import Positions
from consumer.quarantine import Quarantine
from consumer.rollups import summed_here
from consumer.sink import Sink, SinkError, SinkUnavailable
from consumer.source import Source
from consumer.tables import existing_tables
from consumer.topics import create_topics
from schemas import dead_letter
from schemas.catalogue import RECORDS
from schemas.rollup import ROLLUPS
from service.broker import BrokerUnavailable
from service.logs import quiet_kafka_client
from service.options import host_and_port
from service.reach import reach
from service.start import Parts, Start, StartError, Stopped, until_signal

log = logging.getLogger(__name__)


async def serve(config: Config) -> bool:
    """Run until SIGTERM or SIGINT; False where not everything could be stored or closed."""
    stop = until_signal()
    parts = Parts()
    try:
        async with parts:
            stored = await _run(config, stop, parts)
    except Stopped:
        stored = True
    return stored and parts.closed


async def _run(config: Config, stop: asyncio.Event, parts: Parts) -> bool:
    start = Start(stop, config.start_timeout, (BrokerUnavailable, SinkUnavailable))
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
        flow_max_age_s=config.flow_max_age,
        sums=config.rollups == "yes",
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
        migrate,
        sink,
        RECORDS,
        retention_days=config.retention_days,
        failures=SinkError,
        rollups=ROLLUPS if config.rollups == "yes" else (),
        rollup_days=config.rollup_days,
    )
    # Also without rollups: a plan of before may say that we add to those that are there.
    existing = await asyncio.to_thread(existing_tables, sink)
    sink.add_to(summed_here(existing, ROLLUPS))
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

    async def until_done(step: Callable[[], Awaitable[object]]) -> None:
        await start.until_available(f"kafka at {config.kafka}", step)

    # It knows the reason where the others only know that there is no broker.
    await until_done(partial(reach, broker))
    await until_done(partial(create_topics, broker.connection(), topics))
    await until_done(dead_letters.start)
    await until_done(source.start)
    parts.stop_with("dead letters", dead_letters.stop)
    parts.stop_with("kafka", source.stop)
    await start.within(f"consumer group {config.group}", source.until_assigned())
    quiet_kafka_client(quiet=False)
