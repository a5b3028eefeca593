# SPDX-License-Identifier: Apache-2.0
"""Bring rollups and the views that fill them to what the schema declares.

Where there are no rows yet, a rollup holds everything.  Where there are, it is whole from a moment
that lies ahead, so that no row of later times can have come before the view was there; older rows
are asked for themselves, until they have expired and the rollup is all there is.  The table tells
that moment before the view is made, and a view is made only while it still lies ahead.
"""

import re
from collections.abc import Mapping, Sequence

from consumer.tables import ExistingTable, alter, window
from schemas.flow import FLOW
from schemas.rollup import Rollup
from schemas.rollup_sql import (
    ROLLUP_DAYS,
    STORED_ON,
    comment,
    create_rollup,
    create_view,
    leaves_summed,
    modify_view,
    quoted,
    whole_from,
    whole_in,
)

# Clocks of agents may go ahead of ours by less than this.
AHEAD_S = 3600
# A view is made within this time of the look at the tables.
STATEMENT_S = 600


def plan_rollups(
    existing: Mapping[str, ExistingTable], rollups: Sequence[Rollup], *, days: int, now_s: int
) -> list[str]:
    """The statements that turn the *existing* tables into *rollups*, or are a step on the way."""
    statements = []
    for rollup in rollups:
        moment_s = _moment(existing, rollup, now_s)
        if rollup.table not in existing:
            statements.append(create_rollup(rollup, moment_s))
            statements += _retention(rollup, "", days) if days != ROLLUP_DAYS else []
            continue
        table = existing[rollup.table]
        statements += _retention(rollup, table.definition, days)
        statements += window(table, rollup.table)
        if rollup.view not in existing:
            statements.append(_view(rollup, table, moment_s, now_s))
        elif not rollup.join and not leaves_summed(view := existing[rollup.view].definition):
            statements.append(modify_view(rollup, whole_in(view)))
    return statements


def summed_here(existing: Mapping[str, ExistingTable], rollups: Sequence[Rollup]) -> dict[str, int]:
    """Of which of *rollups* the consumer may add the sums itself, and from when on, by table.

    They are those whose views then leave it to us.  What the others hold comes from a view anyway.
    """
    views = {one.table: existing[one.view].definition for one in rollups if one.view in existing}
    return {table: whole_in(view) for table, view in views.items() if leaves_summed(view)}


def _moment(existing: Mapping[str, ExistingTable], rollup: Rollup, now_s: int) -> int:
    """From when on a rollup whose view is made now is whole; 0 where no row came before."""
    if FLOW.table not in existing or not existing[FLOW.table].rows:
        return 0
    return -(-(now_s + AHEAD_S) // rollup.bucket_s) * rollup.bucket_s


def _view(rollup: Rollup, table: ExistingTable, moment_s: int, now_s: int) -> str:
    whole_s = whole_from(table.comment)
    if moment_s and whole_s < now_s + STATEMENT_S:
        return f"{alter(rollup.table)} MODIFY COMMENT {quoted(comment(rollup, moment_s))}"
    return create_view(rollup, whole_s)


def _retention(rollup: Rollup, definition: str, days: int) -> list[str]:
    # As with records, a TTL of another shape was put there by hand, and stays.
    found = re.search(
        rf"TTL {STORED_ON} \+ (?:INTERVAL (\d+) DAY|toIntervalDay\((\d+)\))", definition
    )
    if definition and (not found or int(found[1] or found[2]) == days):
        return []
    return [f"{alter(rollup.table)} MODIFY TTL {STORED_ON} + INTERVAL {days} DAY"]
