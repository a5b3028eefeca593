# SPDX-License-Identifier: Apache-2.0
"""Compare the stations, and say what is missing at which.

Between the interface and the rows packets are under way while anybody looks: what the interface
has counted and the hook has not seen yet, and what the hook has seen and no row tells yet.  So these
stations may differ by what passed in the interval before the period and in its last one, and by
nothing where those were silent.  Where programs were removed after their agent had been killed,
nobody knows what the interface had counted by then.  From the rows on everything has a number, and
must be there.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from agent.points import UNKNOWN
from hookline.audit.books import Amount, Batches, Books, Place, RunAndKind, Stations

# Some drivers leave the Ethernet header out of what they count: that of the loopback always
# (drivers/net/loopback.c, Linux 6.18), and that of a veth once XDP runs there.
_ETHERNET_BYTES = 14
_LOOPBACK = "lo"


@dataclass(frozen=True, slots=True)
class Difference:
    """Packets and bytes that one station has and the next has not; negative where it has more."""

    place: Place
    between: str
    amount: Amount


@dataclass(frozen=True, slots=True)
class Missing:
    """Batches that were made and are not stored, and nobody says why."""

    key: RunAndKind
    batches: int
    rows: int


def differences(books: Books) -> list[Difference]:
    """Everything that is not accounted for."""
    return [
        Difference(place, between, amount)
        for place, at in sorted(books.stations.items())
        for between, amount in _of_one(place, at, is_all=books.from_ns == 0)
        if amount != Amount()
    ]


def unbooked_refusals(books: Books) -> dict[str, Amount]:
    """By node, what its ledger calls refused and none of its rules has counted, or the reverse."""
    found = {
        node: _beyond(one.ledger - sum(one.rules.values(), Amount()), one.before + one.latest)
        for node, one in sorted(books.refusals.items())
    }
    return {node: amount for node, amount in found.items() if amount != Amount()}


def _of_one(place: Place, at: Stations, *, is_all: bool) -> Iterator[tuple[str, Amount]]:
    if place.interface != UNKNOWN:
        is_loopback = place.interface.rpartition("/")[2] == _LOOPBACK
        between = _interface_difference(
            at,
            has_ethernet=not (is_loopback or at.is_at_xdp),
            is_egress=place.direction == "egress",
        )
        yield "interface and kernel", _beyond(between, at.before + at.latest + at.unread)
    yield "kernel and rows", _beyond(at.kernel - at.rows, at.before + at.latest)
    if at.kafka is not None:
        yield "rows and kafka", _unexplained(at.rows - at.kafka, at.lost, is_all=is_all)
    yield "rows and clickhouse", _unexplained(at.rows - at.clickhouse, at.lost, is_all=is_all)


def _interface_difference(at: Stations, *, has_ethernet: bool, is_egress: bool) -> Amount:
    """By the way of counting of this interface, whichever it is."""
    seen, extra = at.kernel, at.extra
    if is_egress:
        # It counts what goes out behind the hook, where nothing that was refused comes by.
        seen, extra = seen - at.dropped, extra - at.dropped_extra
    single = seen - extra
    packets = min((at.interface.packets - one.packets for one in (seen, single)), key=abs)
    lengths = [seen.bytes, single.bytes]
    if not has_ethernet:
        lengths += [one.bytes - _ETHERNET_BYTES * one.packets for one in (seen, single)]
    return Amount(packets, min((at.interface.bytes - one for one in lengths), key=abs))


def _beyond(difference: Amount, edges: Amount) -> Amount:
    """The difference where it is more than what is at the edges, which may be on either side."""
    return Amount(
        difference.packets if abs(difference.packets) > edges.packets else 0,
        difference.bytes if abs(difference.bytes) > edges.bytes else 0,
    )


def _unexplained(missing: Amount, lost: Amount, *, is_all: bool) -> Amount:
    """What is missing and was not given up.

    A part of what was given up may be of before the period, unless that is all there is.
    """
    if is_all:
        return missing - lost
    return Amount(_more_than(missing.packets, lost.packets), _more_than(missing.bytes, lost.bytes))


def _more_than(missing: int, lost: int) -> int:
    return min(missing, 0) or max(missing - lost, 0)


def missing_batches(books: Books) -> list[Missing]:
    """Batches that should be stored and are not, or whose rows are not all there, or too many."""
    found = []
    for key, batches in sorted(books.batches.items()):
        missing, rows = _missing(batches)
        if missing or rows:
            found.append(Missing(key, missing, rows))
    return found


def _missing(batches: Batches) -> tuple[int, int]:
    expected = len(batches.span) - batches.lost - batches.spooled
    missing = expected - batches.stored
    # How many rows those have that were lost or wait is not known here.
    has_all = not batches.lost and not batches.spooled and batches.made_rows
    return max(missing, 0), batches.made_rows - batches.stored_rows if has_all else 0


def is_balanced(books: Books) -> bool:
    """Whether everything is accounted for."""
    return not (differences(books) or missing_batches(books) or unbooked_refusals(books))


def completeness(books: Books) -> float:
    """Which part of all packets that the hooks saw is in rows; 1 where they saw none."""
    seen = sum(at.kernel.packets for at in books.stations.values())
    stored = sum(at.clickhouse.packets for at in books.stations.values())
    return min(stored / seen, 1.0) if seen else 1.0
