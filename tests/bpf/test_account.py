# SPDX-License-Identifier: Apache-2.0
"""The kernel's flow cache together with the agent's reading of it: nothing is miscounted."""

import mmap
import os

import numpy as np
import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether

from agent import libbpf
from agent.buffers import take
from agent.clock import KernelClock
from agent.flowcache import Counted, FlowCache
from agent.surroundings import copies
from schemas.dtype import dtype_from_layout
from schemas.flow import FLOW_SLOT
from tests.bpf.programs import POINT, Programs, loaded
from tests.lab.waiting import wait_until

pytestmark = pytest.mark.kernel

SYN, ACK, FIN = 2, 16, 1


@pytest.fixture
def programs(lab):
    with loaded() as programs:
        yield programs


def udp(flow: int, payload_bytes: int = 18) -> bytes:
    return bytes(
        Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
        / IP(src="198.18.0.1", dst="198.18.0.2")
        / UDP(sport=1024 + flow % 60000, dport=53 + flow // 60000)
        / bytes(payload_bytes)
    )


def tcp(flags: int, payload_bytes: int = 0) -> bytes:
    return bytes(
        Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
        / IP(src="198.18.0.1", dst="198.18.0.2")
        / TCP(sport=1024, dport=80, flags=flags)
        / bytes(payload_bytes)
    )


def cache_of(programs: Programs) -> FlowCache:
    return FlowCache(programs.maps.slots, programs.maps.origins, programs.maps.contexts)


def sums(*parts: Counted) -> tuple[int, int]:
    return (
        sum(int(part.packets.sum()) for part in parts),
        sum(int(part.bytes.sum()) for part in parts),
    )


def until_next_interval(programs: Programs, clock: KernelClock) -> None:
    """Return once the interval that the clock announced has begun."""
    begins = int(programs.maps.clock["interval_jiffies"][0])
    wait_until(lambda: clock.anchor().jiffies % (1 << 32) >= begins, "the next tick")


def test_snapshots_add_up_to_what_was_sent(programs):
    cache = cache_of(programs)
    programs.run(udp(1), repeat=1000)
    programs.run(udp(2, 100), repeat=10)
    first = cache.snapshot()
    programs.run(udp(1), repeat=500)
    second = cache.snapshot()

    assert sums(first) == (1010, 1000 * 60 + 10 * 142)
    assert sums(second) == (500, 500 * 60)
    assert len(cache.snapshot()) == 0


def test_evicted_flows_are_settled_to_the_packet(lab):
    with loaded(slots_per_cpu=16) as programs:
        cache = cache_of(programs)
        parts = []
        for number in range(2000):
            programs.run(udp(number % 97), repeat=1 + number % 3)
            if number % 50 == 0:
                parts.append(cache.snapshot())
            if number % 30 == 0:
                parts.append(cache.settle(take(programs.evictions)))
        parts += [cache.snapshot(), cache.settle(take(programs.evictions))]
        lost, _ = cache.take_lost(4)

        assert sums(*parts)[0] == programs.total("seen_packets") == 1 * 667 + 2 * 667 + 3 * 666
        assert sums(*parts)[1] == programs.total("seen_bytes")
        assert programs.total("evictions") > 1000
        assert lost.sum() == programs.total("overflows") == 0


def test_flows_that_take_half_of_the_slots_find_room(programs):
    frame = bytearray(udp(1))
    sources = np.random.default_rng(1).integers(1 << 32, size=programs.plan.slots_per_cpu // 2)
    for source in np.tile(sources, 2).tolist():
        frame[26:30] = source.to_bytes(4, "big")
        programs.run(bytes(frame))

    # With one set for each flow, every seventh packet would evict another's.
    assert programs.total("evictions") < len(sources) // 50
    assert programs.total("new_flows") - programs.total("evictions") == len(programs.live_slots())


@pytest.mark.parametrize("buffer", ["ring", "perf"])
def test_flows_that_find_the_event_buffer_full_are_kept_as_totals(lab, buffer):
    with loaded(slots_per_cpu=16, ring_bytes=4096, buffer=buffer) as programs:
        cache = cache_of(programs)
        parts, lost = [], 0
        for number in range(2000):
            programs.run(udp(number % 97))
            if number % 500 == 250:
                parts += [cache.snapshot(), cache.settle(take(programs.evictions))]
                lost += int(cache.take_lost(4)[0].sum())
        parts += [cache.snapshot(), cache.settle(take(programs.evictions))]
        lost += int(cache.take_lost(4)[0].sum())

        overflowed = programs.total("overflow_packets")
        assert programs.total("overflows") > 100
        assert sums(*parts)[0] + overflowed - lost == programs.total("seen_packets") == 2000


def test_a_flow_of_four_billion_packets_is_counted_on(programs):
    cache = cache_of(programs)
    programs.run(udp(1))
    cache.snapshot()
    set_packets(programs, udp_slot(programs), 0xFFFFFFFE)
    cache._packets[udp_slot(programs)] = 0xFFFFFFFE
    programs.run(udp(1), repeat=5)

    assert sums(cache.snapshot()) == (5, 300)
    assert programs.total("new_flows") == 1


def udp_slot(programs: Programs) -> int:
    (index,) = np.flatnonzero(programs.maps.slots["bytes"])
    return int(index)


def set_packets(programs: Programs, index: int, packets: int) -> None:
    with libbpf.opened(programs.plan.pins.map("flow_slots")) as fd:
        memory = mmap.mmap(fd, len(programs.maps.slots) * FLOW_SLOT.size_bytes)
    np.frombuffer(memory, dtype_from_layout(FLOW_SLOT))["packets"][index] = packets


def test_flags_and_extremes_of_a_flow_that_never_rests_are_those_of_its_interval(programs):
    cache, clock = cache_of(programs), KernelClock(programs.plan.pins, programs.maps.clock)
    until_next_interval(programs, clock)
    programs.run(tcp(SYN, payload_bytes=1000))
    programs.run(tcp(ACK))
    first = cache.snapshot()
    clock.begin_interval()
    # In the tick of the snapshot, before the next interval begins: put off, for whoever is slow.
    programs.maps.clock["interval_jiffies"][0] += 100
    programs.run(tcp(ACK | FIN))
    began_ns = clock.anchor().monotonic_ns
    until_next_interval(programs, clock)
    programs.run(tcp(ACK, payload_bytes=10))
    second = cache.snapshot()
    clock.begin_interval()
    until_next_interval(programs, clock)
    programs.run(tcp(ACK))
    third = cache.snapshot()

    assert first.slots["tcp_flags"].tolist() == [SYN | ACK]
    assert second.slots["tcp_flags"].tolist() == [ACK | FIN]
    assert third.slots["tcp_flags"].tolist() == [ACK]
    assert [int(part.slots["max_bytes"][0]) for part in (first, second, third)] == [1054, 64, 54]
    assert [int(part.slots["min_bytes"][0]) for part in (first, second, third)] == [54, 64, 54]
    assert int(second.first_ns[0]) > began_ns
    assert sums(first, second, third) == (5, 1054 + 54 + 54 + 64 + 54)


def test_samples_are_one_in_so_many_and_first_packets_all(lab):
    with loaded(sample_one_in=100, sample_first=True, ring_bytes=1 << 22) as programs:
        for flow in range(50):
            programs.run(udp(flow), repeat=2000)
        events = take(programs.packets)
        firsts, sampled = (int((events["reason"] == reason).sum()) for reason in (2, 1))

        assert firsts == 50
        # 100,000 packets, each gap uniform from 1 to 199: 1000 samples, standard deviation 18.
        assert 900 < sampled < 1100
        assert programs.total("samples") == len(events)
        assert programs.total("lost_samples") == 0


def test_packets_of_an_unknown_interface_are_booked_apart(programs):
    with libbpf.opened(programs.plan.pins.map("interfaces")) as fd:
        libbpf.update_element(fd, 1, bytes(16))
    programs.run(udp(1), repeat=7)

    assert programs.total("seen_packets", point=0) == 7
    assert programs.total("seen_packets", point=POINT) == 0


def test_counts_stay_exact_while_another_cpu_counts_on(programs):
    """The race itself: snapshots as fast as they go beside a CPU that only counts."""
    if len(os.sched_getaffinity(0)) and os.cpu_count() < 2:
        pytest.skip("needs two CPUs")
    cache = cache_of(programs)
    child = os.fork()
    if child == 0:
        os.sched_setaffinity(0, {os.cpu_count() - 1})
        for number in range(400):
            programs.run(udp(number % 7), repeat=5000)
        os._exit(0)
    parts = []
    while os.waitpid(child, os.WNOHANG)[0] == 0:
        parts.append(cache.snapshot())
    parts.append(cache.snapshot())

    assert sums(*parts) == (2_000_000, 2_000_000 * 60)
    assert len(parts) > 10


def vxlan(vni: int, flow: int = 1) -> bytes:
    return bytes(
        Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
        / IP(src="198.18.0.1", dst="198.18.0.2")
        / UDP(sport=49152, dport=4789)
        / (b"\x08\0\0\0" + vni.to_bytes(3, "big") + b"\0")
        / udp(flow)
    )


def test_copies_of_packets_in_tunnels_are_in_no_total_of_what_overflowed(lab):
    with loaded(slots_per_cpu=16, ring_bytes=4096, tunnels="both") as programs:
        cache = cache_of(programs)
        counted = lost = 0
        for number in range(2000):
            programs.run(vxlan(7, number % 97))
            if number % 500 == 250:
                counted += outer_packets(programs, cache)
                lost += int(cache.take_lost(4)[0].sum())
        counted += outer_packets(programs, cache)
        lost += int(cache.take_lost(4)[0].sum())

        assert programs.total("overflows") > 100
        assert counted + programs.total("overflow_packets") - lost == 2000
        assert programs.total("seen_packets") == programs.total("tunnel_packets") == 2000


def outer_packets(programs: Programs, cache: FlowCache) -> int:
    parts = [cache.snapshot(), cache.settle(take(programs.evictions))]
    return sum(
        int(part.packets[~copies(part.slots["lane"], programs.maps.contexts)].sum())
        for part in parts
    )


def test_tunnels_that_find_no_room_are_counted_as_what_they_are_outside(programs):
    cache = cache_of(programs)
    count = programs.plan.contexts_per_cpu + 1000
    frame = bytearray(vxlan(0))
    for vni in range(count):
        frame[46:49] = vni.to_bytes(3, "big")
        programs.run(bytes(frame))
    snapshot = cache.snapshot()
    is_outer = snapshot.slots["dst_port_be"] == int(np.uint16(4789).byteswap())

    overflowed = programs.total("context_overflow_packets")
    assert 1000 <= overflowed == int(snapshot.packets[is_outer].sum())
    assert sums(snapshot, cache.settle(take(programs.evictions)))[0] == count
