# SPDX-License-Identifier: Apache-2.0
"""Captures played into the kernel programs, up to the batches: no Kafka takes them."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

from agent.config import Config
from agent.plan import remove_all
from agent.programs import load
from agent.replay.run import Player, plan_for
from agent.replay.timeline import Loaded, load_captures
from tests.lab.published import Published

SECOND_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Played:
    loaded: Loaded
    published: Published
    refused: int

    def rows(self, kind: str, *names: str) -> list[tuple[int, ...]]:
        """Rows of numbers, sorted."""
        columns = [self.published.column(kind, name).tolist() for name in names]
        return sorted(zip(*columns, strict=True))


def played(*paths: Path, interval_ns: int = SECOND_NS, **options: object) -> Played:
    """The batches of captures."""
    loaded = load_captures(paths)
    config = Config(node="replayed", owners="no", sockets="no", **options)
    plan = plan_for(config, loaded, interval_ns)
    asyncio.run(load(plan))
    published = Published()
    try:
        player = Player(plan, loaded, node="replayed", interval_ns=interval_ns)
        for batches in player.play():
            for batch in batches:
                published.batches[batch.kind].append(batch)
    finally:
        remove_all(plan.pins.root)
    return Played(loaded, published, player.refused)
