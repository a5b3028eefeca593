# SPDX-License-Identifier: Apache-2.0
"""A packet does not become dearer unnoticed: one helper called more is a third of what it costs.

Instructions and calls are counted, and are the same everywhere.  Times are multiples of parsing the
same packet.  In 30 measurements (python -m tests.bpf.costs 30) on two CPUs with a load of 2 to 20 an
existing flow took 1.4 to 1.9 times that, one of 64,000 flows 4.6 to 6.2 times, a new one 5.2 to 7.5
times; with one bpf_ktime_get_ns() more an existing flow took 2.15 to 2.6 times.  Each bound is beyond
what was ever seen, and those of existing flows are below what they take with that.
"""

from collections import Counter
from collections.abc import Iterator

import pytest

from bench.programs import instructions_verified
from tests.bpf import costs
from tests.bpf.costs import EXISTING_TC, EXISTING_XDP, HOOKS, MANY, NEW, Costs

pytestmark = pytest.mark.kernel
# bcc tells its callers to pass bytes, and itself does not.
in_this_process = pytest.mark.filterwarnings("ignore:not a bytes object")

MOST_TIMES = {EXISTING_XDP: 2.0, EXISTING_TC: 2.05, MANY: 7.0, NEW: 9.0}
MOST_INSTRUCTIONS = {"hook_xdp": 4_000, "hook_ingress": 4_600, "hook_egress": 4_600}
# The clock is read by the first packet of a flow and the first of an interval.
MOST_CALLS = {"tail_call": 2, "ktime_get_ns": 2, "ringbuf_reserve": 1, "ringbuf_submit": 1}
# Whatever else runs here may spoil a measurement, and a regression spoils all.
TRIES = 4


@pytest.fixture(scope="module")
def measured(lab: None) -> Iterator[Costs]:
    with costs.costs() as found:
        yield found


@in_this_process
@pytest.mark.parametrize("what", MOST_TIMES)
def test_a_packet_takes_no_more_than_so_many_times_its_parsing(measured, what):
    found = []
    while len(found) < TRIES and (not found or found[-1] > MOST_TIMES[what]):
        found.append(measured.of(what))

    assert min(found) <= MOST_TIMES[what], found


@pytest.mark.parametrize("hook", HOOKS)
def test_the_verifier_walks_through_no_more_than_it_did(measured, hook):
    assert instructions_verified(measured.loaded.fd(hook)) <= MOST_INSTRUCTIONS[hook]


@pytest.mark.parametrize("hook", HOOKS)
def test_no_helper_is_called_more_often_than_it_was(measured, hook):
    more = costs.calls(measured.loaded, hook) - Counter(MOST_CALLS)

    assert not more
