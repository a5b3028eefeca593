# SPDX-License-Identifier: Apache-2.0
"""Run a rule over the history: what it would have refused, of whom, and how much of everything.

A row of `flows` tells of an interval, not of a packet.  So a condition on TCP flags holds for a row
if some packet of it had the flag, and what a limit would have refused is an estimate: the packets
of a slot of time are taken to come evenly.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product

from hookline.conditions import Conditions
from hookline.drop.lists import MOST_CHARS, conditions_of
from hookline.history import History
from schemas.filter.grammar import parse
from schemas.filter.tree import leaves
from schemas.protocols import IPV4, IPV6
from schemas.rules.boxes import sides_of
from schemas.rules.limit import Limit
from schemas.rules.rule import Rule

SLOT_SECONDS = 10
# What is told of each kind: processes, units, peers, ports.
KINDS = ("process", "unit", "peer", "port")
# More than anybody reads, so that what several questions find can be put together.
_MOST_NAMES = 1000

_CHOSEN = (
    "({since:UInt32} = 0 OR flows.time >= now64(9) - toIntervalSecond({since:UInt32}))"
    " AND ({node:String} = '' OR flows.node = {node:String})"
)
# Rules are about IP packets, of tunnels about those that the rows count in `packets`.
_JUDGED = f"flows.ethertype IN ({IPV4}, {IPV6})"
# Totals of packets that were not told apart.
_UNJUDGED = "flows.ethertype = 0"
_EVERYTHING = f"""
SELECT sum(packets), sum(bytes), sumIf(packets, {_UNJUDGED}) FROM flows WHERE {_CHOSEN}
"""
_TOTALS = """
SELECT
    uniqExact(node, interface, direction, src_addr, src_port, dst_addr, dst_port, protocol),
    sum(packets), sum(bytes),
    toUnixTimestamp64Nano(min(time)), toUnixTimestamp64Nano(max(end))
