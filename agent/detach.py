# SPDX-License-Identifier: Apache-2.0
"""Detach what agents of one name have left, and nothing else.

`hookline agent --detach`: everything that they had counted and not told is told, then all of it is
removed.
"""

import asyncio
import logging
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path

from agent import libbpf
from agent.batch import Batcher
from agent.clock import KernelClock
from agent.config import Config
from agent.deliveries import Deliveries
from agent.interfaces import InterfaceError
from agent.maps import mapped
from agent.namespaces import OWN, Namespace, Netns
from agent.outbox import Outbox
from agent.plan import Pins, links_in, remove_all, root_of
from agent.programs import sole_agent
from agent.publisher import Publisher
from agent.register import Entry
from agent.succession import Estate, Predecessors, drain
from agent.translation import Translation
from schemas.control import AGENT_CLOCK
from schemas.ledger import HOOKS
from schemas.wire import Batch

log = logging.getLogger(__name__)

# A packet that is being counted on another CPU while we detach is done long before this.
_LAST_PACKETS_SECONDS = 0.02


def detach_links(root: Path) -> None:
    """Detach every program that is attached by a pinned link, in whatever network namespace."""
    for path in links_in(root):
        with suppress(FileNotFoundError):
            libbpf.detach_link(path)


async def detach(config: Config) -> bool:
    """Remove everything of the agents of that name; whether there was anything.

    Raises:
        LoadError: one of them runs.
        OSError: the spool cannot be used.
    """
    root = root_of(config.name)
    with sole_agent(config.name), Outbox(config.spool_folder, config.spool_bytes) as outbox:
        if not root.is_dir():
            return False
        predecessors = Predecessors.of(Pins(root, ""))
        detach_links(root)
        for estate in predecessors.estates:
            _remove_filters(root.name, estate.register.entries())
        await asyncio.sleep(_LAST_PACKETS_SECONDS)
        predecessors.hand_over_outbox(outbox)
        for estate in predecessors.estates:
            outbox.append(_last_batches(estate, outbox))
        # Until here whoever is killed has told nothing, and the next one tells the same again.
        remove_all(root)
        outbox.make_valid()
        await _publish(config, outbox)
    return True


def _remove_filters(owner: str, entries: Iterable[Entry]) -> None:
    """Remove tc filters, which have no pins, in the namespaces that can be entered."""
    for entry in entries:
        if HOOKS["clsact"] not in entry.hooks and not entry.is_qdisc_ours:
            continue
        label = entry.netns_label
        try:
            namespace = Namespace(Netns.given(label) if label else OWN)
        except InterfaceError:
            continue  # its interfaces went with it
        with suppress(OSError):
            namespace.call(partial(_remove_filters_of, owner, entry))
        namespace.close()


def _remove_filters_of(owner: str, entry: Entry) -> None:
    from agent import netlink  # noqa: PLC0415 - pyroute2 takes 18 MB, and few need it

    for direction in ("ingress", "egress"):
        netlink.detach(entry.ifindex, direction, owner=owner)
    if entry.is_qdisc_ours:
        netlink.remove_clsact_if_unused(entry.ifindex)


def _last_batches(estate: Estate, outbox: Outbox) -> list[Batch]:
    """What its agent had not told, and the end of its books."""
    identity = estate.identity
    deliveries = Deliveries(identity["run"], time.time_ns())
    deliveries.restore(estate.saved.content["deliveries"])
    dtype = Translation(estate.saved.content["description"]).dtype(AGENT_CLOCK)
    shared = mapped(estate.pins.map("agent_clock"), dtype, 1, is_writable=True)
    anchor = KernelClock(estate.pins, shared).anchor()
    batches = list(drain(estate, deliveries, anchor=anchor, links={}, owners=None))
    deliveries.note_made(batches)
    batcher = Batcher(identity["node"], identity["boot_id"], identity["run"])
    batcher.begin_at("delivery", deliveries.made_by(identity["run"]).get("delivery", 0))
    waiting = outbox.waiting_with(batches)
    columns = deliveries.columns(time.time_ns(), waiting, is_last=True)
    return [*batches, *batcher.batches("delivery", columns, anchor.as_map())]


async def _publish(config: Config, outbox: Outbox) -> None:
    publisher = Publisher(config.as_broker, list(outbox.logs.values()))
    publisher.start()
    await publisher.stop(config.stop_timeout)
    if waiting_rows := outbox.waiting_rows:
        log.warning(
            "rows wait in the spool for the next start",
            extra={"rows": waiting_rows, "spool": config.spool_folder},
        )
