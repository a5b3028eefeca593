# SPDX-License-Identifier: Apache-2.0
"""The life of an agent: kernel -> observer -> batches -> publisher.

Start: load and attach, then drain on a timer.  Nothing wakes us: a wake-up would cost the
packet's CPU microseconds.
Stop: detach, take what is left, publish it within the deadline, unpin.
"""

import asyncio
import logging
import os
import platform
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from agent.attach import Attachment
from agent.attachments import Attachments, Books
from agent.batch import Batcher
from agent.captures import Captures
from agent.clock import KernelClock, boot_id, tick_ns
from agent.config import Config
from agent.control import Control, describe, socket_path
from agent.detach import detach
from agent.interfaces import Choice
from agent.ledger import Ledger
from agent.links import LinkSocket
from agent.maps import SharedMaps, socket_totals
from agent.metrics import listen
from agent.namespaces import Namespace
from agent.observer import Observer
from agent.owners import OwnerLookup
from agent.plan import MAX_POINTS, Plan, Report, pins_of
from agent.points import HookPoints
from agent.programs import load, sole_agent
from agent.publisher import Publisher
from agent.socket_hooks import chosen_cgroup
from agent.sockets import SocketBooks
from agent.survey import Events, first_lookup, keep_informed, name_cgroups
from agent.variants import Compiled, Variants
from agent.watch import Attach, Watch
from service.broker import Broker
from service.options import host_and_port

log = logging.getLogger(__name__)

POLL_SECONDS = 0.02
# A packet that is being counted on another CPU while we detach is done long before this.
_LAST_PACKETS_SECONDS = 0.02
# Two, and two more that wait until what an interface that went had counted is reported.
_POINTS_OF_ONE = 4
_POSSIBLE_CPUS = Path("/sys/devices/system/cpu/possible")


async def run(config: Config, stop: asyncio.Event) -> int:
    """Observe until *stop* is set; returns how many rows could not be published.

    Raises:
        InterfaceError, LoadError: what was asked for cannot be observed.
    """
    watch = Watch(config.netns, Choice(config.interface, config.exclude_interface))
    plan = plan_of(config)
    _broker(config).connection()  # tells of a bad certificate before anything is attached
    with sole_agent(config.name):
        report = await load(plan)
        try:
            return await _work(config, plan, watch, report, stop)
        finally:
            # However it ended, nothing of ours stays in the kernel.
            await asyncio.to_thread(_detach, watch, plan)
            watch.close()
            plan.pins.remove()


async def _work(
    config: Config, plan: Plan, watch: Watch, report: Report, stop: asyncio.Event
) -> int:
    points = HookPoints(plan.hook_points)
    ledger = Ledger(points, time.time_ns())
    batcher = Batcher(config.node, boot_id(), uuid.uuid4().hex)
    owners = await first_lookup() if config.owners == "yes" else None
    socket_books = SocketBooks(socket_totals(plan)) if report.has_sockets else None
    maps = SharedMaps(plan)
    observer = Observer(
        plan,
        points,
        report.buffer,
        batcher=batcher,
        ledger=ledger,
        owners=owners,
        socket_books=socket_books,
        maps=maps,
        clock=KernelClock(plan.pins, maps.clock),
    )
    publisher = Publisher(_broker(config), node=config.node, backlog_bytes=config.backlog_bytes)
    if config.metrics_listen:
        address = host_and_port(config.metrics_listen, "metrics_listen")
        listen(
            *address,
            ledger,
            publisher,
            owners=owners,
            sockets=socket_books,
            chronicle=watch.chronicle,
        )
    _log_start(report, plan.cgroup)
    variants = Variants(Compiled.reported(report, plan.pins))
    watch.begin(_attach(config, variants, Books(points, ledger, watch.chronicle)))
    publisher.start()
    captures = Captures(plan, variants, buffer=report.buffer, names=points.names, swap=watch.swap)
    control = Control(captures, lambda: describe(points, watch.interfaces), observer.owners_of)
    async with (
        _informed(owners, _events(config, report)),
        control.listening(socket_path(config.name)),
    ):
        log.info(
            "agent ready",
            extra={
                "pid": os.getpid(),
                "interfaces": len(watch.interfaces),
                "buffer": report.buffer,
            },
        )
        await _observe(observer, publisher, watch, owners, stop, interval=config.interval)
    watch.stop()
    await asyncio.to_thread(_detach, watch, plan)
    variants.close()
    await asyncio.sleep(_LAST_PACKETS_SECONDS)
    _drain(observer, publisher)
    await _name(owners)
    _close_interval(observer, publisher, watch, is_last=True)
    left = await publisher.stop(config.stop_timeout)
    log.info(
        "agent stopped",
        extra={"published_rows": publisher.published_rows_total, "lost_rows": left},
    )
    return left


