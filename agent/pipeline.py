# SPDX-License-Identifier: Apache-2.0
"""The life of an agent: kernel -> observer -> journal -> outbox -> publisher.

Start: load, take over what an agent that is no more has left, give up what of root's powers was
only for that, attach, then drain on a timer.  Nothing wakes us: a wake-up would cost the packet's
CPU microseconds.
Stop: tell what is left and publish it within the deadline.  The programs stay, for the agent that
comes next, unless they are asked to go too.
"""

import asyncio
import logging
import os
import platform
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace

from agent.assembly import Parts, assemble, serve_metrics
from agent.attach import Attachment
from agent.attachments import Attachments
from agent.bookings import Books
from agent.captures import Captures
from agent.config import Config
from agent.control import Control, describe, socket_path
from agent.detach import detach_links
from agent.interfaces import Choice
from agent.links import LinkSocket
from agent.namespaces import Namespace
from agent.outbox import Outbox
from agent.owners import OwnerLookup
from agent.pace import breathe, pause
from agent.plan import Pins, Plan, Report, remove_all
from agent.planning import plan_of
from agent.privileges import give_up_privileges
from agent.programs import load, sole_agent
from agent.rules.orders import RuleOrders
from agent.scheduling import give_way
from agent.succession import Predecessors, succeed
from agent.survey import Events, keep_informed, name_cgroups
from agent.variants import Compiled, Variants
from agent.watch import Attach, Watch
from schemas.wire import Batch

log = logging.getLogger(__name__)

# So often names of namespaces are looked at, which takes as long as a look at the buffers.
NAMES_SECONDS = 0.1
# A packet that is being counted on another CPU while we detach is done long before this.
LAST_PACKETS_SECONDS = 0.02


@dataclass(slots=True)
class Stop:
    """Ends an agent; *detaches* says that its programs go too, whatever its options say."""

    asked: asyncio.Event = field(default_factory=asyncio.Event)
    detaches: bool = False


async def run(config: Config, stop: Stop) -> None:
    """Observe until *stop* is asked for.

    Raises:
        InterfaceError, LoadError: what was asked for cannot be observed.
        OSError: the spool or the metrics' address cannot be used.
    """
    watch = Watch(config.netns, Choice(config.interface, config.exclude_interface))
    try:
        plan = plan_of(config)
        with sole_agent(config.name), Outbox(config.spool_folder, config.spool_bytes) as outbox:
            await _run(config, plan, watch, outbox, stop)
    finally:
        watch.close()


async def _run(config: Config, plan: Plan, watch: Watch, outbox: Outbox, stop: Stop) -> None:
    predecessors = Predecessors.of(plan.pins)
    plan = replace(plan, seeds=predecessors.seeds or plan.seeds)
    try:
        report = await load(plan)
        parts = await assemble(
            config,
            plan,
            report,
            outbox=outbox,
            predecessors=predecessors,
            chronicle=watch.chronicle,
        )
        is_told_of_all = _events(config, report) is Events.ALL
        give_up_privileges(
            config.netns, lists_sockets=parts.owners is not None and not is_told_of_all
        )
        serve_metrics(config, parts)
        await parts.keeper.begin({one.pins.layout for one in predecessors.estates})
        parts.points.on_named = parts.keeper.follow
        variants = await _begin(config, parts, watch, predecessors)
    except BaseException:
        # What others have left counts on; what is new has told nobody anything.
        if not predecessors:
            await asyncio.to_thread(_detach, watch, plan.pins)
            remove_all(plan.pins.root)
        raise
    await _observe_until(stop, config, parts, watch, variants)
    await _end(config, parts, watch, variants, detaches=stop.detaches or config.on_stop == "detach")


