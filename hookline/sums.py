# SPDX-License-Identifier: Apache-2.0
"""Choose what a question about sums is asked of: a rollup, the rows, or the one and the other.

A rollup answers where it holds every column that the question is about.  It knows whole minutes or
days, and in an older database only those from a moment on; what is before that is summed up from
the rows.  So the answer is that of the rows in every case.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from hookline.conditions import Conditions
from hookline.history import History
from schemas.clickhouse import DATABASE
from schemas.filter.tree import Filter, leaves
from schemas.flow import FLOW
from schemas.rollup import (
    ADDRESSES_1D,
    DAY_S,
    EDGES_1D,
    FLOWS_1M,
    ROLLUPS,
    SERVER,
    SERVICE_PORT,
    Rollup,
)
from schemas.rollup_sql import whole_from

_SIDES = {"src_addr": "src", "dst_addr": "dst"}
_SERVERS = next(part.type for part in EDGES_1D.parts if part.field.name == "server")
_OF_ROWS = {
    "service_port": f"toUInt16({SERVICE_PORT})",
    "server": f"CAST({SERVER}, '{_SERVERS.replace(chr(39), chr(92) + chr(39))}')",
}
_COMMENTS = f"SELECT name, comment FROM system.tables WHERE database = '{DATABASE}'"
_NOW = "SELECT toUnixTimestamp64Nano(now64(9))"
# From here on the days at the period's edge cost less than the minutes within it.
_LONG_S = 2 * DAY_S


@dataclass(frozen=True, slots=True)
class Wanted:
    """A question: sums by *columns*, of what *filter* means, of the last *since_s* seconds or all."""

    columns: tuple[str, ...]
    filter: Filter
    since_s: int

    @property
    def all_columns(self) -> set[str]:
        return {*self.columns, *(leaf.column for leaf in leaves(self.filter))}


@dataclass(frozen=True, slots=True)
class Summed:
    """Where the sums are: *sql* has the columns, `flows`, `packets` and `bytes`.

    Before *cut_s*, seconds since the epoch, they are from the rows, then from *rollup*.
    """

    sql: str
    values: dict[str, str | int]
    rollup: Rollup | None = None
    cut_s: int = 0

    @property
    def origin(self) -> str:
        """What was read, for people."""
        return self.rollup.table if self.rollup else FLOW.table


def summed(history: History, wanted: Wanted, *, only_rows: bool = False) -> Summed:
    """Where *wanted* is answered from.

    Raises:
        HistoryError: ClickHouse does not answer.
    """
    since_ns = int(history.rows(_NOW).rows[0][0]) - wanted.since_s * 10**9 if wanted.since_s else 0
    moments = {} if only_rows else _moments(history)
    rollup = next((one for one in _candidates(wanted) if one.table in moments), None)
    conditions = Conditions(FLOW.table, {"since": since_ns})
    if rollup is None:
        return Summed(_of_rows(wanted, conditions, ""), conditions.values)
    bucket_ns = rollup.bucket_s * 10**9
    cut_s = max(-(-since_ns // bucket_ns) * rollup.bucket_s, moments[rollup.table])
    conditions.values["cut"] = cut_s
    before = "flows.time < toDateTime({cut:UInt32}, 'UTC')"
    parts = [_of_rows(wanted, conditions, before)] if cut_s else []
    parts.append(_of_rollup(wanted, rollup, conditions.values))
    return Summed("\n    UNION ALL\n".join(parts), conditions.values, rollup, cut_s)


def _candidates(wanted: Wanted) -> list[Rollup]:
    """The rollups that can answer, the quickest first."""
    columns = wanted.all_columns
    sides = [one for one in wanted.columns if one in _SIDES]
    found = []
    if (
        len(sides) == 1
        and columns - set(sides) <= ADDRESSES_1D.keys
        and not ({leaf.column for leaf in leaves(wanted.filter)} & set(sides))
    ):
        found.append(ADDRESSES_1D)
    ordered = (EDGES_1D, FLOWS_1M)
    if wanted.since_s and wanted.since_s < _LONG_S:
        ordered = (FLOWS_1M, EDGES_1D)
    return [*found, *(one for one in ordered if columns <= one.keys)]


def _moments(history: History) -> Mapping[str, int]:
    """From when on each rollup that is there is whole, what it is made of included."""
    comments = dict(history.rows(_COMMENTS).rows)
    moments: dict[str, int] = {}
    for one in ROLLUPS:
        if one.table in comments and (one.source == FLOW.table or one.source in moments):
            moments[one.table] = max(whole_from(comments[one.table]), moments.get(one.source, 0))
    return moments


def _of_rows(wanted: Wanted, conditions: Conditions, before: str) -> str:
    made = [f"{_OF_ROWS.get(one, f'flows.{one}')} AS {one}" for one in wanted.columns]
    claims = (
        ["flows.time >= fromUnixTimestamp64Nano({since:Int64}, 'UTC')"] if wanted.since_s else []
    )
    claims += [before] if before else []
    claims.append(conditions.of(wanted.filter))
    return (
        f"    SELECT {', '.join([*made, '1 AS flows', 'flows.packets AS packets'])}, flows.bytes AS bytes\n"
        f"    FROM flows WHERE {' AND '.join(claims)}"
    )


def _of_rollup(wanted: Wanted, rollup: Rollup, values: dict[str, str | int]) -> str:
    conditions = Conditions(rollup.table, values)
    claims = [conditions.of(wanted.filter)]
    made = [f"{rollup.table}.{one} AS {one}" for one in wanted.columns]
    if rollup is ADDRESSES_1D:
        (side,) = (one for one in wanted.columns if one in _SIDES)
        made[wanted.columns.index(side)] = f"{rollup.table}.address AS {side}"
        claims.insert(0, f"{rollup.table}.side = '{_SIDES[side]}'")
    if values["cut"]:
        time = f"{rollup.table}.{rollup.time.field.name}"
        cut = "toDateTime({cut:UInt32}, 'UTC')"
        claims.insert(0, f"{time} >= {f'toDate({cut})' if rollup.bucket_s == DAY_S else cut}")
    sums = [f"{rollup.table}.{one} AS {one}" for one in ("flows", "packets", "bytes")]
    return f"    SELECT {', '.join([*made, *sums])}\n    FROM {rollup.table} WHERE {' AND '.join(claims)}"