def _detach(watch: Watch, plan: Plan) -> None:
    watch.detach()
    detach(plan.pins)


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


def _broker(config: Config) -> Broker:
    return config.broker(f"hookline-agent-{config.node}")


async def _observe(
    observer: Observer,
    publisher: Publisher,
    watch: Watch,
    owners: OwnerLookup | None,
    stop: asyncio.Event,
    *,
    interval: float,
) -> None:
    due = time.monotonic() + interval
    while not stop.is_set():
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), POLL_SECONDS)
        watch.tick()
        publisher.raise_if_failed()
        if not publisher.has_room:
            # Leave everything in the kernel: it counts on, and only detail can be lost.
            continue
        _drain(observer, publisher)
        if time.monotonic() >= due:
            due = max(due + interval, time.monotonic())
            await _name(owners)
            watch.close_interval()
            _close_interval(observer, publisher, watch)


def _drain(observer: Observer, publisher: Publisher) -> None:
    for batch in observer.drain():
        publisher.add(batch)


async def _name(owners: OwnerLookup | None) -> None:
    """Find what the rows that come next will have to say."""
    if owners is not None:
        await name_cgroups(owners.cgroups)


def _close_interval(
    observer: Observer, publisher: Publisher, watch: Watch, *, is_last: bool = False
) -> None:
    for batch in observer.close_interval(is_last=is_last):
        publisher.add(batch)
    if (columns := watch.chronicle.take()) is not None:
        for batch in observer.batches("interface", columns):
            publisher.add(batch)


def _attach(config: Config, variants: Variants, books: Books) -> Attach:
    choice = Choice(config.interface, config.exclude_interface)

    def attach(namespace: Namespace, links: LinkSocket) -> Attachments:
        variant = variants.of(namespace.netns.label)
        pins, netns = variants.pins, namespace.pin_prefix
        attachment = Attachment(config.hook, config.tc, pins, variant, netns=netns)
        return Attachments(namespace, links, attachment=attachment, choice=choice, books=books)

    return attach


def plan_of(config: Config) -> Plan:
    """What the loader is to do."""
    cpus = _possible_cpus()
    return Plan(
        pin_path=str(pins_of(config.name).root),
        buffer=config.buffer,
        cpus=cpus,
        slots_per_cpu=_power_of_two(max(config.flow_slots // cpus, 4)),
        hook_points=min(MAX_POINTS, _power_of_two(_POINTS_OF_ONE * config.max_interfaces)),
        ring_bytes=config.ring_bytes,
        sample_one_in=config.sample,
        sample_first=config.sample_first == "yes",
        tunnels=config.tunnels,
        vxlan_ports=tuple(int(port) for port in config.vxlan_port),
        cgroup=_cgroup(config),
        socket_ticks=max(round(config.interval * 1e9 / tick_ns()), 1),
        dns_ports=tuple(map(int, config.dns_port)) if config.dns == "yes" else (),
        tls=config.tls == "yes",
    )


def _cgroup(config: Config) -> str:
    if config.sockets == "no":
        return ""
    if cgroup := chosen_cgroup(config.cgroup):
        return str(cgroup)
    log.warning(
        "sockets are not observed: no cgroup v2 hierarchy is mounted;"
        " mount one: mount -t cgroup2 none /sys/fs/cgroup, or say --sockets no"
    )
    return ""


def _power_of_two(least: int) -> int:
    return 1 << (least - 1).bit_length()


def _possible_cpus() -> int:
    """How many CPUs the kernel may ever number: one more than the highest."""
    return int(_POSSIBLE_CPUS.read_text().strip().rpartition("-")[2].rpartition(",")[2]) + 1


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