async def _begin(
    config: Config, parts: Parts, watch: Watch, predecessors: Predecessors
) -> Variants:
    """Attach to what shall be observed; what is left by others is ours or gone after that."""
    _log_start(parts.report, parts.plan.cgroup)
    # Before anything is attached, so that whoever comes after knows what there is to read.
    parts.journal.tell([], parts.observer)
    variants = Variants(Compiled.reported(parts.report, parts.plan.pins))
    heirlooms = predecessors.heirlooms()
    watch.begin(_attach(config, variants, parts), heirlooms)
    await asyncio.sleep(LAST_PACKETS_SECONDS)
    succeed(parts, predecessors, heirlooms, still_attached=watch.pins)
    # What is observed from here on is told even if we are killed before the first interval ends.
    parts.journal.tell(_interface_batches(parts), parts.observer)
    return variants


async def _observe_until(
    stop: Stop, config: Config, parts: Parts, watch: Watch, variants: Variants
) -> None:
    parts.publisher.start()
    captures = Captures(parts.plan, variants, names=parts.points.names, swap=watch.swap)
    control = Control(
        captures,
        RuleOrders(parts.keeper, parts.subscriber.rejected_total if parts.subscriber else {}),
        lambda: describe(parts.points, watch.interfaces),
        parts.observer.owners_of,
        lambda: {
            "pid": os.getpid(),
            "kafka": config.kafka,
            "waiting_bytes": parts.outbox.waiting_bytes,
            "interfaces": watch.described(),
        },
    )
    async with (
        _informed(parts.owners, _events(config, parts.report)),
        _synced(parts.outbox, config.spool_sync),
        parts.keeper.keeping(),
        parts.subscriber.subscribed() if parts.subscriber else nullcontext(),
        control.listening(socket_path(config.name)),
    ):
        # Not before: programs are compiled at the start, which would last on a busy node.
        _give_way(config)
        log.info(
            "agent ready",
            extra={
                "pid": os.getpid(),
                "interfaces": len(watch.interfaces),
                "buffer": parts.plan.buffer,
            },
        )
        await _observe(parts, watch, stop.asked, interval=config.interval)


async def _observe(parts: Parts, watch: Watch, stop: asyncio.Event, *, interval: float) -> None:
    now = tick_due = time.monotonic()
    due = now + interval
    while not stop.is_set():
        # To wait for *stop* instead would take a task of its own each time, and turn the loop thrice:
        # that was a quarter of what an idle agent takes.
        await asyncio.sleep(pause(is_quiet=parts.observer.is_quiet, until_due=due - now))
        now = time.monotonic()
        if now >= tick_due:
            tick_due = now + NAMES_SECONDS
            watch.tick()
        parts.publisher.raise_if_failed()
        parts.keeper.raise_if_failed()
        if parts.subscriber:
            parts.subscriber.raise_if_failed()
        parts.journal.try_again()
        if not parts.journal.has_room:
            # Leave everything in the kernel: it counts on, and only detail can be lost.
            continue
        _drain(parts)
        if now >= due and parts.journal.has_room:
            due = max(due + interval, now)
            await _name(parts.owners)
            watch.close_interval()
            _close_interval(parts)
            now = time.monotonic()


def _give_way(config: Config) -> None:
    try:
        give_way(config.nice)
    except OSError as error:
        log.warning("others on this node do not go first", extra={"reason": str(error)})


def _drain(parts: Parts) -> None:
    if batches := list(parts.observer.drain()):
        parts.journal.tell(batches, parts.observer)


async def _name(owners: OwnerLookup | None) -> None:
    """Find what the rows that come next will have to say."""
    if owners is not None:
        await name_cgroups(owners.cgroups)


def _close_interval(parts: Parts, *, is_last: bool = False) -> None:
    parts.journal.make_room(parts.ledger)
    batches = []
    for batch in parts.observer.close_interval(is_last=is_last):
        batches.append(batch)
        breathe()
    batches += _rule_batches(parts)
    batches += _interface_batches(parts)
    breathe()
    parts.journal.close(batches, parts.observer, is_last=is_last)


def _interface_batches(parts: Parts) -> list[Batch]:
    columns = parts.chronicle.take()
    return [] if columns is None else list(parts.observer.batches("interface", columns))


