# SPDX-License-Identifier: Apache-2.0
"""Read the topics, let the detectors look, tell what changed, commit.

    fetch -> decode -> detectors -> board -> hookline.alert.v1, outlets -> commit

What is found is durable, in Kafka and in the outlets' queue, before the offsets of the rows that
show it are committed.  So an alert is told at least once: after a crash in between, the same rows
make the same changes again, with the same fingerprints and times.

Reading begins with what comes after the first start: nobody is helped by an alert about last week.
What the detectors have learned is kept every few minutes and at the end.
"""

import asyncio
import itertools
import logging
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from consumer.alerts import learned, memory
from consumer.alerts.alert import Alert, Sighting
from consumer.alerts.board import Board
from consumer.alerts.config import CLIENT_ID, Config
from consumer.alerts.detector import Detector
from consumer.alerts.detectors.table import DETECTORS
from consumer.alerts.metrics import Metrics
from consumer.alerts.mitigation.mitigator import Mitigator
from consumer.alerts.mitigation.refusals import Refusals
from consumer.alerts.outlets.outlets import Outlets, outlets_of
from consumer.alerts.publisher import Publisher
from consumer.alerts.rows import NS_PER_S
from consumer.alerts.sql_rules import SqlRules, sql_rules_of
from consumer.alerts.watch import Watch, topics
from consumer.positions import Positions
from consumer.record import Partition, Record
from consumer.rule_orders import RuleOrders
from consumer.sink import SinkUnavailable
from consumer.source import Source
from consumer.topics import create_topics
from schemas.alert import ALERT
from schemas.rules.rule import RuleError
from schemas.rules.signed import read_key
from service.broker import BrokerUnavailable
from service.logs import quiet_kafka_client
from service.options import host_and_port
from service.reach import reach
from service.start import Parts, Start, StartError, Stopped, until_signal

FETCH_WAIT_S = 0.1
LOOK_EVERY_S = 0.5
# Rules say with each look what they see; after a restart the first answer may take a while.
RULES_HOLD_S = 60.0
COMMIT_EVERY_S = 1.0
# So much of what was learned is learned again after a kill.
KEEP_EVERY_S = 300.0
# Without a record for so long, Kafka is asked whether it is there.
QUIET_S = 2.0
# So much is shown to the detectors at once, which takes half a second at most; then the group's
# heartbeat gets a turn.
TURN_BYTES = 8 << 20
TURN_RECORDS = 500

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

log = logging.getLogger(__name__)


async def serve(config: Config) -> bool:
    """Run until SIGTERM or SIGINT; False where not everything could be told or closed."""
    stop = until_signal()
    parts = Parts()
    try:
        async with parts:
            is_told = await _run(config, stop, parts)
    except Stopped:
        is_told = True
    return is_told and parts.closed


async def _run(config: Config, stop: asyncio.Event, parts: Parts) -> bool:
    start = Start(stop, config.start_timeout, (BrokerUnavailable, SinkUnavailable))
    folder = _folder(config)
    detectors = config.detectors()
    orders = RuleOrders(config.broker(CLIENT_ID))
    parts.stop_with("rules", orders.stop)
    mitigator = _mitigator(config, folder, orders)
    if mitigator is not None:
        detectors.append(Refusals(mitigator))
    learned.restore(folder, detectors)
    read = topics(detectors)
    metrics = Metrics(read, [one.name for one in detectors])
    if config.metrics_listen:
        metrics.listen(*host_and_port(config.metrics_listen, "metrics_listen"))
    outlets = outlets_of(config.tables, folder, metrics.registry)
    await outlets.start()
    parts.stop_with("outlets", outlets.stop)
    rules = await _rules(config, metrics, start, parts)
    board = Board(
        _holds(detectors, rules),
        new_per_minute=config.new_per_minute,
        refresh_s=config.refresh,
    )
    kept = memory.kept(folder)
    board.restore([*kept, *await _told_alone(outlets, kept)], time.monotonic())
    publisher = Publisher(
        config.broker(CLIENT_ID).connection(),
        node=config.node,
        boot_id=_boot_id(),
        run=uuid.uuid4().hex,
    )
    service = Service(
        Watch(detectors, metrics),
        board,
        detectors=detectors,
        publisher=publisher,
        outlets=outlets,
        rules=rules,
        metrics=metrics,
        folder=folder,
        mitigator=mitigator,
    )
    source = _source(config, service, metrics, read)
    await _open_kafka(config, publisher, source, read, start=start, parts=parts)
    if mitigator is not None:
        await start.until_available(f"kafka at {config.kafka}", orders.start)
    names = ", ".join(one.name for one in detectors)
    sys.stderr.write(f"alert ready: {config.kafka}, looking for {names}\n")
    return await service.run(source, stop, stop_timeout_s=config.stop_timeout)


