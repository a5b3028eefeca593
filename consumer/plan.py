# SPDX-License-Identifier: Apache-2.0
"""The plan of a block: what will be inserted, written down in Kafka before it is.

It stands in the metadata of the committed offset, which is the block's first; there whoever owns
the partition next finds it and forms the same block, with the same token, so that ClickHouse
stores it once however often and by whomever it is sent.  Its form is specified in
docs/reference/record-format.md.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from consumer.ranges import Ranges, ranges_in
from consumer.record import Accepted

# The second tells that the sums are not left to the views; all else is as in the first.
VERSION = 2
# Kafka's default for `offset.metadata.max.bytes`.
MAX_BYTES = 4096
TOKEN_CHARACTERS = 16
# The key that tells our metadata from everybody else's; its value is the version.
_KEY = "hookline_plan"


class PlanError(Exception):
    """Metadata that is no plan; the text is one line."""


class NewerPlan(Exception):  # noqa: N818  # it says what was found
    """A plan of a version that we do not know; the text is one line."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A block of one partition: the records from offset *start* up to *end*, without some.

    *left_out* are offsets of records that are not in it: their batches are stored already, or
    they became dead letters, or have no rows.  *stored_days* are batches of which only the rows
    of some days are stored, by their offset: the block holds those of all other days.  *token* is
    the beginning of the insert's, by which one sees whether it is the same block again.
    *is_summed* where the consumer sums up the block for the rollups, rather than their views: whoever
    repeats the insert has to do the same, since sums of one way are not known to be those of the other.
    """

    start: int
    end: int
    token: str
    left_out: Ranges = field(default_factory=Ranges)
    stored_days: Mapping[int, Ranges] = field(default_factory=dict)
    is_summed: bool = False

    def text(self) -> str:
        """The plan as metadata."""
        content: dict[str, Any] = {
            # So that whatever can follow it, does.
            _KEY: 2 if self.is_summed else 1,
            "start": self.start,
            "end": self.end,
            "token": self.token,
        }
        # Offsets are large and differences small.
        if self.left_out:
            content["left_out"] = str(_moved(self.left_out, -self.start))
        if self.stored_days:
            content["stored_days"] = {
                str(offset - self.start): str(days) for offset, days in self.stored_days.items()
            }
        return json.dumps(content, separators=(",", ":"))

    @property
    def fits(self) -> bool:
        """Whether a broker takes it."""
        return len(self.text()) <= MAX_BYTES


def insert_token(accepted: Iterable[Accepted]) -> str:
    """A name for these rows, by which ClickHouse knows an insert that is repeated.

    It is made of what names the rows for ever, not of offsets: those start again when a topic
    is created anew, and ClickHouse would take new rows for old ones.
    """
    digest = sha256()
    for one in accepted:
        rows = one.rows
        digest.update(repr((rows.node, rows.boot_id, rows.run, rows.kind, rows.seq)).encode())
    return digest.hexdigest()


def planned(
    start: int,
    end: int,
    token: str,
    offsets: Iterable[int],
    stored_days: Mapping[int, Ranges] | None = None,
    *,
    is_summed: bool = False,
) -> Plan:
    """The plan of a block that holds the records at *offsets*, which ascend, and no others."""
    left_out = Ranges()
    at = start
    for offset in offsets:
        if at < offset:
            left_out.add_range(at, offset - 1)
        at = offset + 1
    if at < end:
        left_out.add_range(at, end - 1)
    return Plan(start, end, token[:TOKEN_CHARACTERS], left_out, stored_days or {}, is_summed)


def plan_in(metadata: str) -> Plan | None:
    """The plan in the metadata of a committed offset; None where there is no metadata.

    Raises:
        NewerPlan: it is one, of a newer version.
        PlanError: it is something else.
    """
    if not metadata:
        return None
    try:
        content = json.loads(metadata)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or type(version := content.get(_KEY)) is not int:
        raise PlanError(f"metadata {metadata[:80]!r} is no plan of ours")
    if version > VERSION:
        raise NewerPlan(f"plan has version {version}, this consumer reads {VERSION}")
    try:
        return _plan(content)
    except (KeyError, TypeError, ValueError) as error:
        raise PlanError(f"plan {metadata[:80]!r} is damaged: {error!r}") from None


def _plan(content: dict[str, Any]) -> Plan:
    start, end, token = content["start"], content["end"], content["token"]
    if type(start) is not int or type(end) is not int or not 0 <= start < end:
        raise ValueError(f"it goes from {start!r} to {end!r}")
    if not isinstance(token, str) or len(token) != TOKEN_CHARACTERS:
        raise ValueError(f"its token is {token!r}")
    left_out = _moved(ranges_in(content.get("left_out", "")), start)
    stored_days = {
        start + int(offset): ranges_in(days)
        for offset, days in dict(content.get("stored_days", {})).items()
    }
    return Plan(start, end, token, left_out, stored_days, is_summed=content[_KEY] > 1)


def _moved(ranges: Ranges, by: int) -> Ranges:
    moved = Ranges()
    for first, last in ranges:
        moved.add_range(first + by, last + by)
    return moved
