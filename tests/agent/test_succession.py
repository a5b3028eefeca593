# SPDX-License-Identifier: Apache-2.0
"""No packet is uncounted while agents are killed, stopped and started again.

The oracle is the interface's own counters, over the whole time.
"""

import random
import time

import pytest

from tests.lab.agents import SPOOLS, Agent
from tests.lab.compilers import keeping_in
from tests.lab.links import HERE, link
from tests.lab.published import read_published
from tests.lab.succession import KEEP, Line, assert_books_balance, events, successors
from tests.lab.traffic import ping, traffic, udp_burst
from tests.lab.waiting import wait_until

pytestmark = [pytest.mark.kernel, pytest.mark.services]


@pytest.mark.parametrize(
    "flags",
    [
        # Each hook and each buffer with room and without, tc's two with both buffers.
        (),
        ("--tc", "clsact", "--buffer", "perf"),
        ("--hook", "xdp-generic", "--flow-slots", "64"),
        ("--tc", "clsact", "--flow-slots", "64", "--ring-bytes", "4096"),
        ("--flow-slots", "64", "--ring-bytes", "8192", "--buffer", "perf"),
    ],
    ids=lambda flags: " ".join(flags) or "tcx",
)
def test_agents_that_are_killed_at_any_time_count_every_packet_once(kafka, wire, flags):
    pauses = random.Random(f"killed {flags}")
    before = wire.quiet()
    with successors(
        "--interface", wire.near.name, "--interval", "0.2", *flags, kafka=kafka
    ) as line:
        with traffic(wire):
            for _ in range(2):
                time.sleep(pauses.uniform(0.1, 0.7))
                line.latest.kill()
                time.sleep(pauses.uniform(0.0, 0.3))
                line.following()
        ping(wire)
        grown = wire.quiet() - before
        published = line.finish()

    assert_books_balance(published, grown.ingress, grown.egress)
    assert not line.latest.pins.exists()


def test_an_agent_that_is_stopped_leaves_its_programs_to_the_next(kafka, wire):
    before = wire.quiet()
    with successors("--interface", wire.near.name, kafka=kafka) as line:
        udp_burst(wire, flows=20, packets=100)
        assert line.latest.stop() == 0
        assert "the programs count on for the next agent" in line.latest.said
        udp_burst(wire, flows=20, packets=50)
        following = line.following()
        udp_burst(wire, flows=20, packets=25)
        grown = wire.quiet() - before
        published = line.finish()

    assert "goes on where an earlier agent had ended" in following.said
    assert_books_balance(published, grown.ingress, grown.egress)
    assert grown.egress[0] == 175
    assert events(published) == ["attached", "adopted", "detached"]


def test_whoever_may_attach_and_nothing_else_takes_over_too(kafka, wire, tmp_path):
    # As the unit of systemd has it.
    least = "--bounding-set=-all,+net_admin,+perfmon,+bpf"
    before = wire.quiet()
    with successors(
        "--interface", wire.near.name, kafka=kafka, run_by=("setpriv", "--inh-caps=-all", least)
    ) as line:
        udp_burst(wire, flows=20, packets=100)
        line.latest.kill()
        udp_burst(wire, flows=20, packets=50)
        line.following()
        line.latest.kill()
        # Other programs, that nobody has compiled yet.
        with keeping_in(tmp_path / "compiled"):
            line.following("--sample", "7")
        udp_burst(wire, flows=20, packets=25)
        grown = wire.quiet() - before
        published = line.finish()

    assert grown.egress[0] == 175
    assert_books_balance(published, grown.ingress, grown.egress)


