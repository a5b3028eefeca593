# SPDX-License-Identifier: Apache-2.0
"""Put the parts of an agent together, each where its predecessor had come to."""

import time
import uuid
from dataclasses import dataclass
from functools import partial

from agent.batch import Batcher
from agent.buffers import open_buffer
from agent.checkpoint import Checkpoint
from agent.chronicle import Chronicle
from agent.clock import KernelClock, boot_id
from agent.config import Config
from agent.deliveries import Deliveries
from agent.journal import Identity, Journal
from agent.ledger import Ledger
from agent.maps import SharedMaps, socket_totals
from agent.metrics import listen
from agent.observer import Observer
from agent.outbox import Outbox
from agent.owners import OwnerLookup
from agent.plan import Plan, Report
from agent.points import HookPoints
from agent.publisher import Publisher
from agent.register import Register
from agent.sockets import SocketBooks
from agent.succession import Predecessors
from agent.survey import first_lookup
from service.options import host_and_port


@dataclass(frozen=True, slots=True)
class Parts:
    """What an agent is made of."""

    plan: Plan
    report: Report
    points: HookPoints
    ledger: Ledger
    chronicle: Chronicle
    deliveries: Deliveries
    owners: OwnerLookup | None
    socket_books: SocketBooks | None
    clock: KernelClock
    observer: Observer
    outbox: Outbox
    publisher: Publisher
    journal: Journal


async def assemble(
    config: Config,
    plan: Plan,
    report: Report,
    *,
    outbox: Outbox,
    predecessors: Predecessors,
    chronicle: Chronicle,
) -> Parts:
    """The parts; the maps that the loader has made are open, and nothing is attached.

    Raises:
        OSError: a map cannot be opened.
    """
    points = HookPoints(plan.hook_points, Register.pinned(plan.pins, plan.hook_points))
    ledger = Ledger(points, time.time_ns())
    identity = Identity(config.node, boot_id(), uuid.uuid4().hex, plan.seeds)
    deliveries = Deliveries(identity.run, time.time_ns())
    owners = await first_lookup() if config.owners == "yes" else None
    socket_books = SocketBooks(socket_totals(plan)) if report.has_sockets else None
    maps = SharedMaps.of(plan)
    clock = KernelClock(plan.pins, maps.clock)
    observer = Observer(
        plan.pins,
        points,
        batcher=Batcher(identity.node, identity.boot_id, identity.run),
        ledger=ledger,
        maps=maps,
        clock=clock,
        open_buffer=partial(open_buffer, plan.pins, plan.sizes),
        owners=owners,
        socket_books=socket_books,
    )
    predecessors.hand_over(outbox, deliveries, observer)
    publisher = Publisher(config.as_broker, list(outbox.logs.values()), deliveries.note_retried)
    journal = Journal(
        outbox,
        Checkpoint(plan.pins, plan.sizes.slots),
        deliveries,
        identity=identity,
        sizes=plan.sizes,
        on_told=publisher.more_waits,
    )
    return Parts(
        plan=plan,
        report=report,
        points=points,
        ledger=ledger,
        chronicle=chronicle,
        deliveries=deliveries,
        owners=owners,
        socket_books=socket_books,
        clock=clock,
        observer=observer,
        outbox=outbox,
        publisher=publisher,
        journal=journal,
    )


def serve_metrics(config: Config, parts: Parts) -> None:
    """Answer whoever asks for them, where that is wanted, in a thread that lasts.

    Raises:
        OSError: the address cannot be bound.
    """
    if not config.metrics_listen:
        return
    address = host_and_port(config.metrics_listen, "metrics_listen")
    listen(
        *address,
        parts.ledger,
        parts.publisher,
        outbox=parts.outbox,
        owners=parts.owners,
        sockets=parts.socket_books,
        chronicle=parts.chronicle,
    )
