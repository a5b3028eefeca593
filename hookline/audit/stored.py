# SPDX-License-Identifier: Apache-2.0
"""Ask ClickHouse for the books: the agents' ledgers, and what the tables themselves hold.

A ledger's row tells up to which batch its interval's flows are.  So the flow rows of a period are
chosen by the batches that they came in, not by their times, which cannot tell on which side of an
interval's end a packet was counted.
"""

from collections.abc import Iterator, Sequence

from hookline.audit.books import Amount, Batches, Books, Place, Refusals, RunAndKind, Span
from hookline.history import History
from schemas.catalogue import RECORD_OF_KIND
from schemas.clickhouse import DATABASE

# Rows of an interval may begin a little before it; see `agent/observer.py`.
_EARLIER_SECONDS = 3600
# Some 120 bytes each, while ClickHouse parses 256 KiB by default (max_query_size).
_SPANS_A_QUESTION = 1000
_RULES_LATER_NS = 500_000_000
_STATIONS = ("link", "seen", "extra", "flow", "lost", "overflow", "dropped", "dropped_extra")

_SUMS = ", ".join(
    f"sumIf({name}_{what}, is_in) AS {name}_{what}_sum"
    for name in _STATIONS
    for what in ("packets", "bytes")
)
_EDGES = ", ".join(
    f"argMaxIf(seen_{what}, end, {when}) AS {name}_{what}"
    for name, when in (("before", "NOT is_in"), ("latest", "is_in"))
    for what in ("packets", "bytes")
)
# With the interval before, at whose end packets were under way too.
_UNREAD = ", ".join(
    f"sumIf(seen_{what} + seen_{what}_before, is_in AND link_packets = 0)"
    for what in ("packets", "bytes")
)
_BEFORE = ", ".join(
    f"lagInFrame(seen_{what}) OVER (PARTITION BY node, interface, direction ORDER BY end)"
    f" AS seen_{what}_before"
    for what in ("packets", "bytes")
)
# Time is compared with what was the interval's end; its row before the period tells what was under
# way as that began.
_LEDGER = f"""
SELECT node, interface, toString(direction), {_SUMS}, {_EDGES}, {_UNREAD}, max(hook IN ('xdp', 'xdp_generic'))
FROM (
    SELECT *, {_BEFORE}, toUnixTimestamp64Nano(end) > {{from:Int64}} AS is_in
    FROM {DATABASE}.ledger
    WHERE toUnixTimestamp64Nano(end) <= {{until:Int64}} AND time > toDateTime({{earlier:UInt32}}, 'UTC')
        AND ({{node:String}} = '' OR node = {{node:String}})
)
GROUP BY node, interface, direction HAVING max(is_in)
ORDER BY node, interface, direction
"""
_SPANS = f"""
SELECT node, run,
    maxIf(flow_seq, toUnixTimestamp64Nano(end) <= {{from:Int64}}) AS first, max(flow_seq) AS next
FROM {DATABASE}.ledger
WHERE toUnixTimestamp64Nano(end) <= {{until:Int64}} AND time > toDateTime({{earlier:UInt32}}, 'UTC')
    AND ({{node:String}} = '' OR node = {{node:String}})
GROUP BY node, run HAVING max(toUnixTimestamp64Nano(end)) > {{from:Int64}}
ORDER BY node, run
"""
# The ledger reads its counters a moment before the rules' are read.
_LEDGER_REFUSALS = f"""
SELECT node, sumIf(dropped_packets, is_in), sumIf(dropped_bytes, is_in),
    sumIf(dropped_packets, end = before_end), sumIf(dropped_bytes, end = before_end),
    sumIf(dropped_packets, end = latest_end), sumIf(dropped_bytes, end = latest_end)
FROM (
    SELECT node, end, dropped_packets, dropped_bytes,
        toUnixTimestamp64Nano(end) > {{from:Int64}} AS is_in,
        maxIf(end, NOT is_in) OVER (PARTITION BY node) AS before_end,
        max(end) OVER (PARTITION BY node) AS latest_end
    FROM {DATABASE}.ledger
    WHERE toUnixTimestamp64Nano(end) <= {{until:Int64}} AND time > toDateTime({{earlier:UInt32}}, 'UTC')
        AND ({{node:String}} = '' OR node = {{node:String}})
)
GROUP BY node HAVING sum(dropped_packets) > 0
"""
# Counts only grow from `since` on.  A rule's rows come only when it has met packets, so its last one
# before the period may be old.
_RULES = f"""
SELECT node, rule, sum(packets), sum(bytes)
FROM (
    SELECT node, rule, since,
        max(over_packets) - maxIf(over_packets, NOT is_in) AS packets,
        max(over_bytes) - maxIf(over_bytes, NOT is_in) AS bytes
    FROM (
        SELECT *, toUnixTimestamp64Nano(time) > {{from:Int64}} AS is_in FROM {DATABASE}.rules
        WHERE enforced AND toUnixTimestamp64Nano(time) <= {{until_rules:Int64}}
            AND ({{node:String}} = '' OR node = {{node:String}})
    )
    GROUP BY node, rule, since
)
GROUP BY node, rule HAVING sum(packets) > 0
ORDER BY node, sum(packets) DESC
"""
# A list of tuples, as `hookline up` lets nobody use the table function `values`.
_SPANS_GIVEN = """
SELECT span.1 AS node, span.2 AS run, span.3 AS first, span.4 AS next
FROM (SELECT arrayJoin([{spans}]) AS span)
"""
_FLOWS = f"""
SELECT node, interface, toString(direction), sum(packets), sum(bytes)
FROM {DATABASE}.flows
INNER JOIN ({_SPANS_GIVEN}) AS spans USING (node, run)
WHERE seq >= spans.first AND seq < spans.next AND time > toDateTime({{{{earlier:UInt32}}}}, 'UTC')
GROUP BY node, interface, direction
"""
_DELIVERIES = f"""
SELECT node, of_run, of_kind,
    maxIf(made, NOT is_in) AS first, max(made) AS next,
    max(made_rows) - maxIf(made_rows, NOT is_in) AS rows,
    max(lost) - maxIf(lost, NOT is_in) AS lost,
    argMax(spooled, time) AS spooled, max(is_last) AS has_ended
FROM (
    SELECT *, toUnixTimestamp64Nano(time) > {{from:Int64}} AS is_in FROM {DATABASE}.deliveries
    WHERE toUnixTimestamp64Nano(time) <= {{until:Int64}} AND time > toDateTime({{earlier:UInt32}}, 'UTC')
        AND ({{node:String}} = '' OR node = {{node:String}})
)
GROUP BY node, of_run, of_kind HAVING max(is_in) AND next > first
ORDER BY node, of_run, of_kind
"""
_BATCHES = f"""
SELECT node, run, uniqExact(seq), count()
FROM {DATABASE}.{{table}}
INNER JOIN ({_SPANS_GIVEN}) AS spans USING (node, run)
WHERE seq >= spans.first AND seq < spans.next
GROUP BY node, run
"""


