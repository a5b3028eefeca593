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

from agent.batch import Batcher
from agent.clock import boot_id, tick_ns
from agent.config import Config
from agent.detach import detach
from agent.interfaces import LinkCounters, list_interfaces, read_counters, select
from agent.ledger import Ledger
from agent.maps import socket_totals
from agent.metrics import listen
from agent.observer import Observer
from agent.owners import OwnerLookup
from agent.plan import MAX_POINTS, Plan, Report, pins_of
from agent.points import HookPoints, number_points
from agent.programs import load, sole_agent
from agent.publisher import Publisher
from agent.socket_hooks import chosen_cgroup
from agent.sockets import SocketBooks
from agent.survey import first_lookup, keep_informed
from schemas.ledger import HOOKS
from service.broker import Broker
from service.options import host_and_port

log = logging.getLogger(__name__)

POLL_SECONDS = 0.02
# A packet that is being counted on another CPU while we detach is done long before this.
_LAST_PACKETS_SECONDS = 0.02
_POSSIBLE_CPUS = Path("/sys/devices/system/cpu/possible")


async def run(config: Config, stop: asyncio.Event) -> int:
    """Observe until *stop* is set; returns how many rows could not be published.

    Raises:
        InterfaceError, LoadError: what was asked for cannot be observed.
    """
    points = number_points(select(list_interfaces(), config.interface))
    plan = _plan(config, points)
    _broker(config).connection()  # tells of a bad certificate before anything is attached
    with sole_agent(config.name):
        report = await load(plan)
        try:
            return await _work(config, plan, points, report, stop)
        finally:
            # However it ended, nothing of ours stays in the kernel.
            await asyncio.to_thread(detach, plan.pins, report.clsact)
            plan.pins.remove()


async def _work(
    config: Config, plan: Plan, points: HookPoints, report: Report, stop: asyncio.Event
) -> int:
    ledger = Ledger(points, _hooks(points, report), _links(points, report), time.time_ns())
    batcher = Batcher(config.node, boot_id(), uuid.uuid4().hex)
    owners = await first_lookup() if config.owners == "yes" else None
    socket_books = SocketBooks(socket_totals(plan)) if report.has_sockets else None
    observer = Observer(
        plan,
        points,
        report.buffer,
        batcher=batcher,
        ledger=ledger,
        owners=owners,
        socket_books=socket_books,
    )
    publisher = Publisher(_broker(config), node=config.node, backlog_bytes=config.backlog_bytes)
    if config.metrics_listen:
        address = host_and_port(config.metrics_listen, "metrics_listen")
        listen(*address, ledger, publisher, owners=owners, sockets=socket_books)
    publisher.start()
    # Said last: only now is there somebody to read what the programs write into perf buffers.
    _log_start(points, report, plan.cgroup)
    async with _informed(owners):
        await _observe(observer, publisher, config.interval, stop)
    await asyncio.to_thread(detach, plan.pins, report.clsact)
    links = read_counters()
    await asyncio.sleep(_LAST_PACKETS_SECONDS)
    for batch in observer.close_interval(links, is_last=True):
        publisher.add(batch)
    left = await publisher.stop(config.stop_timeout)
    log.info(
        "agent stopped",
        extra={"published_rows": publisher.published_rows_total, "lost_rows": left},
    )
    return left


@asynccontextmanager
async def _informed(owners: OwnerLookup | None) -> AsyncIterator[None]:
    """Meanwhile *owners* learns what no event tells."""
    if owners is None:
        yield
        return
    informing = asyncio.create_task(keep_informed(owners, has_events=False))
    try:
        yield
    finally:
        informing.cancel()
        with suppress(asyncio.CancelledError):
            await informing


def _broker(config: Config) -> Broker:
    return config.broker(f"hookline-agent-{config.node}")


async def _observe(
    observer: Observer, publisher: Publisher, interval: float, stop: asyncio.Event
) -> None:
    due = time.monotonic() + interval
    while not stop.is_set():
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), POLL_SECONDS)
        publisher.raise_if_failed()
        if not publisher.has_room:
            # Leave everything in the kernel: it counts on, and only detail can be lost.
            continue
        for batch in observer.drain():
            publisher.add(batch)
        if time.monotonic() >= due:
            due = max(due + interval, time.monotonic())
            for batch in observer.close_interval(read_counters()):
                publisher.add(batch)


def _plan(config: Config, points: HookPoints) -> Plan:
    cpus = _possible_cpus()
    return Plan(
        pin_path=str(pins_of(config.name).root),
        targets=points.targets,
        hook=config.hook,
        tc=config.tc,
        buffer=config.buffer,
        cpus=cpus,
        slots_per_cpu=_power_of_two(max(config.flow_slots // cpus, 4)),
        hook_points=min(MAX_POINTS, _power_of_two(len(points.directions))),
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


def _hooks(points: HookPoints, report: Report) -> dict[int, int]:
    attached = {one.ifindex: one for one in report.attached}
    hooks = {}
    for target in points.targets:
        hooks[target.ingress_point] = HOOKS[attached[target.ifindex].ingress_hook]
        hooks[target.egress_point] = HOOKS[attached[target.ifindex].egress_hook]
    return hooks


def _links(points: HookPoints, report: Report) -> dict[str, LinkCounters]:
    names = {target.ifindex: target.name for target in points.targets}
    return {names[one.ifindex]: one.counters for one in report.attached}


def _log_start(points: HookPoints, report: Report, cgroup: str) -> None:
    for warning in report.warnings:
        log.warning(warning)
    if platform.machine() != "x86_64":
        log.warning(
            "counts are exact on x86_64 only: this processor may reorder what we read",
            extra={"machine": platform.machine()},
        )
    names = {target.ifindex: target.name for target in points.targets}
    for one in report.attached:
        log.info(
            "observing",
            extra={
                "interface": names[one.ifindex],
                "ingress": one.ingress_hook,
                "egress": one.egress_hook,
                "buffer": report.buffer,
            },
        )
    if report.has_sockets:
        log.info("observing sockets", extra={"cgroup": cgroup})
    log.info("agent ready", extra={"pid": os.getpid()})
