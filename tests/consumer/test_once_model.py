# SPDX-License-Identifier: Apache-2.0
"""Every batch is stored and summed up exactly once, whoever dies, pauses or errs, and whenever.

The consumer's own code, from its pipeline on, runs between small models of what is around it.
"""

import asyncio
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumer.plan import plan_in
from tests.consumer.model import NODE, Consumer, Died, Sent, World

ENDS = {
    "commit": ["dies before", "dies after", "pauses", "another wakes"],
    "insert": [
        *("dies before", "dies after", "pauses", "another wakes"),
        *("fails", "answer is lost", "server dies", "both die", "view refuses"),
        *("server dies before the rows", "both die before the rows"),
    ],
    "sums": ["dies before", "dies after", "pauses", "another wakes", "fails", "answer is lost"],
    "complete": ["dies before", "dies after", "pauses", "another wakes", "fails", "answer is lost"],
    "find": ["dies before", "fails", "another wakes"],
    "put": ["dies before", "dies after"],
}
WELL = "as it should"
WELL_SCRIPT: dict[str, list[str]] = {what: [] for what in ENDS}

batches = st.builds(
    lambda rows, is_poison: (rows, is_poison),
    st.sampled_from([(1,), (2,), (3,), (0, 2), (1, 1), (2, 0, 1), (0,)]),
    st.sampled_from([False] * 7 + [True]),
)
runs = st.sampled_from("ab")
# What comes into the topic: a new batch, the last few of a run once more, or what is no record.
events = st.one_of(
    st.tuples(st.just("new"), runs, batches),
    st.tuples(st.just("again"), runs, st.integers(1, 6)),
    st.tuples(st.just("garbage"), st.none(), st.none()),
)
# How the first steps of each kind end; those after them, as they should.
ends = st.fixed_dictionaries(
    {what: st.lists(st.sampled_from([WELL, *some]), max_size=4) for what, some in ENDS.items()}
)
lives = st.tuples(
    st.lists(events, max_size=8),
    st.integers(1, 7),
    ends,
    st.sampled_from(
        [
            "",
            "",
            "",
            "",
            "offsets are lost",
            "metadata is lost",
            "version differs",
            "records are gone",
        ]
    ),
    # Whether that consumer sums up itself what it plans.
    st.booleans(),
)


def grow(world: World, happened) -> None:
    """Let agents send what *happened*."""
    for what, run, how in happened:
        own = {one.seq: one for one in world.log if one and one.run == run}
        if what == "new":
            rows, is_poison = how
            sent = Sent(run, len(own), rows, is_poison and sum(rows) > 0)
            if sent.is_poison:
                world.poison.add((NODE, run, sent.seq))
            world.log.append(sent)
        elif what == "again":
            world.log.extend(own[seq] for seq in sorted(own)[-how:])
        else:
            world.log.append(None)


async def live(world: World, max_rows: int, script, *, sums: bool = True) -> None:
    """One life of a consumer, whose steps end as *script* says."""
    left = {what: iter(some) for what, some in script.items()}
    try:
        await Consumer(world, lambda what: next(left[what], WELL), max_rows, sums=sums).live()
    except Died:
        return


def lose(world: World, what: str) -> None:
    """Make the plan one that cannot be followed."""
    if what == "offsets are lost":
        world.mark = None
    elif what and world.mark:
        offset, metadata = world.mark
        plan = plan_in(metadata) if metadata.startswith("{") else None
        if what == "metadata is lost" or not plan:
            world.mark = (offset, "somebody else's")
        elif what == "version differs":
            # As if records were in it that we read otherwise.
            world.mark = (offset, replace(plan, token="f" * 16).text())
        else:
            world.mark = (offset, replace(plan, end=plan.end + 100).text())


def check(world: World) -> None:
    wanted = {}
    for sent in world.log:
        for day, rows in enumerate(sent.rows if sent else ()):
            if rows and not sent.is_poison:
                wanted[(NODE, sent.run, sent.seq), day] = rows
    assert dict(world.stored) == wanted
    refused = {
        (sent.run, sent.seq): max(
            world.letters[offset] for offset, one in enumerate(world.log) if one == sent
        )
        for sent in world.log
        if sent and sent.is_poison
    }
    assert all(refused.values())
    assert all(world.letters[at] for at, sent in enumerate(world.log) if sent is None)


@pytest.fixture(autouse=True, scope="module")
def _impatient():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("consumer.patience.FIRST_PAUSE_S", 0.0)
        patch.setattr("consumer.writer.SUMMED_ROWS", 2)
        yield


@settings(max_examples=200, deadline=None)
@given(st.lists(lives, min_size=1, max_size=5))
def test_every_batch_is_stored_once_whatever_happens(all_lives):
    async def story() -> World:
        world = World([], set())
        for happened, max_rows, script, loss, sums in all_lives:
            grow(world, happened)
            # Without a plan nothing helps against a consumer that is paused while it inserts.
            if not world.paused:
                lose(world, loss)
            await live(world, max_rows, script, sums=sums)
        await live(world, 5, WELL_SCRIPT)
        while world.paused:
            world.wake_one()
        await live(world, 5, WELL_SCRIPT)
        return world

    world = asyncio.run(story())
    check(world)
    # Rows that are known to be stored are not summed up any more, and those that were lost with
    # their plan are summed up again, where that had been done.
    inserts = [end for _, _, script, _, _ in all_lives for end in script["insert"]]
    has_loss = any(loss for _, _, _, loss, _ in all_lives)
    if not has_loss and "view refuses" not in inserts:
        assert world.summed == world.stored
    elif not any(end.endswith("before the rows") for end in inserts):
        assert world.summed <= world.stored