def _rule_batches(parts: Parts) -> list[Batch]:
    keeper, rules = parts.keeper, parts.keeper.rules
    columns = parts.rule_rows.columns(
        rules,
        keeper.counted(rules),
        keeper.take_left(),
        parts.subscriber.take_rejected() if parts.subscriber else (),
        time.time_ns(),
    )
    return [] if columns is None else list(parts.observer.batches("rule", columns))


async def _end(
    config: Config, parts: Parts, watch: Watch, variants: Variants, *, detaches: bool
) -> None:
    watch.stop()
    if detaches:
        await asyncio.to_thread(_detach, watch, parts.plan.pins)
        await asyncio.sleep(LAST_PACKETS_SECONDS)
    variants.close()
    parts.journal.try_again()
    if parts.journal.has_room:
        _drain(parts)
        await _name(parts.owners)
        _close_interval(parts, is_last=True)
    await parts.publisher.stop(config.stop_timeout)
    # What could not be stored is still in the maps, for the next agent.
    if detaches and parts.journal.has_room:
        remove_all(parts.plan.pins.root)
    _log_end(config, parts, detaches=detaches)


def _detach(watch: Watch, pins: Pins) -> None:
    watch.detach()
    detach_links(pins.root)


def _attach(config: Config, variants: Variants, parts: Parts) -> Attach:
    choice = Choice(config.interface, config.exclude_interface)
    books = Books(parts.points, parts.ledger, parts.chronicle, parts.observer.seen)

    def attach(namespace: Namespace, links: LinkSocket) -> Attachments:
        variant = variants.of(namespace.netns.label)
        pins, netns = variants.pins, namespace.pin_prefix
        attachment = Attachment(config.hook, config.tc, pins, variant, netns=netns)
        return Attachments(namespace, links, attachment=attachment, choice=choice, books=books)

    return attach


@asynccontextmanager
async def _informed(owners: OwnerLookup | None, events: Events) -> AsyncIterator[None]:
    """Meanwhile *owners* learns what no event tells."""
    if owners is None:
        yield
        return
    informing = asyncio.create_task(keep_informed(owners, events))
    try:
        yield
    finally:
        informing.cancel()
        with suppress(asyncio.CancelledError):
            await informing


def _events(config: Config, report: Report) -> Events:
    if not report.has_sockets:
        return Events.NONE
    return Events.SOME if config.cgroup else Events.ALL


@asynccontextmanager
async def _synced(outbox: Outbox, seconds: float) -> AsyncIterator[None]:
    """Meanwhile what waits for longer than so many seconds is on the disk."""
    syncing = asyncio.create_task(_keep_synced(outbox, seconds))
    try:
        yield
    finally:
        syncing.cancel()
        with suppress(asyncio.CancelledError):
            await syncing


async def _keep_synced(outbox: Outbox, seconds: float) -> None:
    while seconds:
        await asyncio.sleep(seconds)
        for sync in outbox.syncing():
            try:
                await asyncio.to_thread(sync)
            except OSError as error:
                log.error(  # noqa: TRY400  # the place in our code says nothing here
                    "the spool cannot be brought onto the disk", extra={"reason": str(error)}
                )


def _log_start(report: Report, cgroup: str) -> None:
    for warning in report.warnings:
        log.warning(warning)
    if platform.machine() != "x86_64":
        log.warning(
            "counts are exact on x86_64 only: this processor may reorder what we read",
            extra={"machine": platform.machine()},
        )
    if report.has_sockets:
        log.info("observing sockets", extra={"cgroup": cgroup})


def _log_end(config: Config, parts: Parts, *, detaches: bool) -> None:
    if waiting_rows := parts.outbox.waiting_rows:
        log.warning(
            "rows wait in the spool for the next start",
            extra={"rows": waiting_rows, "spool": config.spool_folder},
        )
    if not detaches:
        log.info(
            "the programs count on for the next agent;"
            f" to remove them: hookline agent --name {config.name} --detach"
        )
    log.info("agent stopped", extra={"published_rows": parts.publisher.published_rows_total})
