# SPDX-License-Identifier: Apache-2.0
"""What happens to them: events at random moments, all derived from one seed.

Events overlap: a broker may be frozen while a consumer is killed and an agent starts.  Only one
thing at a time happens to one actor.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from tests.chaos.cast import Actor, Brokering, Database, Observing, Storing

_PAUSE_S = 1.2
_DOWN_S = 2.0
_FROZEN_S = 3.0
_PATIENCE_S = 10.0
# Memory exceeded, too many parts, a read-only replica, no space left, and an answer that is lost.
INSERT_FAULTS = ("241", "252", "242", "243", "silent")


@dataclass(slots=True)
class Play:
    """Some actors and a seed: `await Play(seed, actors).run(60)`."""

    seed: int
    actors: Sequence[Actor]
    told: list[str] = field(default_factory=list)
    happened: Counter[str] = field(default_factory=Counter)
    _began: float = 0.0

    async def run(self, events: int) -> None:
        """Have so many things happen; return once all of them are over, and everybody works."""
        chosen = random.Random(self.seed)
        busy = {actor.name: asyncio.Lock() for actor in self.actors}
        self._began = time.monotonic()
        async with asyncio.TaskGroup() as running:
            for _ in range(events):
                await asyncio.sleep(chosen.uniform(0, _PAUSE_S))
                actor = chosen.choice(self.actors)
                what, event = chosen.choice(_events_of(actor))
                lasts = chosen.random()
                running.create_task(self._happen(busy[actor.name], actor, what, event, lasts))
        for actor in self.actors:
            await actor.until_it_works()

    async def _happen(
        self, busy: asyncio.Lock, actor: Actor, what: str, event: "Event", lasts: float
    ) -> None:
        async with busy:
            self.told.append(f"{time.monotonic() - self._began:6.1f} s: {actor.name} {what}")
            self.happened[f"{type(actor).__name__} {what}"] += 1
            await event(actor, lasts)


Event = Callable[[Actor, float], Awaitable[None]]


async def _killed(actor: Actor, lasts: float) -> None:
    await actor.kill()
    await asyncio.sleep(lasts * _DOWN_S)
    await actor.start()


async def _killed_at_work(actor: Actor, lasts: float) -> None:
    """It has come so far as to work, if what it needs has let it, and its work has begun."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_PATIENCE_S):
            await actor.until_it_works()
    await asyncio.sleep(lasts * _DOWN_S)
    await _killed(actor, 0)


async def _terminated(actor: Actor, lasts: float) -> None:
    await actor.terminate()
    await asyncio.sleep(lasts * _DOWN_S)
    await actor.start()


async def _frozen(actor: Actor, lasts: float) -> None:
    await actor.freeze(lasts * _FROZEN_S)


async def _without_its_loader(actor: Actor, lasts: float) -> None:
    assert isinstance(actor, Observing)
    await actor.kill()
    await actor.start()
    await actor.kill_loader()
    await asyncio.sleep(lasts * _DOWN_S)
    await actor.start()


async def _refusing(actor: Actor, lasts: float) -> None:
    """The next inserts into the tables fail, each in a way of its own."""
    assert isinstance(actor, Database)
    chosen = random.Random(lasts)
    for table in ("flows", "ledger", "deliveries"):
        faults = chosen.choices(INSERT_FAULTS, k=2)
        await asyncio.to_thread(actor.server.next_inserts, *faults, table=table)


def _events_of(actor: Actor) -> list[tuple[str, Event]]:
    everybody: list[tuple[str, Event]] = [
        ("is killed", _killed),
        ("is killed at work", _killed_at_work),
        ("is frozen", _frozen),
    ]
    match actor:
        case Observing():
            return [
                *everybody,
                ("is terminated", _terminated),
                ("loses its loader", _without_its_loader),
            ]
        case Storing():
            return [*everybody, ("is terminated", _terminated)]
        case Database():
            return [*everybody, ("refuses inserts", _refusing)]
        case Brokering():
            return everybody
    raise AssertionError(actor.name)