async def _told_alone(outlets: Outlets, kept: Sequence[memory.Pair]) -> list[memory.Pair]:
    """What outlets were told and we did not live to remember; else it would never be resolved."""
    known = {first.fingerprint for first, _ in kept}
    told = [alert.sighting for alert in await outlets.firing()]
    return [(one, one) for one in told if one.fingerprint not in known]


def _mitigator(config: Config, folder: Path, orders: RuleOrders) -> Mitigator | None:
    """What acts, where the configuration lets something act."""
    options = config.mitigation()
    if not options.acts:
        return None
    try:
        key = read_key(Path(options.key))
    except (OSError, RuleError) as error:
        raise StartError(f"rules cannot be signed: {error}") from None
    return Mitigator(options, key, folder, orders.send)


async def _rules(config: Config, metrics: Metrics, start: Start, parts: Parts) -> SqlRules | None:
    if not config.rules:
        return None
    rules = sql_rules_of(
        Path(config.rules),
        config.clickhouse,
        config.server(),
        taken=DETECTORS,
        registry=metrics.registry,
    )
    parts.stop_with("rules", rules.stop)
    await start.until_available(
        f"clickhouse at {config.clickhouse.masked}", lambda: rules.start(time.time_ns())
    )
    return rules


def _holds(detectors: Sequence[Detector], rules: SqlRules | None) -> dict[str, float]:
    holds = {one.name: one.hold_s for one in detectors}
    return holds | dict.fromkeys(rules.names if rules else (), RULES_HOLD_S)


def _boot_id() -> str:
    return _BOOT_ID.read_text().strip()


def _folder(config: Config) -> Path:
    folder = Path(config.folder)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StartError(f"folder {folder} cannot be made: {error.strerror}") from None
    return folder


def _source(config: Config, service: "Service", metrics: Metrics, read: Sequence[str]) -> Source:
    async def revoked() -> None:
        await service.commit(source)

    source = Source(
        config.broker(CLIENT_ID).connection(),
        group=config.group,
        group_instance=config.group_instance,
        topics=read,
        on_revoked=revoked,
        on_assigned=service.take_over,
        on_lost=lambda topic, records: metrics.lost_records.labels(topic).inc(records),
        latest_s=config.catch_up,
    )
    return source


async def _open_kafka(
    config: Config,
    publisher: Publisher,
    source: Source,
    read: Sequence[str],
    *,
    start: Start,
    parts: Parts,
) -> None:
    quiet_kafka_client(quiet=True)
    broker = config.broker(CLIENT_ID)

    async def until_done(step: Callable[[], Awaitable[object]]) -> None:
        await start.until_available(f"kafka at {config.kafka}", step)

    await until_done(partial(reach, broker))
    await until_done(partial(create_topics, broker.connection(), [*read, ALERT.topic]))
    await until_done(publisher.start)
    await until_done(source.start)
    parts.stop_with("alerts", publisher.stop)
    parts.stop_with("kafka", source.stop)
    await start.within(f"consumer group {config.group}", source.until_assigned())
    quiet_kafka_client(quiet=False)


