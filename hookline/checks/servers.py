# SPDX-License-Identifier: Apache-2.0
"""Whether Kafka and ClickHouse let us in, and have what Hookline needs."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from consumer.config import Config
from consumer.migrations import MigrationError, plan
from consumer.rollups import plan_rollups
from consumer.sink import Sink, SinkError, SinkUnavailable
from consumer.tables import existing_tables
from hookline.checks.result import Result, fail, ok, warn
from hookline.topics import Topics
from schemas.catalogue import RECORDS
from schemas.dead_letter import TOPIC as DEAD_LETTERS
from schemas.rollup import ROLLUPS
from service.broker import Broker, BrokerError, BrokerUnavailable
from service.logs import quiet_kafka_client
from service.reach import reach

TOPICS = (*(record.topic for record in RECORDS), DEAD_LETTERS)
_CLOCKS_APART_SECONDS = 2.0


def kafka(broker: Broker, topics: Sequence[str] = TOPICS) -> list[Result]:
    """Whether a broker lets us in, and the topics are there."""
    quiet_kafka_client(quiet=True)
    return asyncio.run(_kafka(broker, topics))


async def _kafka(broker: Broker, topics: Sequence[str]) -> list[Result]:
    try:
        await reach(broker)
    except BrokerUnavailable as error:
        return [_not_let_in("kafka", f"{broker.addresses}: {error}", "--kafka")]
    came_in = ok("kafka", f"{broker.addresses} lets us in by {_way_in(broker)}")
    try:
        async with Topics(broker) as opened:
            there = {topic for topic, _ in await opened.partitions(topics)}
    except (BrokerError, BrokerUnavailable) as error:
        # The first brokers answer; those that they name may not be reached from here.
        reason = f"the brokers behind {broker.addresses} do not answer: {error}"
        return [came_in, fail("topics", reason, "look at the brokers' advertised.listeners")]
    return [came_in, _about_topics(sorted(set(topics) - there), len(topics))]


def _about_topics(missing: Sequence[str], wanted: int) -> Result:
    if not missing:
        return ok("topics", f"all {wanted} are there")
    which = ", ".join(missing[:3]) + (" and others" if len(missing) > 3 else "")
    return warn(
        "topics",
        f"{which} {'are' if len(missing) > 1 else 'is'} missing, or we may not see them",
        "start a consumer, which creates them where it may, or create them",
    )


def _way_in(broker: Broker) -> str:
    if broker.security.startswith("sasl"):
        return f"{broker.security} as {broker.user!r}"
    return broker.security + (" with our certificate" if broker.certificate_file else "")


def _not_let_in(check: str, reason: str, flag: str) -> Result:
    # Most reasons say what mends them.
    return fail(check, reason, "" if ";" in reason else f"start it, or give {flag}")


def clickhouse(config: Config) -> list[Result]:
    """Whether the server lets us in, the tables are those of this version, and clocks agree."""
    sink = Sink(config.clickhouse, server=config.server())
    where = config.clickhouse.masked
    try:
        sink.connect([RECORDS[0].table])
        ((server_ms,),) = sink.rows("SELECT toUnixTimestamp64Milli(now64(3))")
        came_in = ok("clickhouse", f"{where} lets us in as {config.clickhouse_user or 'default'!r}")
        return [came_in, _tables(sink, config), *_clocks(time.time() - int(server_ms) / 1000)]
    except (SinkUnavailable, SinkError) as error:
        return [_not_let_in("clickhouse", f"{where}: {error}", "--clickhouse")]
    finally:
        sink.close()


def _tables(sink: Any, config: Config) -> Result:
    try:
        existing = existing_tables(sink)
        statements = [
            *plan(existing, RECORDS, config.retention_days),
            *plan_rollups(existing, ROLLUPS, days=config.rollup_days, now_s=int(time.time())),
        ]
    except MigrationError as error:
        text, _, fix = str(error).partition("; ")
        return fail("tables", text, fix)
    if statements:
        first = statements[0].partition("\n")[0].partition(" (")[0]
        return warn(
            "tables",
            f"{len(statements)} changes are missing, the first of them {first}",
            "start a consumer of this version, which makes them",
        )
    return ok("tables", f"all {len(RECORDS) + len(ROLLUPS)} are as this version wants them")


def _clocks(ahead_s: float) -> list[Result]:
    if abs(ahead_s) < _CLOCKS_APART_SECONDS:
        return []
    which = "ahead of" if ahead_s > 0 else "behind"
    return [
        warn(
            "clocks",
            f"this clock is {abs(ahead_s):.1f} s {which} ClickHouse's",
            "synchronise both: chrony, systemd-timesyncd",
        )
    ]