def test_an_interface_that_went_while_there_was_no_agent_is_told_under_its_name(kafka, lab):
    with link() as stays, link() as goes:
        flags = ("--interface", stays.near.name, "--interface", f"{goes.near.name}*")
        before = goes.quiet()
        with successors(*flags, "--interval", "0.2", kafka=kafka) as line:
            udp_burst(goes, flows=20, packets=100)
            line.latest.kill()
            udp_burst(goes, flows=20, packets=50)
            grown = goes.quiet() - before
            HERE.run("ip", "link", "del", goes.near.name)
            line.following()
            ping(stays)
            published = line.finish()

    assert published.sums("egress", interface=goes.near.name) == grown.egress
    told = zip(published.column("interface", "interface"), events(published), strict=True)
    assert [event for name, event in told if name == goes.near.name] == ["attached", "gone"]


def test_an_interface_that_was_renamed_meanwhile_goes_on_under_its_new_name(kafka, wire):
    before = wire.quiet()
    with successors("--interface", f"{wire.near.name}*", "--interval", "0.2", kafka=kafka) as line:
        udp_burst(wire, flows=20, packets=100)
        line.latest.kill()
        HERE.run("ip", "link", "set", wire.near.name, "name", f"{wire.near.name}x")
        try:
            line.following()
            line.latest.until_it_says("interface has changed")
            udp_burst(wire, flows=20, packets=50)
            published = line.finish()
        finally:
            HERE.run("ip", "link", "set", f"{wire.near.name}x", "name", wire.near.name)
        grown = wire.quiet() - before

    assert published.sums("egress") == grown.egress
    assert published.sums("egress", interface=f"{wire.near.name}x")[0] == 50
    assert events(published) == ["attached", "adopted", "changed", "detached"]


def test_interfaces_of_other_namespaces_are_taken_over_too(kafka, wire):
    netns = wire.far.namespace.name
    flags = ("--netns", netns, "--interface", f"{netns}/*b", "--interval", "0.2")
    before = wire.quiet()
    with successors(*flags, kafka=kafka) as line:
        udp_burst(wire, flows=20, packets=100)
        line.latest.kill()
        udp_burst(wire, flows=20, packets=50)
        line.following()
        udp_burst(wire, flows=20, packets=25)
        grown = wire.quiet() - before
        published = line.finish()

    # What one end sends, the other receives.
    assert_books_balance(published, grown.egress, grown.ingress)
    assert set(published.column("flow", "interface")) == {f"{netns}/{wire.far.name}"}


def test_rows_that_wait_for_kafka_outlive_the_agents_that_made_them(kafka, wire):
    before = wire.quiet()
    with successors(
        "--interface", wire.near.name, "--interval", "0.2", kafka="127.0.0.1:9"
    ) as line:
        for _ in range(3):
            already = spooled(line)
            udp_burst(wire, flows=20, packets=100)
            wait_until(lambda: spooled(line) > already, "batches in the spool")  # noqa: B023
            line.latest.kill()
            line.following()
        grown = wire.quiet() - before
        line.latest.stop()
        last = Agent("--interface", wire.near.name, kafka=kafka, name=line.name).until_ready()
        assert last.stop() == 0
        published = read_published(kafka, line.name)

    assert_books_balance(published, grown.ingress, grown.egress)
    assert len(set(published.column("delivery", "of_run"))) == 5


def spooled(line: Line) -> int:
    return sum(path.stat().st_size for path in (SPOOLS / line.name).rglob("*.batches"))


def test_an_agent_that_is_killed_as_it_starts_leaves_nothing_that_the_next_cannot_use(kafka, wire):
    moments = random.Random("killed as it starts")
    before = wire.quiet()
    with successors("--interface", wire.near.name, "--interval", "0.2", kafka=kafka) as line:
        with traffic(wire):
            line.latest.kill()
            for _ in range(6):
                starting = Agent(*KEEP, "--interface", wire.near.name, kafka=kafka, name=line.name)
                time.sleep(moments.uniform(0.2, 2.5))
                starting.kill()
            line.following()
        grown = wire.quiet() - before
        published = line.finish()

    assert_books_balance(published, grown.ingress, grown.egress)
