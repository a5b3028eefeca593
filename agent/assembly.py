# SPDX-License-Identifier: Apache-2.0
"""Put the parts of an agent together, each where its predecessor had come to."""

import time
import uuid
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from agent.batch import Batcher
from agent.buffers import open_buffer
from agent.checkpoint import Checkpoint
from agent.chronicle import Chronicle
from agent.clock import KernelClock, boot_id
from agent.config import Config
from agent.deliveries import Deliveries
from agent.journal import Identity, Journal
from agent.ledger import Ledger
from agent.maps import SharedMaps, mapped_array, socket_totals
from agent.metrics import listen
from agent.observer import Observer
from agent.outbox import Outbox
from agent.owners import OwnerLookup
from agent.plan import Plan, Report
from agent.points import HookPoints
from agent.publisher import Publisher
from agent.register import Register
from agent.rules.allowed import AllowList, ssh_ports
from agent.rules.keeper import Keeper
from agent.rules.kernel import KernelRules
from agent.rules.record import RecordFile
from agent.rules.rows import RuleRows
from agent.sockets import SocketBooks
from agent.succession import Predecessors
from agent.survey import first_lookup
from service.options import host_and_port

if TYPE_CHECKING:
    from agent.rules.subscriber import Subscriber


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
    keeper: Keeper
    rule_rows: RuleRows
    subscriber: "Subscriber | None"


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
    publisher = Publisher(config.as_broker, list(outbox.logs.values()), deliveries.note_retried)
    keeper = Keeper(
        KernelRules(plan.pins, plan.sizes, partial(mapped_array, plan.pins)),
        RecordFile(config.rules_file),
        plan.layout,
        allow_list=AllowList(config.never_drop, lambda: publisher.brokers, ssh_ports()),
        points=points,
        anchor=clock.anchor,
    )
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
        name_of_rule=keeper.name_of,
    )
    predecessors.hand_over(outbox, deliveries, observer)
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
        keeper=keeper,
        rule_rows=RuleRows(),
        subscriber=_subscriber(config, keeper),
    )


def _subscriber(config: Config, keeper: Keeper) -> "Subscriber | None":
    if not config.trusted_keys:
        return None
    # Cryptography takes 10 MB, and many nodes obey nobody.
    from agent.rules.subscriber import Subscriber  # noqa: PLC0415
    from schemas.rules.signed import Trusted  # noqa: PLC0415

    trusted = Trusted.read(Path(config.trusted_keys))
    return Subscriber(keeper, trusted, config.as_broker, config.node)


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
        keeper=parts.keeper,
        rejected_rules=parts.subscriber.rejected_total if parts.subscriber else None,
    )
