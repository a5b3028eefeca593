# SPDX-License-Identifier: Apache-2.0
"""The books: each interval gets the growth of every counter, once."""

import numpy as np

from agent.interfaces import Interface, LinkCounters
from agent.ledger import Ledger
from agent.points import Pair, number_points
from schemas.dtype import dtype_from_layout
from schemas.ledger import HOOK_TOTALS, HOOKS, LEDGER

ETH0 = Interface("eth0", 4, is_up=True, link_bytes=14, is_hardware=True)
PAIR = Pair(1, 2)
NONE = np.zeros(3, np.uint64)


def a_ledger(links: LinkCounters | None = None) -> Ledger:
    ledger = Ledger(number_points([ETH0]), started_ns=100)
    ledger.open(PAIR, "xdp", "tcx", 100)
    ledger.note_link(PAIR, links or LinkCounters())
    return ledger


def totals(cpus: int = 2, **counters: tuple[int, ...]) -> np.ndarray:
    """Totals of every CPU; each counter is given by hook point, the same on each CPU."""
    made = np.zeros((cpus, 3), dtype_from_layout(HOOK_TOTALS))
    for name, values in counters.items():
        made[name][:, : len(values)] = values
    return made


def counts(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.uint64)


def test_an_interval_gets_the_growth_of_all_cpus():
    ledger = a_ledger()
    ledger.close(totals(seen_packets=(0, 5, 7)), 200)
    columns = ledger.close(totals(seen_packets=(0, 6, 10)), 300)

    assert columns["seen_packets"].tolist() == [2, 6]
    assert columns["time"].tolist() == [200, 200]
    assert columns["end"].tolist() == [300, 300]
    assert list(columns) == [field.name for field in LEDGER.fields]


def test_the_hook_of_each_direction_is_told():
    columns = a_ledger().close(totals(), 200)

    assert columns["hook"].tolist() == [HOOKS["xdp"], HOOKS["tcx"]]


def test_point_zero_has_a_row_only_when_it_met_something():
    ledger = a_ledger()

    assert len(ledger.close(totals(), 200)["time"]) == 2
    assert len(ledger.close(totals(seen_packets=(1,)), 300)["time"]) == 3
    assert len(ledger.close(totals(seen_packets=(1,)), 400)["time"]) == 2


def test_rows_are_booked_by_their_hook_point_and_interval():
    ledger = a_ledger()
    ledger.book_rows(np.array([1, 2, 1]), counts(1, 2, 3), counts(10, 20, 30))
    first = ledger.close(totals(), 200)
    second = ledger.close(totals(), 300)

    assert first["flow_packets"].tolist() == [4, 2]
    assert first["flow_bytes"].tolist() == [40, 20]
    assert second["flow_packets"].tolist() == [0, 0]


def test_the_links_own_counters_are_set_beside():
    ledger = a_ledger(LinkCounters(10, 1000, 20, 2000))
    ledger.note_link(PAIR, LinkCounters(15, 1600, 21, 2060))
    columns = ledger.close(totals(), 200)

    assert columns["link_packets"].tolist() == [5, 1]
    assert columns["link_bytes"].tolist() == [600, 60]


def test_a_link_that_was_made_anew_does_not_count_backwards():
    ledger = a_ledger(LinkCounters(10, 1000, 20, 2000))
    ledger.note_link(PAIR, LinkCounters(1, 60, 0, 0))
    columns = ledger.close(totals(), 200)

    assert columns["link_packets"].tolist() == [0, 0]


def test_an_interface_whose_counters_come_late_began_with_nothing():
    seen = LinkCounters(5, 300, 7, 420)

    assert LinkCounters(5, 230, 9, 500) - seen == LinkCounters(0, 0, 2, 80)
    assert seen + seen - seen == seen


def test_what_overflowed_is_reported_less_what_was_reported_of_it():
    ledger = a_ledger()
    reading = totals(cpus=1, overflow_packets=(0, 9, 4), overflow_bytes=(0, 900, 400))
    point, packets, in_bytes = ledger.take_overflow(reading, (counts(0, 2, 0), counts(0, 200, 0)))

    assert point.tolist() == [1, 2]
    assert packets.tolist() == [7, 4]
    assert in_bytes.tolist() == [700, 400]


def test_a_loss_that_is_known_before_the_kernels_part_is_read_waits_for_it():
    ledger = a_ledger()
    early = ledger.take_overflow(totals(cpus=1), (counts(0, 5, 0), counts(0, 500, 0)))
    reading = totals(cpus=1, overflow_packets=(0, 6), overflow_bytes=(0, 600))
    point, packets, _ = ledger.take_overflow(reading, (NONE, NONE))

    assert len(early[0]) == 0
    assert (point.tolist(), packets.tolist()) == ([1], [1])


def test_while_a_loss_is_not_known_nothing_is_reported_of_it():
    ledger = a_ledger()
    reading = totals(cpus=1, overflow_packets=(0, 6), overflow_bytes=(0, 600))

    assert len(ledger.take_overflow(reading, None)[0]) == 0
    ledger.close(reading, 200)
    _, packets, _ = ledger.take_overflow(reading, (counts(0, 5, 0), counts(0, 500, 0)))
    assert packets.tolist() == [1]


def test_points_that_were_given_back_tell_the_rest_under_their_name_and_then_are_silent():
    ledger = a_ledger()
    ledger.close(totals(seen_packets=(0, 5, 7)), 200)
    ledger.end_link(PAIR, LinkCounters(4, 400, 0, 0))
    ledger.points.give_back(PAIR)
    rest = ledger.close(totals(seen_packets=(0, 6, 7)), 300)
    silent = ledger.close(totals(seen_packets=(0, 6, 7)), 400)

    assert rest["seen_packets"].tolist() == [2]
    assert rest["link_packets"].tolist() == [4]
    assert rest["interface"].categories[rest["interface"].codes[0]] == "eth0"
    assert len(silent["time"]) == 0


def test_an_interface_begins_at_zero_and_in_its_own_time_at_points_that_another_had():
    ledger = a_ledger()
    ledger.close(totals(seen_packets=(0, 5, 7)), 200)
    ledger.end_link(PAIR, LinkCounters())
    ledger.points.give_back(PAIR)
    for _ in range(2):
        ledger.points.settle()
    assert ledger.points.take("eth1") == PAIR
    ledger.open(PAIR, "tcx", "clsact", 250)
    columns = ledger.close(totals(seen_packets=(0, 6, 7)), 300)

    assert columns["time"].tolist() == [250, 250]
    assert columns["hook"].tolist() == [HOOKS["tcx"], HOOKS["clsact"]]
    assert columns["seen_packets"].tolist() == [2, 0]
    assert ledger.counted()["seen_packets"] == {("eth1", "ingress"): 2, ("eth1", "egress"): 0}