FROM flows WHERE {where}
"""
_NAMES = f"""
SELECT named.1 AS kind, named.2 AS name, sum(packets) AS count, sum(bytes)
FROM (
    SELECT packets, bytes, arrayJoin([
        ('process', command),
        ('unit', if(container != '', substring(container, 1, 12), unit)),
        ('peer', replaceOne(toString(if(direction = 'ingress', src_addr, dst_addr)), '::ffff:', '')),
        ('port', concat(toString(protocol), ' ', toString(dst_port)))
    ]) AS named
    FROM flows WHERE {{where}}
)
GROUP BY kind, name ORDER BY count DESC, name LIMIT {_MOST_NAMES} BY kind
"""
_SLOTS = f"""
SELECT node, intDiv(toUnixTimestamp(time), {SLOT_SECONDS}) AS slot, sum(packets), sum(bytes)
FROM flows WHERE {{where}} GROUP BY node, slot
"""
# The share of a source's packets that is above what a slot may have.
_OVER_BY_SOURCE = f"""
SELECT sum(slot_packets * share), sum(slot_bytes * share)
FROM (
    SELECT sum(packets) AS slot_packets, sum(bytes) AS slot_bytes,
        greatest(1 - {{most}} / slot_{{unit}}, 0) AS share
    FROM flows WHERE {{where}}
    GROUP BY node, intDiv(toUnixTimestamp(time), {SLOT_SECONDS}), src_addr
)
"""


@dataclass(slots=True)
class Outcome:
    """What a rule means of the history."""

    flows: int = 0
    packets: int = 0
    bytes: int = 0
    first_ns: int = 0
    last_ns: int = 0
    # Of a limit, about what is above it; else everything that it means.
    refused_packets: int = 0
    refused_bytes: int = 0
    names: dict[str, Counter[str]] = field(default_factory=dict)  # packets, by kind and name
    name_bytes: dict[str, Counter[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Everything:
    """All that the history has of the time, and what of it no rule can be asked about."""

    packets: int
    bytes: int
    unjudged_packets: int


@dataclass(frozen=True, slots=True)
class Period:
    """The part of the history that is asked."""

    since: int = 0  # how many seconds back; 0 for all time
    node: str = ""  # "" for all nodes

    @property
    def values(self) -> dict[str, str | int]:
        return {"since": self.since, "node": self.node}


def everything(history: History, period: Period) -> Everything:
    """The whole of the period; raises `HistoryError`."""
    (row,) = history.rows(_EVERYTHING, period.values).rows
    return Everything(*map(int, row))


def outcome(history: History, rule: Rule, period: Period, *, has_names: bool = True) -> Outcome:
    """What *rule*, alone and enforced, means of the period.

    Raises:
        HistoryError: ClickHouse does not answer.
    """
    found = Outcome(
        names={kind: Counter() for kind in KINDS}, name_bytes={kind: Counter() for kind in KINDS}
    )
    slots: Counter[tuple[str, ...]] = Counter()
    slot_bytes: Counter[tuple[str, ...]] = Counter()
    conditions = Conditions("flows", period.values)
    match = conditions.of(parse(rule.match, for_packets=True))
    for lists in _lists(rule):
        where = " AND ".join([_CHOSEN, _JUDGED, match, *lists])
        _take_totals(found, history.rows(_TOTALS.replace("{where}", where), conditions.values).rows)
        if has_names:
            for kind, name, packets, count in history.rows(
                _NAMES.replace("{where}", where), conditions.values
            ).rows:
                found.names[kind][name] += int(packets)
                found.name_bytes[kind][name] += int(count)
        if rule.limit is None:
            continue
        if rule.limit.per == "source":
            _take_over(found, history, rule.limit, where, conditions)
            continue
        for node, slot, packets, count in history.rows(
            _SLOTS.replace("{where}", where), conditions.values
        ).rows:
            slots[node, slot] += int(packets)
            slot_bytes[node, slot] += int(count)
    if rule.limit is None and rule.action == "drop":
        found.refused_packets, found.refused_bytes = found.packets, found.bytes
    elif rule.limit is not None and rule.limit.per == "rule":
        _take_slots(found, rule.limit, slots, slot_bytes)
    return found


def _lists(rule: Rule) -> Iterator[tuple[str, ...]]:
    """Conditions for the rule's lists, together all that is in them; () where it has none."""
    sides = {side: getattr(rule, side) for side in ("src", "dst") if getattr(rule, side)}
    most = MOST_CHARS // max(len(sides), 1)
    yield from product(
        *(
            conditions_of(f"flows.{side}_addr", sides_of(networks), most=most)
            for side, networks in sides.items()
        )
    )


def _take_totals(found: Outcome, rows: list[list[str]]) -> None:
    flows, packets, count, first, last = map(int, rows[0])
    if not packets:
        return
    found.flows += flows
    found.packets += packets
    found.bytes += count
    found.first_ns = min(found.first_ns or first, first)
    found.last_ns = max(found.last_ns, last)


def _take_over(
    found: Outcome, history: History, limit: Limit, where: str, conditions: Conditions
) -> None:
    sql = _OVER_BY_SOURCE.replace("{most}", str(limit.rate * SLOT_SECONDS))
    sql = sql.replace("{unit}", limit.unit).replace("{where}", where)
    ((packets, count),) = history.rows(sql, conditions.values).rows
    found.refused_packets += round(float(packets))
    found.refused_bytes += round(float(count))


def _take_slots(
    found: Outcome,
    limit: Limit,
    packets: Counter[tuple[str, ...]],
    counts: Counter[tuple[str, ...]],
) -> None:
    most = limit.rate * SLOT_SECONDS
    measured = packets if limit.unit == "packets" else counts
    for slot, amount in measured.items():
        if amount > most:
            share = 1 - most / amount
            found.refused_packets += round(packets[slot] * share)
            found.refused_bytes += round(counts[slot] * share)


def notes_on(rule: Rule) -> list[str]:
    """What whoever reads the outcome must know."""
    found = []
    if any(leaf.column == "tcp_flags" for leaf in leaves(parse(rule.match, for_packets=True))):
        found.append(
            "a row holds the TCP flags of all its packets: a flow counts whole if one packet had it"
        )
    if rule.limit is not None:
        found.append(
            f"what is above the limit is an estimate: {SLOT_SECONDS} s at a time, on each node"
        )
    return found
