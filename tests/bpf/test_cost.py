# SPDX-License-Identifier: Apache-2.0
"""A packet does not become dearer unnoticed: one helper called more is a third of what it costs.

Instructions and calls are counted, and are the same everywhere.  Times are multiples of parsing the
same packet (python -m tests.bpf.costs 10).  On two CPUs with two other busy processes an existing flow
took 1.08 to 1.35 times that, one of 64,000 flows 3.0 to 4.4 times, a new one 2.9 to 5.6 times; with
one bpf_ktime_get_ns() more an existing flow took 1.87 to 2.05 times.  Each bound is beyond what was
seen, and those of existing flows are below what they take with that.
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

MOST_TIMES = {EXISTING_XDP: 1.75, EXISTING_TC: 1.75, MANY: 7.0, NEW: 7.0}
MOST_INSTRUCTIONS = dict.fromkeys(HOOKS, 55_000)
# The clock is read by the first packet of a flow, on either way, the first of an interval, and one that
# is refused; the last one's headers are read, too.  On either way a flow may be evicted.
MOST_CALLS = {
    "tail_call": 2,
    "ktime_get_ns": 4,
    "ringbuf_reserve": 3,
    "ringbuf_submit": 3,
    "probe_read_kernel": 1,
    "skb_load_bytes": 1,
}
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
