# SPDX-License-Identifier: Apache-2.0
"""Sum up the rows of a block for the rollups, as their views in ClickHouse would.

A view looks at every row's keys as a piece of memory of its own, names as texts among them.  Here
rows are sorted by a hash of their keys, so that equal ones are neighbours, and neighbours are put
together where they are equal in every key.  So the sums are right whatever the hash does: where
two keys share one, equal rows may be apart, and there are more sums than need be until ClickHouse
merges them.  The hash has secrets, so nobody can choose his addresses for that.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from consumer.block import joined, native_columns
from schemas.clickhouse import NODE
from schemas.flow import FLOW
from schemas.rollup import DAY_S, MINUTE_S, ROLLUPS, SERVERS, Part, Rollup
from schemas.rollup_sql import STORED_ON
from schemas.wire import Batch, Names

S_NS = 10**9
LATEST_S = 2**32 - 1  # that ClickHouse's DateTime holds
_FIELDS = {field.name: field for field in (NODE, *FLOW.fields)}
_JOIN: Mapping[str, np.ufunc] = {"sum": np.add, "groupBitOr": np.bitwise_or}
# More than any rollup has keys, addresses being two.
_SECRETS = 32

Column = NDArray[Any] | Names
Sums = tuple[Rollup, list[str], bytes]  # the columns' names, and the rows as a Native block


class Adder:
    """Makes the sums of blocks of flows for those rollups that *since_s* names by their table.

    Each is whole from that moment on, seconds since the epoch, and gets nothing of before.
    """

    def __init__(self, since_s: Mapping[str, int]) -> None:
        self._since_s = since_s
        numbers = np.random.default_rng().integers(0, 2**64, _SECRETS, np.uint64)
        self._secrets = numbers | np.uint64(1)

    def sums(self, batches: Sequence[Batch]) -> list[Sums]:
        """What *batches*, whose rows are those of one insert, add to each rollup."""
        rows = _Rows(batches)
        made = []
        for rollup in ROLLUPS:
            if (since_s := self._since_s.get(rollup.table)) is None:
                continue
            kept = np.flatnonzero(rows["time"] >= since_s * S_NS) if since_s else None
            if len(rows["time"] if kept is None else kept):
                made.append(self._sums(rollup, rows, kept))
        return made

    def _sums(self, rollup: Rollup, rows: "_Rows", kept: NDArray[np.intp] | None) -> Sums:
        parts = [part for part in rollup.parts if part.sql != "1"]
        of_part = {part: rows.column(part) for part in parts}
        if kept is not None:
            of_part = {part: _taken(column, kept) for part, column in of_part.items()}
        keys = [_numbers(column) for part, column in of_part.items() if not part.function]
        order, starts = self._grouped(keys)
        columns = []
        for part in rollup.parts:
            column: Column
            if part.sql == "1":
                column = np.diff(starts, append=len(order)).astype("<u8")
            elif part.function:
                values = _numbers(of_part[part])[order]
                column = _JOIN[part.function].reduceat(values, starts, dtype=values.dtype)
            else:
                column = _taken(of_part[part], order[starts])
            columns.append((part.field.name, part.field.kind.clickhouse, column))
        today = np.full(len(starts), time.time() // DAY_S, "<u2")
        columns.append((STORED_ON, "Date", today))
        return rollup, [name for name, _, _ in columns], native_columns(columns)

    def _grouped(self, keys: Sequence[NDArray[Any]]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """An order of the rows in which equal ones are together, and where in it new ones begin."""
        rows = len(keys[0])
        # Many columns hold one value, and so does the upper half of every address of IPv4.
        lanes = [lane for key in keys for lane in _lanes(key) if (lane != lane[0]).any()]
        hashes = np.zeros(rows, np.uint64)
        for lane, secret in zip(lanes, self._secrets, strict=False):
            hashes += lane.astype(np.uint64) * secret
        hashes ^= hashes >> np.uint64(32)
        hashes *= self._secrets[-1]
        # The lowest bits of a product are its worst, and numbers sort faster than their indexes.
        number_bits = np.uint64((1 << (rows - 1).bit_length()) - 1)
        hashes &= ~number_bits
        hashes |= np.arange(rows, dtype=np.uint64)
        hashes.sort()
        order = (hashes & number_bits).astype(np.intp)
        is_new = np.ones(rows, np.bool_)
        is_new[1:] = (hashes[1:] ^ hashes[:-1]) > number_bits
        for lane in lanes:
            ordered = lane[order]
            is_new[1:] |= ordered[1:] != ordered[:-1]
        return order, np.flatnonzero(is_new)


class _Rows:
    """The rows of some batches as columns, each joined once, when it is asked for."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self._batches = batches
        self._columns: dict[str, Column] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._columns:
            self._columns[name] = joined(_FIELDS[name], self._batches)
        return self._columns[name]

    def column(self, part: Part) -> Column:
        """What ClickHouse makes of `part.sql`."""
        name = part.field.name
        column: Column = self[part.sql] if part.sql in _FIELDS else _MADE[name](self)
        return column


def _minute(rows: _Rows) -> NDArray[Any]:
    minutes: NDArray[Any] = rows["time"].view("<u8") // np.uint64(MINUTE_S * S_NS)
    return np.minimum(minutes * np.uint64(MINUTE_S), np.uint64(LATEST_S)).astype("<u4")


def _date(rows: _Rows) -> NDArray[Any]:
    # What is too late for a Date begins again at the first, as in ClickHouse.
    days: NDArray[Any] = rows["time"].view("<u8") // np.uint64(DAY_S * S_NS)
    return days.astype("<u2")


def _service_port(rows: _Rows) -> NDArray[Any]:
    # 0 where either is.
    lower: NDArray[Any] = np.minimum(rows["src_port"], rows["dst_port"])
    return lower


def _server(rows: _Rows) -> NDArray[Any]:
    src, dst = rows["src_port"], rows["dst_port"]
    found = np.where(src < dst, np.uint8(SERVERS["src"]), np.uint8(SERVERS["dst"]))
    has_none: NDArray[np.bool_] = (src == 0) | (dst == 0)
    found[has_none] = SERVERS["none"]
    return found


_MADE = {"minute": _minute, "date": _date, "service_port": _service_port, "server": _server}


def _numbers(column: Column) -> NDArray[Any]:
    return column.codes if isinstance(column, Names) else column


def _taken(column: Column, at: NDArray[np.intp]) -> Column:
    return Names(column.codes[at], column.categories) if isinstance(column, Names) else column[at]


def _lanes(key: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """A key as numbers: itself, or both halves of an address."""
    if key.dtype.kind != "V":
        yield key
        return
    yield from np.ascontiguousarray(key.view("<u8").reshape(len(key), -1).T)