class Service:
    """Moves records to the detectors, and what they find to everybody who wants it."""

    def __init__(
        self,
        watch: Watch,
        board: Board,
        *,
        detectors: Sequence[Detector],
        publisher: Publisher,
        outlets: Outlets,
        rules: SqlRules | None,
        metrics: Metrics,
        folder: Path,
        mitigator: Mitigator | None = None,
    ) -> None:
        self._mitigator = mitigator
        self._of_mitigation: list[Sighting] = []
        self._watch = watch
        self._board = board
        self._detectors = detectors
        self._publisher = publisher
        self._outlets = outlets
        self._rules = rules
        self._metrics = metrics
        self._folder = folder
        self._assignment = -1
        self._marks: dict[Partition, tuple[int, str]] = {}
        self._told_held_back: dict[str, int] = {}
        self._logged: set[str] = set()
        self._heard_at = self._looked_at = self._committed_at = self._kept_at = time.monotonic()

    async def run(self, source: Source, stop: asyncio.Event, *, stop_timeout_s: float) -> bool:
        """Watch until *stop* is set; False where what was found last could not be told."""
        moving = asyncio.create_task(self._move(source, stop))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({moving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        _, late = await asyncio.wait({moving}, timeout=stop_timeout_s)
        if late:
            log.error("stopped before everything was told", extra={"deadline_s": stop_timeout_s})
            moving.cancel()
            await asyncio.wait({moving})
            return False
        moving.result()
        return True

    async def _move(self, source: Source, stop: asyncio.Event) -> None:
        while not stop.is_set():
            fetched = await source.fetch(FETCH_WAIT_S)
            if fetched.assignment == self._assignment:
                for records in _turns(fetched.by_partition):
                    await self._tell(self._watch.take(records, time.time_ns()))
                    if fetched.assignment == self._assignment:
                        self._mark(records)
                    await asyncio.sleep(0)
            await self._look(source, has_heard=bool(fetched.by_partition))
            if time.monotonic() - self._committed_at >= COMMIT_EVERY_S:
                await self.commit(source)
            if time.monotonic() - self._kept_at >= KEEP_EVERY_S:
                await self._keep()
        await self.commit(source)
        await self._keep()

    async def _keep(self) -> None:
        """Keep what the detectors have learned."""
        self._kept_at = time.monotonic()
        copies = learned.learned(self._detectors)
        await asyncio.to_thread(learned.keep, self._folder, copies)

    async def _look(self, source: Source, *, has_heard: bool) -> None:
        now = time.monotonic()
        if has_heard:
            self._heard_at = now
        if now - self._looked_at < LOOK_EVERY_S:
            return
        # Where the fetch has waited for a broker, or nobody answers now, silence says nothing of the
        # agents.
        was_held_up = now - self._looked_at > QUIET_S
        is_quiet = now - self._heard_at > QUIET_S
        if was_held_up or (is_quiet and not await source.answers(LOOK_EVERY_S)):
            self._watch.pause(time.time_ns())
        self._looked_at = now
        self._metrics.set_lag(source.lag())
        now_ns = time.time_ns()
        of_rules = await self._rules.due(now_ns) if self._rules else []
        if self._mitigator is not None:
            await self._act(self._mitigator)
        of_mitigation, self._of_mitigation = self._of_mitigation, []
        await self._tell([*self._watch.look(now_ns), *of_rules, *of_mitigation])

    async def _tell(self, sightings: Sequence[Sighting]) -> None:
        """Make the changes durable that *sightings* make."""
        changes = self._board.update(sightings, time.monotonic())
        if not changes:
            return
        await self._publisher.publish(changes)
        await self._outlets.deliver(changes)
        await asyncio.to_thread(memory.keep, self._folder, self._board.kept())
        self._count(changes)
        if self._mitigator is not None:
            self._mitigator.consider(changes, time.time_ns())
            await self._act(self._mitigator)

    async def _act(self, mitigator: Mitigator) -> None:
        """Send rules; what is to be said of it is told with the next look."""
        self._of_mitigation += await mitigator.act(time.time_ns())

    def _count(self, changes: Sequence[Alert]) -> None:
        for alert in changes:
            one = alert.sighting
            self._metrics.changes.labels(one.detector, alert.status).inc()
            extra: dict[str, Any] = {"detector": one.detector, "fingerprint": one.fingerprint}
            if alert.status == "resolved":
                self._logged.discard(one.fingerprint)
                log.info("alert resolved", extra=extra)
            elif one.fingerprint not in self._logged:
                self._logged.add(one.fingerprint)
                self._metrics.latency.observe((time.time_ns() - one.seen_ns) / NS_PER_S)
                log.warning("alert", extra={**extra, "summary": one.summary})
        firing = [one.detector for one in self._board.firing()]
        for name in {alert.sighting.detector for alert in changes}:
            self._metrics.firing.labels(name).set(firing.count(name))
        for name, count in self._board.held_back.items():
            self._metrics.held_back.labels(name).inc(count - self._told_held_back.get(name, 0))
        self._told_held_back = dict(self._board.held_back)

    def _mark(self, records: Sequence[Record]) -> None:
        for one in records:
            self._marks[one.topic, one.partition] = (one.offset + 1, "")

    async def take_over(self, assignment: int, positions: Positions) -> None:
        """Go on with the partitions of a new assignment."""
        self._assignment = assignment
        # Where nothing is committed yet, a crash must not make us begin at a later end.
        self._marks = {
            partition: (position.offset, "")
            for partition, position in positions.items()
            if not position.is_committed
        }

    async def commit(self, source: Source) -> None:
        """Commit what was looked at."""
        self._committed_at = time.monotonic()
        marks, self._marks = self._marks, {}
        if marks:
            await source.commit(marks, assignment=self._assignment)


def _turns(by_partition: Sequence[Sequence[Record]]) -> Iterator[list[Record]]:
    """All records in pieces, in the order of each partition."""
    turn: list[Record] = []
    turn_bytes = 0
    for record in itertools.chain.from_iterable(by_partition):
        turn.append(record)
        turn_bytes += len(record.payload or b"")
        if turn_bytes >= TURN_BYTES or len(turn) >= TURN_RECORDS:
            yield turn
            turn, turn_bytes = [], 0
    if turn:
        yield turn