def stored_books(history: History, *, from_ns: int, until_ns: int, node: str) -> Books:
    """The books of all intervals that ended in the period; *node* "" for all nodes.

    Raises:
        HistoryError: ClickHouse does not answer, or has no such tables.
    """
    books = Books(from_ns, until_ns)
    bounds: dict[str, str | int] = {
        "from": from_ns,
        "until": until_ns,
        "node": node,
        "earlier": max(from_ns // 10**9 - _EARLIER_SECONDS, 0),
    }
    for name, interface, direction, *counts in history.rows(_LEDGER, bounds).rows:
        _take_ledger(books, Place(name, interface, direction), [int(count) for count in counts])
    for name, run, first, following in history.rows(_SPANS, bounds).rows:
        books.flow_spans[name, run] = Span(int(first), int(following))
    _take_flows(books, history, bounds["earlier"])
    _take_refusals(books, history, bounds)
    _take_batches(books, history, bounds)
    return books


def _take_ledger(books: Books, place: Place, counts: Sequence[int]) -> None:
    amounts = [Amount(*counts[at : at + 2]) for at in range(0, len(counts) - 1, 2)]
    at = books.at(place)
    at.interface, at.kernel, at.extra, at.rows, at.lost, at.overflow = amounts[:6]
    at.dropped, at.dropped_extra = amounts[6:8]
    at.before, at.latest, at.unread = amounts[8:]
    at.is_at_xdp = bool(counts[-1])


def _take_flows(books: Books, history: History, earlier: str | int) -> None:
    spans = [(*key, *span) for key, span in books.flow_spans.items() if len(span)]
    for listed in _in_questions(spans):
        question = _FLOWS.format(spans=listed)
        for name, interface, direction, *sums in history.rows(question, {"earlier": earlier}).rows:
            books.at(Place(name, interface, direction)).clickhouse += Amount(*map(int, sums))


def _take_refusals(books: Books, history: History, bounds: dict[str, str | int]) -> None:
    for node, *counts in history.rows(_LEDGER_REFUSALS, bounds).rows:
        ledger, before, latest = (Amount(*map(int, counts[at : at + 2])) for at in (0, 2, 4))
        books.refusals[node] = Refusals(ledger, {}, before, latest)
    # What is told of rules of an interval comes right behind its ledger.
    later = {"until_rules": int(bounds["until"]) + _RULES_LATER_NS}
    for node, rule, packets, in_bytes in history.rows(_RULES, bounds | later).rows:
        refusals = books.refusals.setdefault(node, Refusals())
        refusals.rules[rule] = Amount(int(packets), int(in_bytes))


def _take_batches(books: Books, history: History, bounds: dict[str, str | int]) -> None:
    for name, run, kind, *counts in history.rows(_DELIVERIES, bounds).rows:
        first, following, rows, lost, spooled, has_ended = map(int, counts)
        books.batches[RunAndKind(name, run, kind)] = Batches(
            Span(first, following), rows, lost, spooled, has_ended=bool(has_ended)
        )
    for kind in {key.kind for key in books.batches} & RECORD_OF_KIND.keys():
        for key, batches, rows in _stored(books, history, kind):
            books.batches[key].stored, books.batches[key].stored_rows = batches, rows


def _stored(books: Books, history: History, kind: str) -> Iterator[tuple[RunAndKind, int, int]]:
    spans = [
        (key.node, key.run, *its.span) for key, its in books.batches.items() if key.kind == kind
    ]
    for listed in _in_questions(spans):
        question = _BATCHES.format(table=RECORD_OF_KIND[kind].table, spans=listed)
        for name, run, batches, rows in history.rows(question).rows:
            yield RunAndKind(name, run, kind), int(batches), int(rows)


def _in_questions(spans: Sequence[tuple[str | int, ...]]) -> Iterator[str]:
    """Spans as SQL has them, as many at a time as fit into a statement."""
    for start in range(0, len(spans), _SPANS_A_QUESTION):
        some = spans[start : start + _SPANS_A_QUESTION]
        yield ", ".join(f"({', '.join(map(_literal, span))})" for span in some)


def _literal(value: str | int) -> str:
    if isinstance(value, int):
        return f"toUInt64({value})"  # a list's elements must be of one type, whatever they are
    # Names of nodes are anybody's choice.
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
